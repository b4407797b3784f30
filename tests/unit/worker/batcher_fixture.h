#pragma once

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <memory>
#include <numeric>

#include "worker/batcher.h"

namespace skein {

// A batcher whose results the test makes up.
class BatcherTest : public ::testing::Test {
 protected:
  static constexpr int kBlockTokens = 4;

  // Small numbers unless a test sets others.
  BatcherConfig config_{.slots = 4,
                        .step_tokens_max = 16,
                        .sequence_tokens_max = 64,
                        .vocabulary = 1000,
                        .lanes = 1,
                        .lane_steps_max = 1,
                        .waiting_max = 8};
  int blocks_ = 64;
  bool prefix_caching_ = true;

  void make() {
    auto cache = std::make_unique<KvCache>(
        KvCacheConfig{.groups = {{.blocks = blocks_, .block_tokens = kBlockTokens}},
                      .prefix_caching = prefix_caching_});
    cache_ = cache.get();
    batcher_ = std::make_unique<Batcher>(config_, std::move(cache));
  }

  // Prompts of different ids share no prefix.
  static GenerationRequest request(uint64_t id, int prompt, int max_tokens = 100) {
    GenerationRequest request;
    request.id = id;
    request.tokens.resize(static_cast<size_t>(prompt));
    std::iota(request.tokens.begin(), request.tokens.end(), static_cast<int32_t>(id * 10));
    request.prompt_tokens = prompt;
    request.sampling.max_tokens = max_tokens;
    return request;
  }

  void submit(GenerationRequest request) {
    const Status status = batcher_->submit(std::move(request));
    EXPECT_TRUE(status.ok()) << status.message();
  }

  // The next step, which must be there.
  StepPlan plan() {
    std::optional<StepPlan> plan = batcher_->plan();
    EXPECT_TRUE(plan.has_value()) << "nothing was planned";
    if (!plan) return {};
    for (const SlotAdmission& admission : plan->admissions) {
      admitted_[admission.slot] = admission;
      tables_[admission.slot].clear();
    }
    for (const BlockAssignment& assignment : plan->assignments) {
      auto& table = tables_[assignment.slot];
      EXPECT_EQ(static_cast<size_t>(assignment.first), table.size());
      table.insert(table.end(), assignment.blocks.begin(), assignment.blocks.end());
    }
    in_flight_.push_back(*plan);
    return *plan;
  }

  // Answers the oldest step: every sampled row gets `token`; prompts are scored as they are.
  std::vector<TokenFrame> answer(int32_t token = 500) {
    const StepPlan plan = std::move(in_flight_.front());
    in_flight_.pop_front();
    StepResult result{.step = plan.step, .samples = {}};
    for (const SampleRow& row : plan.samples) {
      SampledToken sampled;
      const auto next = static_cast<size_t>(row.position) + 1;
      sampled.token = row.score != 0 ? admitted_[row.slot].tokens[next] : token;
      sampled.logprob = -0.5f;
      sampled.rank = 1;
      sampled.top_count = admitted_[row.slot].sampling.top_logprobs;
      result.samples.push_back(sampled);
    }
    const Status status = batcher_->complete(result);
    EXPECT_TRUE(status.ok()) << status.message();
    return batcher_->take_frames();
  }

  // One whole step.
  std::vector<TokenFrame> step(int32_t token = 500) {
    plan();
    return answer(token);
  }

  // (tokens, ...) of the plan's rows by slot.
  static std::map<int, int> row_tokens(const StepPlan& plan) {
    std::map<int, int> tokens;
    for (const PlanRow& row : plan.rows) tokens[row.slot] = row.tokens;
    return tokens;
  }

  void expect_nothing_held() {
    EXPECT_TRUE(batcher_->idle());
    EXPECT_EQ(cache_->usage(0).held, 0);
    EXPECT_EQ(cache_->sequences(), 0);
    EXPECT_EQ(batcher_->stats().running, 0);
    EXPECT_EQ(batcher_->stats().waiting, 0);
  }

  KvCache* cache_ = nullptr;
  std::unique_ptr<Batcher> batcher_;
  std::deque<StepPlan> in_flight_;
  std::map<int, SlotAdmission> admitted_;
  std::map<int, std::vector<int32_t>> tables_;
};

}  // namespace skein
