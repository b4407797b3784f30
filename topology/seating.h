#pragma once

#include "topology/packing.h"

namespace skein {

// The devices of each replica, by world rank, in the packing's order. Replicas that could as well run in another domain
// are spread over racks, then nodes, and away from those of `kept`. Those of several domains come first, and get the
// devices next to NICs.
std::vector<std::vector<DeviceId>> seat(const Cluster& cluster, const Packing& packing,
                                        const std::vector<PlacedReplica>& kept);

}  // namespace skein
