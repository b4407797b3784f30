// The memory model against what the ranks of real replicas take.

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/replica_harness.h"
#include "topology/memory.h"

namespace skein {
namespace {

constexpr double kErrorMax = 0.03;

struct Case {
  const char* model;
  int tp;
  int pp;
};

class MemoryOfRanks : public ::testing::TestWithParam<Case> {};

TEST_P(MemoryOfRanks, IsAsPredicted) {
  const std::string model = std::string("tests/oracles/fixtures/") + GetParam().model;
  const ReplicaSpec spec = testing::small_spec(GetParam().tp, GetParam().pp);
  const testing::ReplicaHarness replica(spec, model);
  const auto checkpoint = Checkpoint::open(model, LoadFormat::kAuto);
  ASSERT_TRUE(checkpoint.ok());
  const auto shards = plan_shards((*checkpoint)->description(), GetParam().tp, GetParam().pp);
  ASSERT_TRUE(shards.ok());
  const MemoryRequest request{.block_tokens = spec.block_tokens,
                              .slots = spec.slots,
                              .step_tokens_max = spec.step_tokens_max,
                              .context_max = spec.context_max};
  const std::vector<int64_t> taken = replica.device_bytes();
  for (size_t rank = 0; rank < taken.size(); ++rank) {
    const RankMemory predicted = rank_memory(**checkpoint, (*shards)[rank], request);
    const int64_t pages = predicted.kv_per_token * spec.kv_blocks * spec.block_tokens;
    const auto besides = static_cast<double>(taken[rank] - pages);
    EXPECT_NEAR(static_cast<double>(predicted.fixed()), besides, kErrorMax * besides) << "rank " << rank;
  }
}

INSTANTIATE_TEST_SUITE_P(All, MemoryOfRanks,
                         ::testing::Values(Case{"llama_gqa", 1, 1}, Case{"llama_gqa", 2, 1}, Case{"llama_gqa", 1, 2},
                                           Case{"llama_gqa", 2, 2}, Case{"llama_mqa", 3, 1}, Case{"llama3_rope", 1, 3},
                                           Case{"qwen3_qknorm", 2, 1}));

}  // namespace
}  // namespace skein
