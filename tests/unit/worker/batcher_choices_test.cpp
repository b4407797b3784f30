#include <gmock/gmock.h>

#include <set>

#include "tests/unit/worker/batcher_fixture.h"

// Several choices of one prompt, and log-probabilities of prompts.

namespace skein {
namespace {

using ::testing::ElementsAre;

class BatcherChoices : public BatcherTest {
 protected:
  static GenerationRequest choices(uint64_t id, int prompt, int count, int max_tokens = 100) {
    GenerationRequest asked = request(id, prompt, max_tokens);
    asked.choices = count;
    return asked;
  }
  static GenerationRequest scored(uint64_t id, int prompt, int top, int max_tokens = 100) {
    GenerationRequest asked = request(id, prompt, max_tokens);
    asked.sampling.prompt_logprobs = top;
    return asked;
  }
};

TEST_F(BatcherChoices, ThePromptIsComputedOnceAndTheRestIsCopied) {
  make();
  GenerationRequest asked = choices(1, 7, 3);
  asked.sampling.seed = 50;
  submit(asked);
  // All but the last token, by the first choice.
  const StepPlan prompt = plan();
  EXPECT_EQ(prompt.tokens(), 6);
  EXPECT_TRUE(prompt.samples.empty());
  const int first = prompt.rows[0].slot;
  answer();
  const StepPlan forks = plan();
  ASSERT_EQ(forks.admissions.size(), 2u);
  ASSERT_EQ(forks.copies.size(), 2u);
  EXPECT_EQ(forks.admissions[0].sampling.seed, 51u);
  EXPECT_EQ(forks.admissions[1].sampling.seed, 52u);
  for (size_t i = 0; i < 2; ++i) {
    const int slot = forks.admissions[i].slot;
    EXPECT_EQ(forks.admissions[i].tokens, asked.tokens);
    EXPECT_EQ(tables_[slot][0], tables_[first][0]);
    EXPECT_NE(tables_[slot][1], tables_[first][1]);
    EXPECT_EQ(forks.copies[i].source, tables_[first][1]);
    EXPECT_EQ(forks.copies[i].destination, tables_[slot][1]);
  }
  EXPECT_NE(forks.copies[0].destination, forks.copies[1].destination);
  answer();
  const StepPlan all = plan();
  EXPECT_EQ(all.rows.size(), 3u);
  for (const PlanRow& row : all.rows) {
    EXPECT_EQ(row.tokens, 1);
    EXPECT_EQ(row.first_position, row.slot == first ? 7 : 6);
  }
  std::set<std::pair<int, int>> indices;
  for (const TokenFrame& frame : answer()) indices.insert({frame.choice, frame.first_index});
  EXPECT_THAT(indices, ElementsAre(std::pair(0, 1), std::pair(1, 0), std::pair(2, 0)));
  EXPECT_EQ(batcher_->stats().prompt_tokens, 7);
}

TEST_F(BatcherChoices, AtABlocksEndNothingIsCopied) {
  make();
  submit(choices(1, 9, 2));
  step();
  const StepPlan forks = plan();
  EXPECT_EQ(forks.admissions.size(), 1u);
  EXPECT_TRUE(forks.copies.empty());
  const int child = forks.admissions[0].slot;
  EXPECT_EQ(tables_[child].size(), 3u);
  answer();
  batcher_->cancel(1, 0);
  expect_nothing_held();
}

TEST_F(BatcherChoices, APromptOfOneTokenForksAtOnce) {
  make();
  submit(choices(1, 1, 3, 1));
  const StepPlan plan = this->plan();
  EXPECT_EQ(plan.admissions.size(), 3u);
  EXPECT_TRUE(plan.copies.empty());
  answer();
  step();
  expect_nothing_held();
}

TEST_F(BatcherChoices, TheyWaitUntilAllHaveASlot) {
  config_.slots = 3;
  make();
  submit(request(1, 2, 2));
  submit(choices(2, 5, 3));
  EXPECT_EQ(plan().admissions.size(), 1u);
  answer();
  EXPECT_TRUE(plan().admissions.empty());
  answer();
  EXPECT_EQ(plan().admissions.size(), 1u);
  answer();
  EXPECT_EQ(plan().admissions.size(), 2u);
}

TEST_F(BatcherChoices, SlotsAreKeptForForks) {
  config_.slots = 3;
  make();
  submit(choices(1, 20, 3));
  submit(request(2, 2));
  EXPECT_EQ(plan().admissions.size(), 1u);
  answer();
  EXPECT_TRUE(plan().admissions.empty()) << "two slots are free, but spoken for";
}

TEST_F(BatcherChoices, ForksSpreadOverLanes) {
  config_.lanes = 2;
  make();
  submit(choices(1, 1, 4));
  plan();
  const StepPlan other = plan();
  EXPECT_EQ(other.lane, 1);
  EXPECT_EQ(other.rows.size(), 2u);
}

TEST_F(BatcherChoices, ForksWithoutBlocksComputeThePromptAgain) {
  blocks_ = 3;
  prefix_caching_ = false;
  make();
  submit(choices(1, 7, 2, 2));
  step();
  // A block for the prompt's end, but none for the copy beside the first choice's next: one waits.
  std::map<int, int> tokens;
  for (int i = 0; i < 10 && !batcher_->idle(); ++i) {
    for (const TokenFrame& frame : step()) {
      tokens[frame.choice] += static_cast<int>(frame.tokens.size());
    }
  }
  EXPECT_THAT(tokens, ElementsAre(std::pair(0, 2), std::pair(1, 2)));
  expect_nothing_held();
}

TEST_F(BatcherChoices, CancelEndsAllOfThemForkedOrNot) {
  make();
  submit(choices(1, 20, 3));
  step();
  batcher_->cancel(1, 0);
  std::set<int> ended;
  for (const TokenFrame& frame : batcher_->take_frames()) {
    EXPECT_EQ(frame.finish, FinishReason::kCancelled);
    ended.insert(frame.choice);
  }
  EXPECT_THAT(ended, ElementsAre(0, 1, 2));
  expect_nothing_held();
  // The slots that were kept for them are free again.
  submit(choices(2, 1, 4));
  EXPECT_EQ(plan().admissions.size(), 4u);
}

TEST_F(BatcherChoices, PromptsAreScoredInChunksAndSentWithTheFirstToken) {
  make();
  GenerationRequest asked = scored(1, 20, 2);
  asked.sampling.top_logprobs = 1;
  submit(asked);
  const StepPlan first = plan();
  EXPECT_EQ(first.admissions[0].sampling.top_logprobs, 2);
  ASSERT_EQ(first.samples.size(), 16u);
  for (int i = 0; i < 16; ++i) {
    EXPECT_EQ(first.samples[static_cast<size_t>(i)].position, i);
    EXPECT_EQ(first.samples[static_cast<size_t>(i)].score, 1);
    EXPECT_EQ(first.sample_queries[static_cast<size_t>(i)], i);
  }
  EXPECT_TRUE(answer().empty());
  const StepPlan second = plan();
  ASSERT_EQ(second.samples.size(), 4u);
  EXPECT_EQ(second.samples[2].score, 1);
  EXPECT_EQ(second.samples[2].position, 18);
  EXPECT_EQ(second.samples[3].score, 0);
  EXPECT_EQ(second.samples[3].position, 19);

  const auto frames = answer();
  ASSERT_EQ(frames.size(), 1u);
  ASSERT_EQ(frames[0].prompt_logprobs.size(), 19u);
  EXPECT_EQ(frames[0].prompt_logprobs[18].token, asked.tokens[19]);
  EXPECT_EQ(frames[0].prompt_logprobs[18].top.size(), 2u);
  ASSERT_EQ(frames[0].logprobs.size(), 1u);
  EXPECT_EQ(frames[0].logprobs[0].top.size(), 1u);
  EXPECT_TRUE(step().at(0).prompt_logprobs.empty());
}

TEST_F(BatcherChoices, ScoringDoesWithoutThePrefixCache) {
  make();
  submit(request(1, 12, 1));
  step();
  GenerationRequest asked = scored(2, 12, 0, 1);
  asked.tokens = request(1, 12).tokens;
  submit(asked);
  EXPECT_EQ(plan().rows[0].first_position, 0);
  const auto frames = answer();
  EXPECT_EQ(frames.at(0).cached_tokens, 0);
  EXPECT_EQ(frames.at(0).prompt_logprobs.size(), 11u);
  EXPECT_EQ(batcher_->stats().prefix_queries, 12);
}

TEST_F(BatcherChoices, OnlyTheFirstChoiceCarriesThePromptsScores) {
  make();
  GenerationRequest asked = scored(1, 6, 0, 1);
  asked.choices = 2;
  submit(asked);
  std::map<int, size_t> scores;
  for (int i = 0; i < 3; ++i) {
    for (const TokenFrame& frame : step()) scores[frame.choice] = frame.prompt_logprobs.size();
  }
  EXPECT_THAT(scores, ElementsAre(std::pair(0, 5u), std::pair(1, 0u)));
}

TEST_F(BatcherChoices, NoTokensAskedForMeansScoresOnly) {
  make();
  GenerationRequest asked = scored(1, 20, 0, 0);
  asked.choices = 2;
  submit(asked);
  const auto others = batcher_->take_frames();
  ASSERT_EQ(others.size(), 1u);
  EXPECT_EQ(others[0].choice, 1);
  EXPECT_EQ(others[0].finish, FinishReason::kLength);
  EXPECT_TRUE(step().empty());
  const StepPlan last = plan();
  EXPECT_EQ(last.tokens(), 3) << "the last token's successor is not asked for";
  const auto frames = answer();
  ASSERT_EQ(frames.size(), 1u);
  EXPECT_EQ(frames[0].prompt_logprobs.size(), 19u);
  EXPECT_EQ(frames[0].finish, FinishReason::kLength);
  expect_nothing_held();
}

TEST_F(BatcherChoices, NothingAskedForEndsAtOnce) {
  make();
  submit(request(1, 20, 0));
  EXPECT_EQ(batcher_->take_frames().at(0).finish, FinishReason::kLength);
  expect_nothing_held();
}

}  // namespace
}  // namespace skein
