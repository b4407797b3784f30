#pragma once

#include <vector>

#include "topology/packing.h"

namespace skein {

// What is looked for, and where: of one model, beside replicas that stay where they are.
struct Search {
  const PlanRequest& request;
  int model;
  PackingGoal goal;                        // of all its replicas
  std::vector<DeviceId> taken = {};        // by other models
  std::vector<PlacedReplica> kept = {};    // the model's own that stay

  const ModelDemand& demand() const { return request.models[static_cast<size_t>(model)]; }
};

// A replica on those devices, by world rank, as the book sees it; with these layers, none: the best ones. nullptr: the
// devices may not be used together, or as ShapeBook::find().
const Shape* shape_on(const PlanRequest& request, const std::vector<Domain>& all, ShapeBook& book, int tp,
                      const std::vector<DeviceId>& devices, const std::vector<int>& layers = {});

// A replica that is there already, as the book sees it. nullptr: its devices may not be used together now, it is not of
// the degrees that are asked for, its layers are not the model's, the model does not fit, or the service level does not
// hold even for a lone request.
const Shape* shape_of(const PlanRequest& request, const std::vector<Domain>& all, ShapeBook& book,
                      const PlacedReplica& replica);

// All domains that a replica which is there may lie in.
std::vector<Domain> domains_of_placed(const PlanRequest& request);

std::vector<DeviceId> devices_of(const std::vector<PlacedReplica>& replicas);

// The best that fits beside what is taken and kept; without replicas where those that are kept reach the goal's rate.
Packing pack_beside(const Search& search, const Relaxed& rules, ShapeBook& book);

// The packing's replicas on their devices, with what they do there: of those that compete for the devices beside a NIC
// some do less than they were packed for. Left out are those that do not hold the service level there, or with the
// objective kLatency are slower than all that were packed. They name no domains.
Packing seated(const Search& search, const Packing& packing, ShapeBook& book);

// pack_beside(), seated; where that is less than what was packed, once more with what is left, and so on.
Packing place_beside(Search search, const Relaxed& rules, ShapeBook& book);

// Placed replicas and those that stay, these last, for the figures of both together.
Packing with_kept(const Search& search, Packing packing, ShapeBook& book);

}  // namespace skein
