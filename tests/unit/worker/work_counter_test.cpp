#include "worker/work_counter.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

WorkCounter::Clock::time_point at(int ms) { return WorkCounter::Clock::time_point(std::chrono::milliseconds(ms)); }

PlanRow row(int32_t slot, int32_t first, int32_t tokens) {
  return {.slot = slot, .first_position = first, .tokens = tokens};
}

StepPlan step(std::vector<PlanRow> rows, size_t samples, int32_t lane = 0) {
  StepPlan plan;
  plan.lane = lane;
  plan.rows = std::move(rows);
  plan.samples.resize(samples);
  return plan;
}

TEST(WorkCounter, TellsPromptsFromSingleTokens) {
  WorkCounter counter;
  // A decode at position 9, and a chunk of positions 4 to 6 that ends its prompt.
  counter.planned(step({row(0, 9, 1), row(1, 4, 3)}, 2), at(10));
  counter.planned(step({row(0, 10, 1), row(1, 7, 1)}, 2), at(12));
  EXPECT_EQ(counter.prefill(), StepWork{}) << "it has not ended";
  counter.ended(at(30));
  EXPECT_EQ(counter.prefill(), (StepWork{.steps = 1, .seconds = 0.02, .lanes = 1, .decodes = 1, .decode_keys = 10,
                                         .prompt_tokens = 3, .prompt_keys = 5 + 6 + 7, .prompt_rows = 1}));
  EXPECT_EQ(counter.decode(), StepWork{});
  counter.ended(at(35));
  EXPECT_EQ(counter.decode(),
            (StepWork{.steps = 1, .seconds = 0.005, .lanes = 1, .decodes = 2, .decode_keys = 11 + 8}));
}

TEST(WorkCounter, PausesDoNotCount) {
  WorkCounter counter;
  const StepPlan one = step({row(0, 0, 1)}, 1);
  counter.planned(one, at(0));
  counter.ended(at(4));
  counter.planned(one, at(1000));
  counter.ended(at(1004));
  EXPECT_DOUBLE_EQ(counter.decode().seconds, 0.008);
  EXPECT_EQ(counter.decode().steps, 2u);
}

TEST(WorkCounter, CountsLanesInFlight) {
  WorkCounter counter;
  for (const int32_t lane : {0, 1, 0}) counter.planned(step({row(lane, 0, 1)}, 1, lane), at(0));
  counter.ended(at(1));  // lanes 0, 1
  counter.ended(at(2));  // lanes 1, 0
  counter.ended(at(3));  // lane 0
  EXPECT_EQ(counter.decode().lanes, 5u);
}

}  // namespace
}  // namespace skein
