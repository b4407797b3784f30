#pragma once

#include <vector>

#include "topology/search.h"

namespace skein {

// Why a plan is as it is.

// Replicas of those shapes, sharing the load by what they can do. Without a request rate: each at its best, or, where
// latency is the objective, with one request at a time.
ModelOutcome outcome_of(const std::vector<const Shape*>& shapes, const Load& load, Objective objective);

// The five best plans of one shape each, other than `packing`, with all that is kept moved as well.
std::vector<Alternative> alternatives_to(const Search& search, const Relaxed& rules, const Packing& packing,
                                         ShapeBook& book);

// For each constraint that holds, what the plan would gain without it. That replicas stay is one of them.
std::vector<ConstraintCost> constraint_costs(const Search& search, const Relaxed& rules, const Packing& packing,
                                             const ShapeBook& book);

// Of a lone request on the slowest replica; 0: there is none.
double worst_latency_ms(const Packing& packing, const Load& load);

// Degrees that are looked at one by one.
inline constexpr int kDegrees[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32};

std::string number_text(double value);        // two digits, or all before the point
std::string shape_text(const Shape& shape);   // "TP 2 x PP 1"
std::string degrees_text(const PackingGoal& goal);  // that are asked for: "tensor-parallel-size 2"
// "2 x (TP 2 x PP 1), 1 x (TP 1 x PP 3)"
std::string shapes_text(const Packing& packing);

}  // namespace skein
