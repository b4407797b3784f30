#include "topology/memory.h"

#include <gtest/gtest.h>

#include "topology/machine.h"

namespace skein {
namespace {

constexpr int64_t kMiB = 1 << 20;

class MemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto opened = Checkpoint::open("tests/oracles/fixtures/llama_gqa", LoadFormat::kAuto);
    ASSERT_TRUE(opened.ok());
    checkpoint_ = std::move(*opened);
  }

  Result<MemoryPlan> plan(int tp, int pp, MemoryRequest request) {
    request.tensor_parallel_size = tp;
    request.pipeline_parallel_size = pp;
    return plan_memory(*checkpoint_, *plan_shards(checkpoint_->description(), tp, pp), request);
  }

  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(MemoryTest, GpusHaveMemoryOfTheirOwn) {
  const MemoryRequest request{.gpu = true, .block_tokens = 64, .memory_bytes = kGpuReserve + 512 * kMiB};
  const auto one = plan(1, 1, request);
  ASSERT_TRUE(one.ok()) << one.status().message();
  EXPECT_EQ(one->kv_per_token(), 4 * 2 * 16 * 2 * 2) << "bfloat16";
  const auto two = plan(2, 1, request);
  ASSERT_TRUE(two.ok());
  EXPECT_GT(int64_t{two->kv_blocks}, int64_t{one->kv_blocks} * 18 / 10) << "twice the memory, half the KV heads each";
  const int64_t pool = int64_t{one->kv_blocks} * 64 * one->kv_per_token();
  EXPECT_LE(one->ranks[0].fixed() + pool, request.memory_bytes);
  EXPECT_GE(one->ranks[0].fixed() + pool, request.memory_bytes - kMiB);
  const auto none = plan(1, 1, {.gpu = true, .memory_bytes = kGpuReserve});
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.status().message().find("tensor-parallel-size"), std::string::npos);
}

TEST_F(MemoryTest, CountsWeightsAndKvBySlice) {
  const auto one = plan(1, 1, {.memory_bytes = 512 * kMiB});
  ASSERT_TRUE(one.ok()) << one.status().message();
  // 4 layers, 2 KV heads of 16, float16, K and V.
  EXPECT_EQ(one->kv_per_token(), 4 * 2 * 16 * 2 * 2);
  const int64_t parameters = checkpoint_->description().parameters();
  EXPECT_GE(one->weights(), 2 * parameters);
  EXPECT_LE(one->weights(), 2 * parameters + 64 * 1024) << "padding to panels of 16 rows only";
  const auto split = plan(1, 2, {.memory_bytes = 512 * kMiB});
  EXPECT_EQ(split->kv_per_token(), one->kv_per_token());
  EXPECT_EQ(split->ranks.size(), 2u);
}

TEST_F(MemoryTest, NodesWithARankEachHaveMemoryOfTheirOwn) {
  // Enough for the pages that eight contexts take on each of two nodes, and not on one.
  const MemoryRequest request{.memory_bytes = 8 * kMiB};
  const auto together = plan(1, 2, request);
  MemoryRequest apart = request;
  apart.apart = true;
  const auto each = plan(1, 2, apart);
  ASSERT_TRUE(together.ok() && each.ok());
  EXPECT_GT(each->kv_blocks, together->kv_blocks);
  for (const RankMemory& rank : each->ranks) {
    EXPECT_LE(rank.fixed() + rank.kv_per_token * each->kv_blocks * request.block_tokens, request.memory_bytes);
  }
}

TEST_F(MemoryTest, UnlikeDevicesAreHeldAgainstTheirOwn) {
  // The first stage has three of four layers.
  const auto shards = plan_shards(checkpoint_->description(), 1, {3, 1});
  ASSERT_TRUE(shards.ok());
  MemoryRequest request{.pipeline_parallel_size = 2, .apart = true, .memory_by_rank = {64 * kMiB, 64 * kMiB}};
  const auto alike = plan_memory(*checkpoint_, *shards, request);
  ASSERT_TRUE(alike.ok()) << alike.status().message();
  const int64_t second = alike->ranks[1].fixed();
  ASSERT_LT(second, alike->ranks[0].fixed());
  // As much as the second needs is too little for the first, and enough where it is.
  const int64_t small = (second + alike->ranks[0].fixed()) / 2;
  request.memory_by_rank = {64 * kMiB, small};
  const auto unlike = plan_memory(*checkpoint_, *shards, request);
  ASSERT_TRUE(unlike.ok()) << unlike.status().message();
  EXPECT_LE(unlike->kv_blocks, alike->kv_blocks);
  request.memory_by_rank = {small, 64 * kMiB};
  EXPECT_FALSE(plan_memory(*checkpoint_, *shards, request).ok());
}

TEST_F(MemoryTest, LowersAContextThatWasNotAskedFor) {
  const int64_t kv = plan(1, 1, {.memory_bytes = 512 * kMiB})->kv_per_token();
  const auto lowered = plan(1, 1, {.kv_bytes_per_rank = 100 * kv, .memory_bytes = 512 * kMiB});
  ASSERT_TRUE(lowered.ok());
  EXPECT_EQ(lowered->context_max, 96);
  EXPECT_EQ(lowered->kv_blocks, 6);
  EXPECT_TRUE(lowered->context_lowered);
}

TEST_F(MemoryTest, RefusesAContextThatWasAskedForWithTheNumbers) {
  const int64_t kv = plan(1, 1, {.memory_bytes = 512 * kMiB})->kv_per_token();
  const auto refused = plan(1, 1, {.context_max = 200, .kv_bytes_per_rank = 100 * kv, .memory_bytes = 512 * kMiB});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.status().message().find("lower max-model-len to 96"), std::string::npos) << refused.status().message();
  EXPECT_FALSE(plan(1, 1, {.context_max = 1 << 20, .memory_bytes = 512 * kMiB}).ok()) << "beyond the model's context";
  EXPECT_FALSE(plan(1, 1, {.memory_bytes = kMiB}).ok()) << "not even the weights";
  EXPECT_FALSE(plan(1, 1, {.kv_bytes_per_rank = 10, .memory_bytes = 512 * kMiB}).ok()) << "no block";
  EXPECT_FALSE(plan(1, 1, {.kv_bytes_per_rank = int64_t{1} << 40, .memory_bytes = 512 * kMiB}).ok()) << "more than there is";
}

TEST_F(MemoryTest, SaysHowLargeAPoolMustBe) {
  const MemoryRequest request{.kv_bytes_per_rank = 1000, .memory_bytes = 512 * kMiB};
  const std::string said = plan(1, 1, request).status().message();
  EXPECT_NE(said.find("kv-cache-memory-bytes of 1000 B a rank holds no block of 16 tokens; raise it to 8192 (8.0 KiB), "
                      "or leave it out"),
            std::string::npos)
      << said;
  EXPECT_TRUE(plan(1, 1, {.kv_bytes_per_rank = 8192, .memory_bytes = 512 * kMiB}).ok());
  EXPECT_FALSE(plan(1, 1, {.kv_bytes_per_rank = 8191, .memory_bytes = 512 * kMiB}).ok());
  const auto context = plan(1, 1, {.context_max = 100, .kv_bytes_per_rank = 1000, .memory_bytes = 512 * kMiB});
  EXPECT_NE(context.status().message().find("raise it to 57344 "), std::string::npos) << context.status().message();
}

TEST_F(MemoryTest, SaysWhoHoldsAGpusMemory) {
  const std::string said =
      plan(1, 1, {.gpu = true, .memory_bytes = 0, .held = "others hold GPU 0: choose another"}).status().message();
  EXPECT_NE(said.find("but 0 B can be had; others hold GPU 0: choose another, or use more GPUs"), std::string::npos)
      << said;
}

TEST(Machine, IsDescribed) {
  const Machine machine = discover_machine();
  EXPECT_GE(machine.cores, 1);
  EXPECT_GT(machine.memory_bytes, kMiB);
}

TEST(KvCacheDtype, IsAsAskedForOrAsTheBackendKeepsIt) {
  EXPECT_EQ(kv_cache_dtype({}), "float16");
  EXPECT_EQ(kv_cache_dtype({.dtype = "bfloat16"}), "float16");
  EXPECT_EQ(kv_cache_dtype({.dtype = "float32"}), "float32");
  EXPECT_EQ(kv_cache_dtype({.dtype = "float32", .kv_cache_dtype = "bfloat16"}), "bfloat16");
  EXPECT_EQ(kv_cache_dtype({.gpu = true, .dtype = "auto"}), "bfloat16");
}

}  // namespace
}  // namespace skein
