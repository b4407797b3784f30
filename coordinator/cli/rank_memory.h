#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "comm/wire.h"
#include "topology/memory.h"

namespace skein {

// What a rank holds with its pages.
struct RankBytes {
  int64_t planned = 0;
  int64_t taken = 0;
};

// By rank; none where the replica does not tell.
std::vector<RankBytes> bytes_of_ranks(const MemoryPlan& plan, const RegisterReplica& replica);

// Where a rank misses its plan by more than 3 % of what it holds beside its pages, and by more than 256 MiB: one
// sentence that names the ranks.
std::optional<std::string> miss(const MemoryPlan& plan, const std::vector<RankBytes>& ranks);

}  // namespace skein
