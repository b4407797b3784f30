#include <gmock/gmock.h>

#include <set>

#include "tests/unit/worker/batcher_fixture.h"

// What a step is made of.

namespace skein {
namespace {

using ::testing::ElementsAre;

class BatcherPlan : public BatcherTest {};

TEST_F(BatcherPlan, AnIdleBatcherPlansNothing) {
  make();
  EXPECT_TRUE(batcher_->idle());
  EXPECT_FALSE(batcher_->plan().has_value());
}

TEST_F(BatcherPlan, APromptThatFitsIsComputedAndSampledInOneStep) {
  make();
  submit(request(1, 6));
  const StepPlan plan = this->plan();
  EXPECT_EQ(plan.step, 1u);
  ASSERT_EQ(plan.admissions.size(), 1u);
  EXPECT_EQ(plan.admissions[0].tokens, request(1, 6).tokens);
  ASSERT_EQ(plan.rows.size(), 1u);
  EXPECT_EQ(plan.rows[0].first_position, 0);
  EXPECT_EQ(plan.rows[0].tokens, 6);
  EXPECT_EQ(tables_[plan.rows[0].slot].size(), 2u);
  EXPECT_THAT(plan.sample_queries, ElementsAre(5));
  ASSERT_EQ(plan.samples.size(), 1u);
  EXPECT_EQ(plan.samples[0].position, 5);
  EXPECT_EQ(plan.samples[0].score, 0);

  const auto frames = answer(77);
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(frames[0].request, 1u);
  EXPECT_EQ(frames[0].first_index, 0);
  EXPECT_THAT(frames[0].tokens, ElementsAre(77));
  EXPECT_EQ(frames[0].finish, FinishReason::kNone);

  const StepPlan next = this->plan();
  EXPECT_TRUE(next.admissions.empty());
  EXPECT_EQ(next.rows[0].first_position, 6);
  EXPECT_EQ(next.rows[0].tokens, 1);
  EXPECT_EQ(answer().at(0).first_index, 1);
}

TEST_F(BatcherPlan, LongPromptsAreChunkedAndSampledAtTheirEndOnly) {
  make();
  submit(request(1, 40));
  for (const int tokens : {16, 16}) {
    const StepPlan plan = this->plan();
    EXPECT_EQ(plan.tokens(), tokens);
    EXPECT_TRUE(plan.samples.empty());
    EXPECT_TRUE(answer().empty());
  }
  const StepPlan last = plan();
  EXPECT_EQ(last.rows[0].first_position, 32);
  EXPECT_EQ(last.tokens(), 8);
  EXPECT_THAT(last.sample_queries, ElementsAre(7));
  EXPECT_EQ(answer().size(), 1u);
}

TEST_F(BatcherPlan, DecodesGoFirstThenPromptsInTheOrderOfAdmission) {
  make();
  submit(request(1, 3));
  step();
  submit(request(2, 20));
  submit(request(3, 20));
  // Budget 16: the decode takes 1, the older prompt the rest.
  const StepPlan first = plan();
  EXPECT_EQ(first.rows[0].tokens, 1);
  ASSERT_EQ(first.rows.size(), 2u);
  EXPECT_EQ(first.rows[1].tokens, 15);
  EXPECT_EQ(admitted_[first.rows[1].slot].tokens, request(2, 20).tokens);
  answer();
  // The decode, the older prompt's 5, then the younger one's 10.
  const StepPlan second = plan();
  ASSERT_EQ(second.rows.size(), 3u);
  EXPECT_EQ(second.rows[0].slot, first.rows[0].slot);
  EXPECT_EQ(second.rows[1].slot, first.rows[1].slot);
  EXPECT_EQ(second.rows[1].tokens, 5);
  EXPECT_EQ(second.rows[2].tokens, 10);
  EXPECT_THAT(second.sample_queries, ElementsAre(0, 5));
}

TEST_F(BatcherPlan, DecodesTakeTurnsWhenTheBudgetIsSmallerThanTheirNumber) {
  config_.step_tokens_max = 2;
  make();
  GenerationRequest three = request(1, 1);
  three.choices = 3;
  submit(three);
  std::map<int, int> tokens;
  for (int i = 0; i < 30; ++i) {
    for (const TokenFrame& frame : step()) ++tokens[frame.choice];
  }
  ASSERT_EQ(tokens.size(), 3u);
  for (const auto& [choice, count] : tokens) EXPECT_NEAR(count, 20, 1);
}

TEST_F(BatcherPlan, WithTwoStepsInFlightTheNextTokenIsPlannedBeforeThisOneIsKnown) {
  config_.lane_steps_max = 2;
  make();
  submit(request(1, 4));
  plan();
  const StepPlan second = plan();
  EXPECT_EQ(second.rows[0].first_position, 4);
  EXPECT_FALSE(batcher_->plan().has_value()) << "two are in flight";
  EXPECT_EQ(batcher_->steps_in_flight(), 2);
  EXPECT_EQ(answer(60).at(0).first_index, 0);
  EXPECT_EQ(plan().rows[0].first_position, 5);
  EXPECT_EQ(answer(61).at(0).first_index, 1);
}

TEST_F(BatcherPlan, WithOneStepInFlightItWaits) {
  make();
  submit(request(1, 4));
  plan();
  EXPECT_FALSE(batcher_->plan().has_value());
}

TEST_F(BatcherPlan, NothingIsPlannedBeyondMaxTokens) {
  config_.lane_steps_max = 2;
  make();
  submit(request(1, 4, 2));
  plan();
  plan();
  EXPECT_EQ(answer().at(0).finish, FinishReason::kNone);
  EXPECT_FALSE(batcher_->plan().has_value());
  EXPECT_EQ(answer().at(0).finish, FinishReason::kLength);
  expect_nothing_held();
}

TEST_F(BatcherPlan, NothingIsPlannedBeyondTheContext) {
  config_.sequence_tokens_max = 6;
  make();
  submit(request(1, 4));
  EXPECT_EQ(step().at(0).finish, FinishReason::kNone);
  EXPECT_EQ(step().at(0).finish, FinishReason::kLength);
  expect_nothing_held();
}

TEST_F(BatcherPlan, SlotsAreGivenOutAgainAndOthersWait) {
  config_.slots = 2;
  make();
  for (uint64_t id = 1; id <= 3; ++id) submit(request(id, 2, id == 1 ? 1 : 5));
  EXPECT_EQ(plan().admissions.size(), 2u);
  EXPECT_EQ(batcher_->stats().running, 2);
  EXPECT_EQ(batcher_->stats().waiting, 1);
  answer();
  const StepPlan second = plan();
  ASSERT_EQ(second.admissions.size(), 1u);
  EXPECT_EQ(second.admissions[0].tokens, request(3, 2).tokens);
}

TEST_F(BatcherPlan, AdmissionKeepsTheOrderOfArrivalEvenIfALaterOneWouldFit) {
  blocks_ = 8;
  make();
  submit(request(1, 12, 5));
  plan();  // 3 blocks of 8
  answer();
  submit(request(2, 24, 1));  // 6 blocks: must wait
  submit(request(3, 1, 1));
  EXPECT_TRUE(plan().admissions.empty());
}

TEST_F(BatcherPlan, NewcomersLeaveBlocksForThoseThatRun) {
  blocks_ = 5;
  config_.slots = 5;
  make();
  for (uint64_t id = 1; id <= 4; ++id) submit(request(id, 2, id == 1 ? 2 : 10));
  step();
  submit(request(5, 2, 10));
  EXPECT_TRUE(plan().admissions.empty()) << "the last block is for one of the four";
  answer();
  EXPECT_EQ(plan().admissions.size(), 1u);
}

TEST_F(BatcherPlan, LanesAreBalancedAndASequenceStaysInItsLane) {
  config_.lanes = 2;
  make();
  for (uint64_t id = 1; id <= 4; ++id) submit(request(id, 2));
  std::map<int, std::set<int>> slots_of_lane;
  for (int i = 0; i < 12; ++i) {
    while (in_flight_.size() < 2) {
      const StepPlan plan = this->plan();
      for (const PlanRow& row : plan.rows) slots_of_lane[plan.lane].insert(row.slot);
    }
    EXPECT_NE(in_flight_[0].lane, in_flight_[1].lane);
    answer();
  }
  ASSERT_EQ(slots_of_lane.size(), 2u);
  EXPECT_EQ(slots_of_lane[0].size(), 2u);
  EXPECT_EQ(slots_of_lane[1].size(), 2u);
  for (const int slot : slots_of_lane[0]) EXPECT_FALSE(slots_of_lane[1].contains(slot));
}

TEST_F(BatcherPlan, ALaneTakesManyShortPromptsAtOnceAndLeavesTheOtherItsPart) {
  config_.lanes = 2;
  config_.slots = 8;
  config_.step_tokens_enough = 16;
  make();
  for (uint64_t id = 1; id <= 8; ++id) submit(request(id, 3));
  const StepPlan first = plan();
  EXPECT_EQ(first.admissions.size(), 4u) << "the fifth would leave the other lane fewer";
  const StepPlan second = plan();
  EXPECT_NE(second.lane, first.lane);
  EXPECT_EQ(second.admissions.size(), 4u);
}

TEST_F(BatcherPlan, ALaneThatRunsAheadFillsItsStepAndNoMore) {
  config_.lanes = 2;
  config_.slots = 8;
  config_.step_tokens_max = 64;
  config_.step_tokens_enough = 16;
  make();
  for (uint64_t id = 1; id <= 8; ++id) submit(request(id, 6));
  const StepPlan first = plan();
  ASSERT_EQ(first.rows.size(), 3u);
  EXPECT_EQ(first.rows[2].tokens, 16 - 2 * 6) << "the rest of the prompt is for the next step";
  const StepPlan second = plan();
  ASSERT_EQ(second.rows.size(), 3u) << "the other lane catches up and fills its step likewise";
  EXPECT_EQ(second.rows[2].tokens, 16 - 2 * 6);
}

TEST_F(BatcherPlan, ALaneRunsAheadOnlyIfTheOtherWillHaveBlocks) {
  config_.lanes = 2;
  config_.slots = 8;
  config_.step_tokens_enough = 16;
  config_.sequence_tokens_max = 2 * kBlockTokens;
  blocks_ = 5;  // and each prompt takes one
  make();
  for (uint64_t id = 1; id <= 8; ++id) submit(request(id, 2));
  EXPECT_EQ(plan().admissions.size(), 3u);
  EXPECT_GE(plan().admissions.size(), 1u) << "the other lane has work, too";
}

TEST_F(BatcherPlan, LongPromptsGoToTheLanesInTurns) {
  config_.lanes = 2;
  config_.step_tokens_max = 8192;
  config_.step_tokens_enough = 2048;
  config_.vocabulary = 10'000;
  config_.sequence_tokens_max = 10'000;
  blocks_ = 10'000;
  make();
  for (uint64_t id = 1; id <= 4; ++id) submit(request(id, 2048));
  EXPECT_EQ(plan().admissions.size(), 1u) << "a step of 2,048 tokens is worth a turn of the pipeline";
  EXPECT_EQ(plan().admissions.size(), 1u);
}

TEST_F(BatcherPlan, APromptThatIsAloneInItsStepIsNotCut) {
  config_.lanes = 2;
  config_.step_tokens_max = 64;
  config_.step_tokens_enough = 16;
  make();
  for (uint64_t id = 1; id <= 2; ++id) submit(request(id, 30));
  for (int lane = 0; lane < 2; ++lane) {
    const StepPlan step = plan();
    ASSERT_EQ(step.rows.size(), 1u);
    EXPECT_EQ(step.rows[0].tokens, 30);
  }
}

TEST_F(BatcherPlan, ComputedPrefixesAreNotComputedAgain) {
  make();
  submit(request(1, 12, 1));
  plan();
  GenerationRequest same = request(2, 12, 1);
  same.tokens = request(1, 12).tokens;
  submit(same);
  EXPECT_EQ(answer().at(0).cached_tokens, 0);
  const StepPlan second = plan();
  EXPECT_EQ(second.rows[0].first_position, 8);
  EXPECT_EQ(second.rows[0].tokens, 4);
  EXPECT_EQ(answer().at(0).cached_tokens, 8);
  const BatcherStats stats = batcher_->stats();
  EXPECT_EQ(stats.prompt_tokens, 24);
  EXPECT_EQ(stats.prefix_queries, 24);
  EXPECT_EQ(stats.prefix_hits, 8);
  EXPECT_EQ(stats.generated_tokens, 2);
}

TEST_F(BatcherPlan, APrefixInFlightIsNotShared) {
  config_.lane_steps_max = 2;
  make();
  GenerationRequest twin = request(2, 12, 1);
  twin.tokens = request(1, 12).tokens;
  submit(request(1, 12, 1));
  plan();
  submit(twin);
  EXPECT_EQ(plan().rows[0].first_position, 0);
}

TEST_F(BatcherPlan, NothingIsSaidOfTokensWhereNobodyAsks) {
  make();
  submit(request(1, 3));
  EXPECT_EQ(plan().admissions.at(0).sampling.top_logprobs, -1);
}

TEST_F(BatcherPlan, SamplingParametersReachTheSlot) {
  make();
  GenerationRequest asked = request(1, 3);
  SamplingParams& sampling = asked.sampling;
  sampling.temperature = 0.5f;
  sampling.top_p = 0.75f;
  sampling.min_p = 0.25f;
  sampling.top_k = 9;
  sampling.presence_penalty = 1;
  sampling.frequency_penalty = 2;
  sampling.repetition_penalty = 3;
  sampling.seed = 1234;
  sampling.min_tokens = 6;
  sampling.top_logprobs = 4;
  sampling.stop_tokens = {7, 8};
  sampling.logit_bias = {{5, -1.5f}};
  submit(asked);
  const SlotSampling slot = plan().admissions.at(0).sampling;
  EXPECT_EQ(slot.temperature, 0.5f);
  EXPECT_EQ(slot.top_p, 0.75f);
  EXPECT_EQ(slot.min_p, 0.25f);
  EXPECT_EQ(slot.top_k, 9);
  EXPECT_EQ(slot.presence_penalty, 1);
  EXPECT_EQ(slot.frequency_penalty, 2);
  EXPECT_EQ(slot.repetition_penalty, 3);
  EXPECT_EQ(slot.seed, 1234u);
  EXPECT_EQ(slot.prompt_tokens, 3);
  EXPECT_EQ(slot.min_tokens, 6);
  EXPECT_EQ(slot.top_logprobs, 4);
  EXPECT_EQ(slot.stop_count, 2);
  EXPECT_EQ(slot.stop_tokens[1], 8);
  EXPECT_EQ(slot.bias_count, 1);
  EXPECT_EQ(slot.bias_tokens[0], 5);
  EXPECT_EQ(slot.bias_values[0], -1.5f);
}

}  // namespace
}  // namespace skein
