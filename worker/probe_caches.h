#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/probe.h"
#include "worker/probe_tensors.h"
#include "worker/probe_timer.h"

namespace skein {

inline constexpr int64_t kCachedBytes = int64_t{16} << 20;  // of weights, or keys and values, that caches hold
inline constexpr size_t kWarmTurns = 2;                     // of them, after which caches hold what they will

// What caches of cores hold of weights from one step to the next: `turns`, products of one token by so many bytes of
// weights, from kCachedBytes to the tensors' turn_bytes(); and `aged`, by few of them that were not read for a while.
Result<std::vector<ProbeSample>> probe_caches(const Ops& ops, Device& device, ProbeTensors& tensors,
                                              ProbeTimer& timer);

}  // namespace skein
