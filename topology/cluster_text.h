#pragma once

#include <string>

#include "topology/cluster.h"

namespace skein {

// The cluster for people at a terminal: what there is, a tree of each type of node, and the links between its devices
// and between nodes.
std::string describe(const Cluster& cluster);

}  // namespace skein
