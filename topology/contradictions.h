#pragma once

#include <string>
#include <vector>

#include "topology/cluster.h"

namespace skein {

// What is odd about a node by itself, one sentence each: links that are down, NVLink missing between GPUs that should
// have it, traffic that crosses sockets to its NIC, a network over which NCCL would use TCP without saying so.
// Requires: assign_nics() has run.
std::vector<std::string> doubts(const Cluster& cluster, int node);

// Where what was found on a machine (a cluster of one node) contradicts what a file says of node `node`.
std::vector<std::string> differences(const Cluster& described, int node, const Cluster& found);

// The node of that name, or -1.
int find_node(const Cluster& cluster, const std::string& name);

}  // namespace skein
