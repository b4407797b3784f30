#include "worker/work_counter.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

WorkCounter::Clock::time_point at(int ms) { return WorkCounter::Clock::time_point(std::chrono::milliseconds(ms)); }

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
  counter.planned(step({{.slot = 0, .first_position = 9, .tokens = 1}, {.slot = 1, .first_position = 4, .tokens = 3}}, 2),
                  at(10));
  counter.planned(step({{.slot = 0, .first_position = 10, .tokens = 1}, {.slot = 1, .first_position = 7, .tokens = 1}}, 2),
                  at(12));
  EXPECT_EQ(counter.prefill(), StepWork{}) << "it has not ended";
  counter.ended(at(30));
  EXPECT_EQ(counter.prefill(), (StepWork{.steps = 1, .seconds = 0.02, .lanes = 1, .decodes = 1, .decode_keys = 10,
                                         .prompt_tokens = 3, .prompt_keys = 5 + 6 + 7, .prompt_rows = 1}));
  EXPECT_EQ(counter.decode(), StepWork{});
  counter.ended(at(35));
  EXPECT_EQ(counter.decode(), (StepWork{.steps = 1, .seconds = 0.005, .lanes = 1, .decodes = 2, .decode_keys = 11 + 8}));
}

TEST(WorkCounter, PausesDoNotCount) {
  WorkCounter counter;
  const StepPlan one = step({{.slot = 0, .first_position = 0, .tokens = 1}}, 1);
  counter.planned(one, at(0));
  counter.ended(at(4));
  counter.planned(one, at(1000));
  counter.ended(at(1004));
  EXPECT_DOUBLE_EQ(counter.decode().seconds, 0.008);
  EXPECT_EQ(counter.decode().steps, 2u);
}

TEST(WorkCounter, CountsLanesInFlight) {
  WorkCounter counter;
  for (const int32_t lane : {0, 1, 0}) counter.planned(step({{.slot = lane, .first_position = 0, .tokens = 1}}, 1, lane), at(0));
  counter.ended(at(1));  // lanes 0, 1
  counter.ended(at(2));  // lanes 1, 0
  counter.ended(at(3));  // lane 0
  EXPECT_EQ(counter.decode().lanes, 5u);
}

}  // namespace
}  // namespace skein
