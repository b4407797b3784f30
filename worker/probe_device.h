#pragma once

#include <vector>

#include "base/probe.h"
#include "worker/probe_timer.h"

namespace skein {

// What one device reaches through the launches of a step: reads, products over a grid of tokens and weights, attention,
// norms. Takes some seconds; of cores, in several passes, a minute.
Result<std::vector<ProbeSample>> probe_device(const ProbeSpec& spec, const Ops& ops, Device& device, ProbeTimer& timer);

}  // namespace skein
