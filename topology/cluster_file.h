#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"
#include "topology/cluster.h"

// The one way in which hardware is written down: cluster files (configs/clusters/), what discovery prints, what agents
// report. configs/clusters/README.md describes the settings.

namespace skein {

// A validated cluster whose devices know their NICs. kInvalidArgument names the line and the remedy.
Result<Cluster> parse_cluster(std::string_view yaml, int nodes_max = kNodesMax);
Result<Cluster> read_cluster_file(const std::string& path);

// What parse_cluster() reads, as JSON (which is YAML, too). Nodes that differ in name and rack only share a template.
Json to_json(const Cluster& cluster);
std::string to_yaml(const Cluster& cluster);
Json body_json(const Cluster& cluster, const Node& node);  // what a node has, besides its name and rack

}  // namespace skein
