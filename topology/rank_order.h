#pragma once

#include <optional>
#include <vector>

#include "topology/shapes.h"

namespace skein {

// Which devices become which ranks of a replica.

// Domains cut into parts whose devices nothing tells apart, neither in what they are nor in their ways to others; those
// beside a NIC first. nullopt: all parts together have more than `states_max` states (any counts out of each).
std::optional<std::vector<Domain>> cut_into_alike(const Cluster& cluster, const std::vector<Domain>& domains,
                                                  int64_t states_max);

// Puts the devices of a stage into the order of the ranks `before` that hand over to them: on the same rails where that
// can be, then by rate.
void order_ranks(const Cluster& cluster, const std::vector<DeviceId>& before, std::vector<DeviceId>* stage);

// The ranks of stages that lie in `runs`, each taken out of the run's pool of free devices. Where a pipeline goes from
// one pool to another, the devices with the fastest way there do it; in between, those of a socket are neighbours.
std::vector<DeviceId> take_ranks(const Cluster& cluster, std::vector<std::vector<DeviceId>>* pools, int tp,
                                 const std::vector<StageRun>& runs);

}  // namespace skein
