#pragma once

#include <map>
#include <utility>
#include <vector>

#include "topology/search.h"

namespace skein {

// The steps of planning, with and without replicas that stay where they are.

// kInvalidArgument, kResourceExhausted: as plan_placement().
Status check_request(const PlanRequest& request);

// A book for each model and whether its groups may go over PCIe; both share what that does not change. Single-owner.
class Books {
 public:
  explicit Books(const PlanRequest& request) : request_(request) {}
  ShapeBook& of(int model, const Relaxed& rules);

 private:
  const PlanRequest& request_;
  std::map<std::pair<int, bool>, ShapeBook> books_;
};

PlacedReplica placed(const PlanRequest& request, const Shape& shape, int model, std::vector<DeviceId> devices);

// Whether the loads hold, or each model has a replica where no load is given, with `kept` where they are.
bool holds_beside(const PlanRequest& request, const std::vector<PlacedReplica>& kept, Books* books);

// The plan so, `kept` first; explained.
Result<PlacementPlan> plan_beside(const PlanRequest& request, const std::vector<PlacedReplica>& kept, Books* books);

}  // namespace skein
