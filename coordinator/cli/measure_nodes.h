#pragma once

#include "base/status.h"
#include "coordinator/cli/measure.h"
#include "coordinator/cli/serve_config.h"

namespace skein {

// Times what joins the nodes whose agents come to config.listen, as config.placement.cluster or they describe it: for
// each kind of way between nodes, one launch of two ranks by the agents, one after another. Says what each carries.
// Nothing else should run there; what an earlier coordinator left running is not ended but refused. Requires:
// config.clustered().
Result<Measurement> measure_nodes(const ServeConfig& config);

}  // namespace skein
