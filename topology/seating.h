#pragma once

#include <functional>

#include "topology/packing.h"

namespace skein {

// Whether that replica of the packing will do on those devices, by world rank.
using Serves = std::function<bool(size_t replica, const std::vector<DeviceId>& devices)>;

// The devices of each replica, by world rank, in the packing's order; {}: it does not serve on those that are left when
// its turn comes. Replicas that could as well run in another domain are spread over racks, then nodes, and away from
// those of `kept`. Those of several domains come first, and get the devices next to NICs.
std::vector<std::vector<DeviceId>> seat(const Cluster& cluster, const Packing& packing,
                                        const std::vector<PlacedReplica>& kept, const Serves& serves);

}  // namespace skein
