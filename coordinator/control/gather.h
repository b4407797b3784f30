#pragma once

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "base/status.h"
#include "coordinator/control/cluster.h"
#include "topology/cluster.h"

namespace skein {

// The machines as their agents describe them, before anything is placed on them.
struct GatheredNodes {
  Cluster cluster;
  std::vector<std::string> notes;  // who is missing, or could not be described, a sentence each
  std::vector<std::string> busy;   // those of `cluster` whose agents run something
};

// Listens until an agent of each name has registered, at most `seconds`, and leaves the agents to who listens next.
// Jobs that they run stay. `waiting` is called now and then with the names that are still awaited. kUnavailable: no
// agent came that describes its node; `otherwise` is what the user can do without.
Result<GatheredNodes> gather_nodes(const ListenConfig& listen, const std::set<std::string>& names, double seconds,
                                   const std::function<void(const std::vector<std::string>&)>& waiting,
                                   const std::string& otherwise);

}  // namespace skein
