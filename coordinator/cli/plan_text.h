#pragma once

#include <string>
#include <vector>

#include "coordinator/cli/placement.h"

namespace skein {

// A plan for people: what is served how fast, who sits where, and why.
std::string plan_text(const Placement& placement);

// A picture of who sits where.
std::string plan_svg(const Placement& placement);

// "TP 2 x PP 1"
std::string shape_text(const PlacedReplica& replica);

// What a device does: its replica and rank, for all devices of a node; -1 where it does nothing.
struct Seat {
  int replica = -1;
  int rank = -1;
};
std::vector<std::vector<Seat>> seats_by_node(const Placement& placement);

}  // namespace skein
