#pragma once

#include <cstdint>
#include <string_view>

#include "base/replica_spec.h"

namespace skein {

// Equal for replicas that give bitwise the same tokens and log-probabilities, so that one of them can go on with what
// another one began: a hash of the weights, the formats, the parallel shape, `arithmetic` (Ops::numerics) and the
// build. Where `arithmetic` is empty no two starts of a replica promise the same bits, and none has another's id.
uint64_t numerics_id(const ReplicaSpec& spec, uint64_t weights_fingerprint, std::string_view arithmetic);

}  // namespace skein
