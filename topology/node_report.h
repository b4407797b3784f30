#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/network.h"
#include "base/status.h"
#include "topology/cluster.h"
#include "topology/discovery.h"

// What the agent of a node says of its hardware, and the cluster that the coordinator makes of what agents say.

namespace skein {

inline constexpr size_t kNodeReportBytesMax = 256 << 10;

struct NodeReport {
  std::optional<Cluster> cluster;     // of one node; none: it cannot be described, and the findings say why
  std::vector<std::string> findings;  // what the operator should know
};

// Of this machine, called `name`; the NICs have `interface`, by which others reach it.
NodeReport report_node(const std::string& name, const Interface& interface, const DiscoveryRoots& roots = {});

// As `skein topology --format json` prints it; the first 256 findings, and at most kNodeReportBytesMax.
std::string to_text(const NodeReport& report);
// kInvalidArgument: no report, one that is too large, or of another node than `name`.
Result<NodeReport> parse_node_report(std::string_view text, const std::string& name);

// What a node said `now`, with what was free `before` ranks came that hold some of it: to a plan their devices are
// theirs. Both are texts of reports.
std::string with_free_of(const std::string& before, const std::string& now, const std::string& name);

// What changes while a node runs.
struct NodeUse {
  int64_t memory_free = 0;               // of the host; 0: not known
  std::vector<int64_t> gpu_memory_free;  // in the driver's order; none, or 0: not known
  std::vector<int> held;                 // devices on which ranks are, as places count them
};

struct ReportedNode {
  const Cluster* hardware = nullptr;  // of one node
  std::string network;                // of the address by which others reach it: "10.0.0.0/24"
  NodeUse use;
};

// The nodes as one cluster, which is valid. Their NICs join them; nodes of different networks are in different racks.
// A kind of device that nodes describe differently has the least of each figure, of NVLinks the most. Free memory is
// rounded down to a 64th of all of it, and PCI addresses are left out, so that nodes that are alike stay alike to the
// planner and in files. kUnavailable: there are none. kInvalidArgument: one is named twice, and the like.
Result<Cluster> join_nodes(const std::vector<ReportedNode>& nodes);

}  // namespace skein
