#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "topology/planner.h"

namespace skein {

// What steps of placed replicas should take, to be held against what they do take. Immutable.
class Forecast {
 public:
  // `request` must outlive this object.
  Forecast(const PlanRequest& request, const std::vector<PlacedReplica>& replicas);
  ~Forecast();

  // Microseconds between the ends of steps of that load while `lanes` of them, on average, are in flight; with one
  // stage there is one. nullopt: nobody measured that replica's devices.
  std::optional<double> step_us(size_t replica, const StepLoad& load, double lanes) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace skein
