#pragma once

#include <string>

#include "base/status.h"
#include "coordinator/cli/serve_config.h"
#include "coordinator/control/cluster.h"
#include "coordinator/control/gather.h"

namespace skein {

// Keys read, and the address checked. Requires: config.clustered().
Result<ListenConfig> listen_config(const ServeConfig& config);

// Waits for the agents of the nodes that the configuration names, by its places or --nodes, else of all nodes of the
// allow-list, and says for whom. `otherwise`: what the user can do without them. Requires: config.clustered().
Result<GatheredNodes> gather_agents(const ServeConfig& config, const std::string& otherwise);

// What the user reads goes to standard output, a line at a time, also through a pipe.
void say(const std::string& text);

}  // namespace skein
