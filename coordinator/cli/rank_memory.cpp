#include "coordinator/cli/rank_memory.h"

#include <algorithm>
#include <cstdlib>

namespace skein {
namespace {

constexpr int64_t kMissBytesMax = int64_t{256} << 20;
constexpr int64_t kMissPercentMax = 3;

}  // namespace

std::vector<RankBytes> bytes_of_ranks(const MemoryPlan& plan, const RegisterReplica& replica) {
  std::vector<RankBytes> ranks;
  if (replica.rank_bytes.size() != plan.ranks.size()) return ranks;
  for (size_t rank = 0; rank < plan.ranks.size(); ++rank) {
    const RankMemory& memory = plan.ranks[rank];
    ranks.push_back({.planned = memory.fixed() + memory.kv_per_token * static_cast<int64_t>(replica.kv_tokens),
                     .taken = static_cast<int64_t>(replica.rank_bytes[rank])});
  }
  return ranks;
}

std::optional<std::string> miss(const MemoryPlan& plan, const std::vector<RankBytes>& ranks) {
  std::string said;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const int64_t allowed = std::max(kMissBytesMax, plan.ranks[rank].fixed() * kMissPercentMax / 100);
    if (std::abs(ranks[rank].taken - ranks[rank].planned) <= allowed) continue;
    said += (said.empty() ? "rank " : ", rank ") + std::to_string(rank) + " holds " +
            readable_bytes(ranks[rank].taken) + " where " + readable_bytes(ranks[rank].planned) + " were planned";
  }
  if (said.empty()) return std::nullopt;
  return said;
}

}  // namespace skein
