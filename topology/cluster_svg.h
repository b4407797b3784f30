#pragma once

#include <string>

#include "topology/cluster.h"

namespace skein {

// A picture of the cluster: each type of node with its sockets, devices, NVLink domains and NICs, then who sits in
// which rack.
std::string to_svg(const Cluster& cluster);

}  // namespace skein
