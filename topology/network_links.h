#pragma once

#include <vector>

#include "topology/cluster.h"

namespace skein {

// Two devices on different nodes that stand for all whose way the cost model does not tell from theirs.
struct NetworkLink {
  DeviceId from;
  DeviceId to;
  Path path;
};

// One for each kind of sender and way between nodes (as_fast()): within racks and between them, over one rail and the
// spine, by NIC. Of the devices that a backend runs on, and that a replica may span; a node of cores is its first one.
std::vector<NetworkLink> links_between_nodes(const Cluster& cluster);

}  // namespace skein
