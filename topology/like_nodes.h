#pragma once

#include <optional>

#include "topology/planner.h"

namespace skein {

// The cluster as plans are made on it where too many nodes differ: a replica is worked out once for nodes alike, so
// free memory and rates of NICs are rounded down, in steps as fine as leave few kinds of nodes. Nothing is rounded up:
// what is planned on it holds on the cluster itself. nullopt: few kinds of nodes differ.
std::optional<Cluster> with_like_nodes(const PlanRequest& request);

}  // namespace skein
