#pragma once

#include <vector>

#include "base/probe.h"
#include "base/status.h"
#include "comm/collectives.h"
#include "comm/communicator.h"
#include "comm/mpi.h"
#include "kernels/ops.h"

namespace skein {

// Under mpirun, every rank: measures what `path`, a file of a ProbeSpec (base/probe.h), asks for. Alone, a rank
// measures its device through the launches that steps consist of; several ranks, of a node, measure sums and hand-offs
// as steps do them: between GPUs in recorded chains, over peers where they go that way, else through NCCL.
Status run_probe(const char* path);

// Of a pipeline of two ranks.
struct StageLinks {
  Communicator& communicator;
  Collectives& collectives;
};
// What the first of two ranks takes to hand over to the second, wherever they are: samples of point_to_point.
Result<std::vector<ProbeSample>> probe_sends(const StageLinks& links, const Ops& ops, Device& device, MpiSession& mpi);

}  // namespace skein
