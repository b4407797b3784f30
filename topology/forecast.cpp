#include "topology/forecast.h"

#include <algorithm>
#include <map>

#include "topology/shapes.h"

namespace skein {

struct Forecast::State {
  std::map<int, ShapeBook> books;  // by model; costs point into them
  std::vector<std::optional<ReplicaCost>> costs;
};

Forecast::Forecast(const PlanRequest& request, const std::vector<PlacedReplica>& replicas)
    : state_(std::make_unique<State>()) {
  for (const PlacedReplica& replica : replicas) {
    ShapeBook& book = state_->books.try_emplace(replica.model, request, replica.model, Relaxed{}).first->second;
    state_->costs.push_back(book.cost_of(replica));
  }
}

Forecast::~Forecast() = default;

std::optional<double> Forecast::step_us(size_t replica, const StepLoad& load, double lanes) const {
  const std::optional<ReplicaCost>& cost = state_->costs[replica];
  if (!cost) return std::nullopt;
  const double in_flight = std::clamp(lanes, 1.0, static_cast<double>(cost->stages()));
  // A lane's turn takes the longer of all stages and of all lanes on the slowest one.
  const int whole = static_cast<int>(in_flight);
  const double part = in_flight - whole;
  const double turn = cost->step_us(load, whole);
  return (part == 0 ? turn : turn + part * (cost->step_us(load, whole + 1) - turn)) / in_flight;
}

}  // namespace skein
