#include "coordinator/cli/rank_memory.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

constexpr int64_t kMib = int64_t{1} << 20;

// Two ranks of 20 GiB and 1 GiB beside their pages.
MemoryPlan plan() {
  MemoryPlan plan;
  plan.ranks = {{.weights = 20'000 * kMib, .activations = 480 * kMib, .kv_per_token = 1000},
                {.weights = 1'000 * kMib, .runtime = 24 * kMib, .kv_per_token = 500}};
  return plan;
}

RegisterReplica replica(int64_t first, int64_t second) {
  RegisterReplica replica;
  replica.ranks = 2;
  replica.kv_tokens = 1 << 20;
  replica.rank_bytes = {static_cast<uint64_t>(first), static_cast<uint64_t>(second)};
  return replica;
}

TEST(RankMemory, IsPlannedWithThePagesThatThereAre) {
  const auto ranks = bytes_of_ranks(plan(), replica(7, 8));
  ASSERT_EQ(ranks.size(), 2u);
  EXPECT_EQ(ranks[0].planned, 21'480 * kMib);
  EXPECT_EQ(ranks[1].planned, 1'524 * kMib);
  EXPECT_EQ(ranks[1].taken, 8);
  RegisterReplica silent = replica(7, 8);
  silent.rank_bytes.clear();
  EXPECT_TRUE(bytes_of_ranks(plan(), silent).empty());
}

TEST(RankMemory, MayMissByThreePercentOrAQuarterOfAGibibyte) {
  const auto said = [](int64_t first, int64_t second) {
    return miss(plan(), bytes_of_ranks(plan(), replica(first, second))).value_or("");
  };
  EXPECT_EQ(said(21'480 * kMib, 1'524 * kMib), "");
  EXPECT_EQ(said((21'480 + 614) * kMib, (1'524 - 256) * kMib), "");
  EXPECT_EQ(said(21'480 * kMib, (1'524 + 257) * kMib), "rank 1 holds 1.7 GiB where 1.5 GiB were planned");
  EXPECT_EQ(said((21'480 - 615) * kMib, 1'000 * kMib),
            "rank 0 holds 20.4 GiB where 21.0 GiB were planned, rank 1 holds 1000.0 MiB where 1.5 GiB were planned");
}

}  // namespace
}  // namespace skein
