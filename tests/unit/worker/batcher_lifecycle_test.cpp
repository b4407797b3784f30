#include <gmock/gmock.h>

#include <cmath>

#include "tests/unit/worker/batcher_fixture.h"

// How requests come in, end, are put off and continue.

namespace skein {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class BatcherLifecycle : public BatcherTest {};

TEST_F(BatcherLifecycle, RefusesWhatCanNeverRun) {
  blocks_ = 4;  // 16 tokens
  make();
  const auto refusal = [&](auto change) {
    GenerationRequest asked = request(1, 4, 4);
    change(asked);
    const Status status = batcher_->submit(asked);
    EXPECT_EQ(status.code(), Code::kInvalidArgument);
    return status.message();
  };
  const auto sampling = [&](auto change) {
    return refusal([&](GenerationRequest& r) { change(r.sampling); });
  };
  EXPECT_THAT(refusal([](auto& r) { r.tokens.clear(), r.prompt_tokens = 0; }), HasSubstr("empty"));
  EXPECT_THAT(refusal([](auto& r) { r.prompt_tokens = 5; }), HasSubstr("longer"));
  EXPECT_THAT(refusal([](auto& r) { r.prompt_tokens = -1; }), HasSubstr("empty"));
  EXPECT_THAT(refusal([](auto& r) { r = request(1, 65); }), HasSubstr("64 fit"));
  EXPECT_THAT(refusal([](auto& r) { r = request(1, 64); }), HasSubstr("no room"));
  EXPECT_THAT(refusal([](auto& r) { r = request(1, 4, 14); }), HasSubstr("KV cache"));
  EXPECT_THAT(refusal([](auto& r) { r.tokens[2] = 1000; }), HasSubstr("vocabulary"));
  EXPECT_THAT(refusal([](auto& r) { r.tokens[2] = -1; }), HasSubstr("vocabulary"));
  EXPECT_THAT(refusal([](auto& r) { r.choices = 0; }), HasSubstr("n is 0"));
  EXPECT_THAT(refusal([](auto& r) { r.choices = 5; }), HasSubstr("from 1 to 4"));
  EXPECT_THAT(refusal([](auto& r) { r.choices = 2, r.prompt_tokens = 3; }), HasSubstr("one choice"));
  EXPECT_THAT(sampling([](auto& s) { s.max_tokens = -1; }), HasSubstr("negative"));
  EXPECT_THAT(sampling([](auto& s) { s.min_tokens = -1; }), HasSubstr("negative"));
  EXPECT_THAT(sampling([](auto& s) { s.temperature = NAN; }), HasSubstr("range"));
  EXPECT_THAT(sampling([](auto& s) { s.temperature = INFINITY; }), HasSubstr("range"));
  EXPECT_THAT(sampling([](auto& s) { s.top_p = 0; }), HasSubstr("range"));
  EXPECT_THAT(sampling([](auto& s) { s.min_p = 1.5f; }), HasSubstr("range"));
  EXPECT_THAT(sampling([](auto& s) { s.top_k = -1; }), HasSubstr("range"));
  EXPECT_THAT(sampling([](auto& s) { s.presence_penalty = NAN; }), HasSubstr("range"));
  EXPECT_THAT(sampling([](auto& s) { s.frequency_penalty = NAN; }), HasSubstr("range"));
  EXPECT_THAT(sampling([](auto& s) { s.repetition_penalty = 0; }), HasSubstr("range"));
  EXPECT_THAT(sampling([](auto& s) { s.top_logprobs = 21; }), HasSubstr("20 logprobs"));
  EXPECT_THAT(sampling([](auto& s) { s.prompt_logprobs = 21; }), HasSubstr("20 logprobs"));
  EXPECT_THAT(sampling([](auto& s) { s.stop_tokens.assign(65, 1); }), HasSubstr("64 stop"));
  EXPECT_THAT(sampling([](auto& s) { s.stop_tokens = {1000}; }), HasSubstr("stop token"));
  EXPECT_THAT(sampling([](auto& s) { s.logit_bias.assign(301, {1, 0.f}); }), HasSubstr("300"));
  EXPECT_THAT(sampling([](auto& s) { s.logit_bias = {{1000, 0.f}}; }), HasSubstr("logit_bias"));
  EXPECT_THAT(sampling([](auto& s) { s.logit_bias = {{1, NAN}}; }), HasSubstr("logit_bias"));
  EXPECT_TRUE(batcher_->idle());
  submit(request(1, 4, 13));  // as much as the cache holds: the last token needs no place
  EXPECT_EQ(batcher_->submit(request(1, 4, 4)).code(), Code::kInvalidArgument) << "the same again";
}

TEST_F(BatcherLifecycle, AFullQueueRefusesForNow) {
  config_.waiting_max = 2;
  make();
  submit(request(1, 2));
  submit(request(2, 2));
  EXPECT_EQ(batcher_->submit(request(3, 2)).code(), Code::kResourceExhausted);
  plan();
  submit(request(3, 2));
}

TEST_F(BatcherLifecycle, AStopTokenEndsAndWhatWasPlannedBehindItIsDropped) {
  config_.slots = 1;
  config_.lane_steps_max = 2;
  make();
  GenerationRequest stopping = request(1, 4);
  stopping.sampling.stop_tokens = {42};
  submit(stopping);
  submit(request(2, 4));
  plan();
  plan();
  const auto frames = answer(42);
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_THAT(frames[0].tokens, ElementsAre(42));
  EXPECT_EQ(frames[0].finish, FinishReason::kStop);
  EXPECT_FALSE(batcher_->plan().has_value()) << "a step still uses the only slot";
  EXPECT_GT(cache_->usage(0).held, 0);
  EXPECT_TRUE(answer(43).empty());
  EXPECT_EQ(cache_->usage(0).held, 0);
  EXPECT_EQ(plan().admissions.at(0).tokens, request(2, 4).tokens);
}

TEST_F(BatcherLifecycle, StopTokensDoNotEndBeforeMinTokens) {
  make();
  GenerationRequest asked = request(1, 4);
  asked.sampling.stop_tokens = {42};
  asked.sampling.min_tokens = 2;
  submit(asked);
  EXPECT_EQ(step(42).at(0).finish, FinishReason::kNone);
  EXPECT_EQ(step(42).at(0).finish, FinishReason::kNone);
  EXPECT_EQ(step(42).at(0).finish, FinishReason::kStop);
  expect_nothing_held();
}

TEST_F(BatcherLifecycle, WithoutFiniteProbabilitiesTheChoiceEndsInAnError) {
  config_.lane_steps_max = 2;
  make();
  submit(request(1, 4));
  plan();
  plan();
  const auto frames = answer(-2);
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(frames[0].finish, FinishReason::kError);
  EXPECT_EQ(frames[0].error, "the model produced no finite probabilities");
  EXPECT_TRUE(frames[0].tokens.empty());
  EXPECT_TRUE(answer(5).empty());
  expect_nothing_held();
}

TEST_F(BatcherLifecycle, ResultsThatFitNoPlanAreAnErrorOfTheReplica) {
  make();
  EXPECT_EQ(batcher_->complete({.step = 1, .samples = {}}).scope(), Scope::kReplica);
  submit(request(1, 4));
  plan();
  EXPECT_FALSE(batcher_->complete({.step = 2, .samples = {SampledToken{}}}).ok());
  EXPECT_FALSE(batcher_->complete({.step = 1, .samples = {}}).ok());
}

TEST_F(BatcherLifecycle, ATokenOutsideTheVocabularyIsAnErrorOfTheReplica) {
  make();
  submit(request(1, 4));
  plan();
  SampledToken sampled;
  sampled.token = 1000;
  EXPECT_FALSE(batcher_->complete({.step = 1, .samples = {sampled}}).ok());
}

TEST_F(BatcherLifecycle, CancelEndsWhatWaitsAndWhatRuns) {
  config_.slots = 1;
  config_.lane_steps_max = 2;
  make();
  submit(request(1, 4));
  submit(request(2, 4));
  step(70);
  plan();
  batcher_->cancel(1, 1);  // another attempt
  batcher_->cancel(9, 0);
  EXPECT_TRUE(batcher_->take_frames().empty());
  batcher_->cancel(1, 0);
  batcher_->cancel(2, 0);
  const auto frames = batcher_->take_frames();
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[0].request, 1u);
  EXPECT_EQ(frames[0].first_index, 1);
  for (const TokenFrame& frame : frames) EXPECT_EQ(frame.finish, FinishReason::kCancelled);
  EXPECT_FALSE(batcher_->plan().has_value());
  EXPECT_FALSE(batcher_->idle()) << "a step is in flight";
  EXPECT_TRUE(answer().empty());
  expect_nothing_held();
}

TEST_F(BatcherLifecycle, CancelAllLeavesNothing) {
  config_.slots = 1;
  make();
  submit(request(1, 4));
  submit(request(2, 4));
  step(70);
  batcher_->cancel_all();
  const auto frames = batcher_->take_frames();
  ASSERT_EQ(frames.size(), 2u);
  for (const TokenFrame& frame : frames) EXPECT_EQ(frame.finish, FinishReason::kCancelled);
  expect_nothing_held();
}

TEST_F(BatcherLifecycle, CancelBetweenStepsFreesAtOnce) {
  make();
  submit(request(1, 4));
  step();
  batcher_->cancel(1, 0);
  expect_nothing_held();
}

TEST_F(BatcherLifecycle, ACancelledHeadOfTheQueueLetsTheNextOneIn) {
  blocks_ = 8;
  make();
  submit(request(1, 12, 5));
  step();
  submit(request(2, 24, 1));  // does not fit beside the first
  submit(request(3, 1, 1));
  EXPECT_TRUE(plan().admissions.empty());
  batcher_->cancel(2, 0);
  answer();
  EXPECT_EQ(plan().admissions.at(0).tokens, request(3, 1).tokens);
}

// Two sequences grow until the blocks run out: the younger one is put off, computes everything it
// knew again, and goes on where it was.
TEST_F(BatcherLifecycle, TheYoungestIsPreemptedAndContinues) {
  blocks_ = 5;
  prefix_caching_ = false;
  config_.slots = 2;
  config_.lane_steps_max = 2;
  make();
  submit(request(1, 7, 8));
  submit(request(2, 7, 8));
  submit(request(3, 2, 1));
  submit(request(4, 2, 1));
  std::map<uint64_t, std::vector<int32_t>> tokens;
  std::vector<SlotAdmission> admissions;
  for (int32_t token = 100; !batcher_->idle() && token < 200; ++token) {
    while (std::optional<StepPlan> next = batcher_->plan()) {
      for (const SlotAdmission& admission : next->admissions) {
        admitted_[admission.slot] = admission;
        admissions.push_back(admission);
      }
      in_flight_.push_back(std::move(*next));
    }
    for (const TokenFrame& frame : answer(token)) {
      auto& known = tokens[frame.request];
      EXPECT_EQ(frame.first_index, static_cast<int>(known.size()));
      known.insert(known.end(), frame.tokens.begin(), frame.tokens.end());
    }
  }
  EXPECT_EQ(tokens[1].size(), 8u);
  EXPECT_EQ(tokens[2].size(), 8u);
  EXPECT_EQ(tokens[3].size(), 1u);
  EXPECT_EQ(batcher_->stats().preemptions, 1);
  ASSERT_EQ(admissions.size(), 5u);
  // It was admitted again with all that it had generated.
  const std::vector<int32_t>& again = admissions[2].tokens;
  ASSERT_GT(again.size(), 8u);
  EXPECT_EQ(again[0], 20);
  EXPECT_EQ(std::vector(again.begin() + 7, again.end()),
            std::vector(tokens[2].begin(), tokens[2].begin() + static_cast<int>(again.size()) - 7));
  EXPECT_EQ(admissions[2].sampling.prompt_tokens, 7);
  EXPECT_EQ(admissions[3].tokens, request(3, 2).tokens) << "it waits behind the one put off";
  expect_nothing_held();
}

// The youngest is put off while a step in flight uses its block. Meanwhile another sequence ends,
// and leaves room enough for a newcomer: that one must not overtake.
TEST_F(BatcherLifecycle, NoNewcomerEntersWhileSomeoneIsBeingPutOff) {
  blocks_ = 5;
  config_.slots = 6;
  config_.lanes = 2;
  config_.lane_steps_max = 2;
  prefix_caching_ = false;
  make();
  submit(request(1, 1, 10));
  plan();
  submit(request(2, 3, 10));  // needs its second block for its third step
  submit(request(3, 5, 2));   // two blocks, two steps
  plan();
  submit(request(4, 1, 10));  // the youngest, in the other lane
  for (int i = 0; i < 2; ++i) plan();
  for (int i = 0; i < 2; ++i) {
    answer();
    while (std::optional<StepPlan> next = batcher_->plan()) in_flight_.push_back(std::move(*next));
  }
  ASSERT_EQ(batcher_->stats().preemptions, 1);
  submit(request(5, 1, 10));
  answer();
  EXPECT_EQ(answer().back().finish, FinishReason::kLength);
  while (std::optional<StepPlan> next = batcher_->plan()) {
    EXPECT_TRUE(next->admissions.empty());
    in_flight_.push_back(std::move(*next));
  }
  while (true) {
    answer();
    const StepPlan next = plan();
    if (next.admissions.empty()) continue;
    EXPECT_EQ(next.admissions[0].tokens[0], 40);
    break;
  }
}

TEST_F(BatcherLifecycle, AContinuedRequestCountsFromItsPrompt) {
  make();
  GenerationRequest resumed = request(1, 6, 4);
  resumed.epoch = 3;
  resumed.prompt_tokens = 4;
  resumed.sampling.prompt_logprobs = 0;  // were sent before the first token, by another replica
  submit(resumed);
  const StepPlan plan = this->plan();
  EXPECT_EQ(plan.samples.size(), 1u);
  EXPECT_EQ(plan.admissions[0].sampling.prompt_tokens, 4);
  const auto first = answer();
  EXPECT_EQ(first.at(0).first_index, 2);
  EXPECT_EQ(first.at(0).epoch, 3u);
  EXPECT_TRUE(first.at(0).prompt_logprobs.empty());
  const auto last = step();
  EXPECT_EQ(last.at(0).first_index, 3);
  EXPECT_EQ(last.at(0).finish, FinishReason::kLength);
}

TEST_F(BatcherLifecycle, AContinuedRequestThatHasAllItsTokensEndsAtOnce) {
  make();
  GenerationRequest resumed = request(1, 6, 2);
  resumed.prompt_tokens = 4;
  submit(resumed);
  const auto frames = batcher_->take_frames();
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(frames[0].first_index, 2);
  EXPECT_EQ(frames[0].finish, FinishReason::kLength);
  expect_nothing_held();
}

TEST_F(BatcherLifecycle, TwoAttemptsOfOneRequestAreTwoRequests) {
  make();
  GenerationRequest attempt = request(1, 4);
  submit(attempt);
  attempt.epoch = 1;
  submit(attempt);
  step();
  batcher_->cancel(1, 0);
  ASSERT_EQ(batcher_->take_frames().size(), 1u);
  EXPECT_EQ(step().at(0).epoch, 1u);
}

}  // namespace
}  // namespace skein
