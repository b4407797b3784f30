#pragma once

#include "base/status.h"

namespace skein {

// Under mpirun, every rank: measures what `path`, a file of a ProbeSpec (base/probe.h), asks for. Alone, a rank
// measures its device through the launches that steps consist of; several ranks, of a node, measure sums and hand-offs
// as steps do them: between GPUs in recorded chains, over peers where they go that way, else through NCCL.
Status run_probe(const char* path);

}  // namespace skein
