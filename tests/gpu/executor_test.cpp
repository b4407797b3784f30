// 10,000 random steps of the executor on a GPU against plain ones (tests/support/executor_load.h).

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/device.h"
#include "tests/support/executor_load.h"
#include "tests/support/lone_rank.h"
#include "tests/support/random_model.h"
#include "tests/support/replica_harness.h"
#include "tests/unit/model/temporary_folder.h"

namespace skein::testing {
namespace {

// bfloat16 against float32, as in model_test.cpp, but over a hundred thousand tokens, many of them improbable ones that
// were drawn at high temperature: the tail is longer. A page, position or token that is not the sequence's own changes
// log-probabilities by whole units.
constexpr double kWorst = 0.3;
constexpr double kMean = 0.035;

void expect_close(const LoadReport& report) {
  const double mean = report.sum / static_cast<double>(report.tokens + report.scores);
  std::printf("%ld steps (%ld of decodes alone), %ld rows, %ld requests (%ld cancelled), %ld tokens, %ld scores, "
              "%ld preemptions, %ld prefix hits, %ld copies; differences: worst %.3f, mean %.4f\n", report.steps,
              report.decode_steps, report.rows, report.requests, report.cancelled, report.tokens, report.scores,
              report.preemptions, report.prefix_hits, report.copies, report.worst, mean);
  EXPECT_LT(mean, kMean);
}

TEST(ExecutorLoadOnGpu, TenThousandSteps) {
  const std::string fixtures = "tests/oracles/fixtures/";
  const test::TemporaryFolder head_64;
  const test::TemporaryFolder head_128;
  write_random_model(head_64.path(), {.head_dim = 64, .sliding_window = 90}, 1);
  write_random_model(head_128.path(), {.head_dim = 128}, 2);
  LoadReport all;
  for (uint64_t seed = 1; seed <= 20 && !HasFailure(); ++seed) {
    const std::string models[] = {head_128.path(), head_64.path(), fixtures + "llama_gqa", fixtures + "qwen3_qknorm"};
    const std::string& model = models[seed % 4];
    SCOPED_TRACE(model + ", seed " + std::to_string(seed));
    all.add(run_executor_load({.ops = cuda_ops(), .model = model, .seed = seed, .steps = 500, .worst = kWorst}));
  }
  expect_close(all);
  if (HasFailure()) return;
  EXPECT_GE(all.steps, 10'000);
  EXPECT_GT(all.tokens, 20'000);
  EXPECT_GT(all.scores, 1'000);
  EXPECT_GT(all.cancelled, 50);
  EXPECT_GT(all.preemptions, 50);
  EXPECT_GT(all.prefix_hits, 1'000);
  EXPECT_GT(all.copies, 50);
}

TEST(SizedPagesOnGpu, FillTheShareButForTheReserve) {
  const test::TemporaryFolder folder;
  write_random_model(folder.path(), {.head_dim = 128}, 3);
  const auto checkpoint = value_of(Checkpoint::open(folder.path(), LoadFormat::kAuto));
  ReplicaSpec spec = small_spec(1, 1);
  spec.device = "cuda";
  spec.slots = 64;
  spec.step_tokens_max = 1024;
  spec.block_tokens = 64;
  spec.kv_blocks = 0;
  spec.memory_share = 0.5;
  spec.memory_reserve = int64_t{128} << 20;
  LoneRank rank(spec, *checkpoint, cuda_ops());
  ASSERT_TRUE(rank.executor().record_decode_steps().ok());
  ASSERT_TRUE(rank.executor().size_pages().ok());
  const auto device = value_of(cuda::CudaDevice::open({}));
  const DeviceMemory memory = value_of(cuda::device_of(*device).memory());
  const int64_t wanted = memory.total / 2 + spec.memory_reserve;
  constexpr int64_t kOther = int64_t{160} << 20;  // the second device's working memory, and the driver's pieces
  EXPECT_LT(std::abs(memory.free - wanted), kOther) << memory.free << " bytes are free where " << wanted << " should be";
  const auto result = rank.executor().run(warm_up_plan(spec, 1));
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_GE(result->samples.at(0).token, 0);
}

}  // namespace
}  // namespace skein::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const auto device = skein::cuda::CudaDevice::open({});
  if (!device.ok()) {
    std::printf("skipped: %s\n", device.status().message().c_str());
    return 77;
  }
  return RUN_ALL_TESTS();
}
