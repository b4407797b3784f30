// Random load on the executor against plain ones: on a CPU everything is bitwise what a request alone gives.

#include <gtest/gtest.h>

#include "tests/support/executor_load.h"
#include "tests/support/recording_ops.h"

namespace skein::testing {
namespace {

TEST(ExecutorLoad, EveryRequestGetsWhatItWouldGetAlone) {
  LoadReport all;
  uint64_t seed = 1;
  for (const std::string model : {"llama_gqa", "mistral_window", "gguf_llama_q4_1/model.gguf", "qwen3_qknorm"}) {
    const std::string path = "tests/oracles/fixtures/" + model;
    for (int i = 0; i < 2 && !HasFailure(); ++i, ++seed) {
      SCOPED_TRACE(model + ", seed " + std::to_string(seed));
      all.add(run_executor_load({.ops = cpu_ops(), .model = path, .seed = seed, .steps = 150}));
    }
  }
  if (HasFailure()) return;
  EXPECT_GE(all.steps, 1200);
  EXPECT_GT(all.tokens, 2000);
  EXPECT_GT(all.scores, 100);
  EXPECT_GT(all.cancelled, 5);
  EXPECT_GT(all.preemptions, 10);
  EXPECT_GT(all.prefix_hits, 100);
  EXPECT_GT(all.copies, 5);
  std::printf("%ld steps, %ld rows, %ld decode steps, %ld requests, %ld tokens, %ld scores, %ld cancelled, "
              "%ld preemptions, %ld prefix hits, %ld copies\n", all.steps, all.rows, all.decode_steps, all.requests,
              all.tokens, all.scores, all.cancelled, all.preemptions, all.prefix_hits, all.copies);
}

// What changes from step to step reaches a recording through memory alone.
TEST(ExecutorLoad, RecordedStepsGiveThatToo) {
  LoadReport all;
  const int64_t before = replays();
  for (uint64_t seed = 1; seed <= 6 && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    all.add(run_executor_load({.ops = recording_ops(), .model = "tests/oracles/fixtures/mistral_window", .seed = seed,
                               .steps = 150, .slots_max = 4}));
  }
  if (HasFailure()) return;
  EXPECT_GT(all.tokens, 500);
  EXPECT_GT(replays() - before, 300) << "of " << all.decode_steps << " steps without prompts";
}

}  // namespace
}  // namespace skein::testing
