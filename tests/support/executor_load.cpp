#include "tests/support/executor_load.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <optional>
#include <random>

#include "base/checked.h"
#include "tests/support/lone_rank.h"
#include "tests/support/replica_harness.h"
#include "tests/unit/model/temporary_folder.h"

namespace skein::testing {
namespace {

constexpr int kContext = 256;

bool same(const SampledToken& a, const SampledToken& b) {
  const auto count = static_cast<size_t>(std::max(a.top_count, 0));
  return a.token == b.token && a.rank == b.rank && a.top_count == b.top_count &&
         std::bit_cast<uint32_t>(a.logprob) == std::bit_cast<uint32_t>(b.logprob) &&
         std::memcmp(a.top_tokens, b.top_tokens, count * sizeof(int32_t)) == 0 &&
         std::memcmp(a.top_logprobs, b.top_logprobs, count * sizeof(float)) == 0;
}

class Driver {
 public:
  explicit Driver(const ExecutorLoad& load)
      : load_(load), random_(load.seed), checkpoint_(value_of(Checkpoint::open(load.model, LoadFormat::kAuto))) {
    const ModelDescription& model = checkpoint_->description();
    spec_ = small_spec(1, 1);
    spec_.model = load.model;
    spec_.device = load.ops.name;
    spec_.dtype = load.worst == 0 ? "float32" : "auto";
    spec_.context_max = kContext;
    spec_.slots = draw(1, load.slots_max);
    spec_.step_tokens_max = draw(1, 3) == 1 ? spec_.slots + draw(1, 8) : draw(spec_.slots + 1, 300);
    spec_.block_tokens = 16 << draw(0, 2);
    const int alone = ceil_div(kContext, spec_.block_tokens);
    spec_.kv_blocks = alone * draw(1, 3) + draw(0, alone);
    spec_.prefix_caching = draw(1, 4) > 1;
    setenv("XDG_CACHE_HOME", folder_.path().c_str(), 1);  // both executors multiply in the same way
    subject_.emplace(spec_, *checkpoint_, load.ops);
    CHECK(subject_->executor().record_decode_steps().ok());
    plain_.emplace(spec_, *checkpoint_, load.ops);
    batcher_.emplace(BatcherConfig{.slots = spec_.slots,
                                   .step_tokens_max = spec_.step_tokens_max,
                                   .sequence_tokens_max = kContext,
                                   .vocabulary = model.vocabulary,
                                   .lanes = 1,
                                   .lane_steps_max = draw(1, 3)},
                     std::make_unique<KvCache>(KvCacheConfig{
                         .groups = std::vector<KvGroupConfig>(
                             model.kv_groups.size(), {.blocks = spec_.kv_blocks, .block_tokens = spec_.block_tokens}),
                         .prefix_caching = spec_.prefix_caching,
                         .model = "load"}));
    ReplicaSpec reference = small_spec(1, 1);
    reference.dtype = "float32";
    reference.context_max = kContext + 1;
    reference.prefix_caching = false;
    alone_.emplace(reference, load.model);
    for (auto& beginning : beginnings_) {
      for (int i = 0; i < kContext; ++i) beginning.push_back(draw(0, model.vocabulary - 1));
    }
  }

  LoadReport run() {
    while (report_.steps < load_.steps && !::testing::Test::HasFailure()) {
      const int event = draw(1, 100);
      if (event <= 15) {
        if (batcher_->stats().waiting < 8) submit();
      } else if (event <= 16) {
        cancel();
      } else if (event <= 60) {
        plan();
      } else {
        finish();
      }
    }
    while (!batcher_->idle() && !::testing::Test::HasFailure()) {
      if (!plan()) finish();
    }
    report_.preemptions = batcher_->stats().preemptions;
    report_.prefix_hits = batcher_->stats().prefix_hits;
    return report_;
  }

 private:
  struct Open {
    GenerationRequest request;
    ReplicaHarness::Answer answer;
  };

  int draw(int low, int high) { return std::uniform_int_distribution(low, high)(random_); }
  float real(float low, float high) { return std::uniform_real_distribution(low, high)(random_); }
  bool chance(int of) { return draw(1, of) == 1; }

  SamplingParams make_sampling() {
    const int vocabulary = checkpoint_->description().vocabulary;
    SamplingParams s;
    s.temperature = chance(2) ? 0 : real(0.3f, 1.5f);
    s.top_p = chance(2) ? 1 : real(0.3f, 1);
    s.min_p = chance(4) ? real(0, 0.2f) : 0;
    s.top_k = chance(3) ? draw(1, 50) : 0;
    s.presence_penalty = chance(4) ? real(-1, 1) : 0;
    s.frequency_penalty = chance(4) ? real(-1, 1) : 0;
    s.repetition_penalty = chance(4) ? real(0.8f, 1.5f) : 1;
    s.seed = random_();
    s.max_tokens = chance(8) ? draw(0, 1) : draw(1, 60);
    s.min_tokens = chance(3) ? draw(1, 10) : 0;
    s.top_logprobs = draw(-1, 3);
    s.prompt_logprobs = chance(6) ? draw(0, 3) : -1;
    for (int i = chance(2) ? draw(1, 5) : 0; i > 0; --i) s.stop_tokens.push_back(draw(0, vocabulary - 1));
    for (int i = chance(4) ? draw(1, 5) : 0; i > 0; --i) {
      s.logit_bias.emplace_back(draw(0, vocabulary - 1), real(-3, 3));
    }
    return s;
  }

  void submit() {
    GenerationRequest request;
    request.id = next_id_++;
    const auto& beginning = beginnings_[static_cast<size_t>(draw(0, 2))];
    const int length = chance(4) ? draw(1, kContext - 1) : draw(1, 60);
    request.tokens.assign(beginning.begin(), beginning.begin() + std::min(length, draw(0, 150)));
    while (static_cast<int>(request.tokens.size()) < length) {
      request.tokens.push_back(draw(0, checkpoint_->description().vocabulary - 1));
    }
    request.prompt_tokens = length;
    request.sampling = make_sampling();
    if (chance(5)) request.choices = draw(1, std::min(spec_.slots, 4));
    const Status status = batcher_->submit(request);
    ASSERT_TRUE(status.ok()) << status.message();
    ++report_.requests;
    for (int choice = 0; choice < request.choices; ++choice) open_[{request.id, choice}] = {request, {}};
  }

  void cancel() {
    if (open_.empty()) return;
    auto chosen = open_.begin();
    std::advance(chosen, draw(0, static_cast<int>(open_.size()) - 1));
    ++report_.cancelled;
    batcher_->cancel(chosen->first.first, 0);
    take_frames();
  }

  bool plan() {
    const std::optional<StepPlan> plan = batcher_->plan();
    if (!plan) return false;
    const Status launched = subject_->executor().launch(*plan);
    EXPECT_TRUE(launched.ok()) << launched.message();
    Result<StepResult> plainly = plain_->executor().run(*plan);
    EXPECT_TRUE(plainly.ok()) << plainly.status().message();
    expected_.push_back(std::move(*plainly));
    ++report_.steps;
    report_.rows += static_cast<int64_t>(plan->rows.size());
    report_.copies += static_cast<int64_t>(plan->copies.size());
    report_.decode_steps += std::ranges::all_of(plan->rows, [](const PlanRow& row) { return row.tokens == 1; }) ? 1 : 0;
    return true;
  }

  void finish() {
    if (subject_->executor().in_flight() == 0) return;
    Result<std::optional<StepResult>> result = subject_->executor().finish();
    while (result.ok() && !*result) result = subject_->executor().finish();
    ASSERT_TRUE(result.ok()) << result.status().message();
    const StepResult& found = **result;
    const StepResult expected = std::move(expected_.front());
    expected_.pop_front();
    ASSERT_EQ(found.step, expected.step);
    ASSERT_EQ(found.samples.size(), expected.samples.size());
    for (size_t i = 0; i < found.samples.size(); ++i) {
      const SampledToken& a = found.samples[i];
      const SampledToken& b = expected.samples[i];
      ASSERT_TRUE(same(a, b)) << "step " << found.step << ", sample " << i << " of " << found.samples.size()
                              << ": token " << a.token << " (" << a.logprob << ") instead of " << b.token << " ("
                              << b.logprob << ")";
    }
    ASSERT_TRUE(batcher_->complete(found).ok());
    take_frames();
  }

  void take_frames() {
    for (TokenFrame& frame : batcher_->take_frames()) {
      const auto found = open_.find({frame.request, frame.choice});
      ASSERT_NE(found, open_.end());
      ReplicaHarness::Answer& answer = found->second.answer;
      answer.tokens.insert(answer.tokens.end(), frame.tokens.begin(), frame.tokens.end());
      std::ranges::move(frame.logprobs, std::back_inserter(answer.logprobs));
      std::ranges::move(frame.prompt_logprobs, std::back_inserter(answer.prompt_logprobs));
      if (frame.finish == FinishReason::kNone) continue;
      answer.finish = frame.finish;
      EXPECT_NE(frame.finish, FinishReason::kError) << frame.error;
      load_.worst == 0 ? expect_same_as_alone(found->second, frame.choice) : expect_near_to_alone(found->second);
      open_.erase(found);
    }
  }

  // The same request by itself.
  void expect_same_as_alone(const Open& open, int choice) {
    GenerationRequest request = open.request;
    request.choices = 1;
    request.sampling.seed += static_cast<uint64_t>(choice);
    request.sampling.max_tokens = std::min(request.sampling.max_tokens, kContext - request.prompt_tokens);
    const ReplicaHarness::Answer alone = alone_->run({request})[0][0];
    const ReplicaHarness::Answer& answer = open.answer;
    ASSERT_LE(answer.tokens.size(), alone.tokens.size());
    EXPECT_TRUE(answer.tokens.size() == alone.tokens.size() || answer.finish == FinishReason::kCancelled);
    for (size_t i = 0; i < answer.tokens.size(); ++i) {
      ASSERT_EQ(answer.tokens[i], alone.tokens[i]) << "token " << i << " of request " << request.id;
    }
    ASSERT_EQ(answer.logprobs.size(), request.sampling.top_logprobs < 0 ? 0 : answer.tokens.size());
    for (size_t i = 0; i < answer.logprobs.size(); ++i) {
      ASSERT_EQ(answer.logprobs[i].logprob, alone.logprobs[i].logprob) << "token " << i << " of " << request.id;
    }
    for (size_t i = 0; i < answer.prompt_logprobs.size(); ++i) {
      ASSERT_EQ(answer.prompt_logprobs[i].logprob, alone.prompt_logprobs[i].logprob) << i << " of " << request.id;
    }
    report_.tokens += static_cast<int64_t>(answer.tokens.size());
    report_.scores += static_cast<int64_t>(answer.prompt_logprobs.size());
  }

  // What was generated, as a prompt whose log-probabilities are asked for.
  void expect_near_to_alone(const Open& open) {
    const GenerationRequest& request = open.request;
    const ReplicaHarness::Answer& answer = open.answer;
    if (answer.tokens.empty() && answer.prompt_logprobs.empty()) return;
    GenerationRequest scored;
    scored.tokens = request.tokens;
    scored.tokens.insert(scored.tokens.end(), answer.tokens.begin(), answer.tokens.end());
    scored.sampling.prompt_logprobs = 1;
    scored.sampling.max_tokens = 1;
    const ReplicaHarness::Answer alone = alone_->run({scored})[0][0];
    ASSERT_EQ(alone.prompt_logprobs.size(), scored.tokens.size() - 1) << alone.error;
    for (size_t i = 0; i < answer.prompt_logprobs.size(); ++i) {
      compare(answer.prompt_logprobs[i].logprob, alone.prompt_logprobs[i].logprob, "prompt token", i + 1);
      ++report_.scores;
    }
    const SamplingParams& s = request.sampling;
    const bool likeliest = s.temperature == 0 && s.presence_penalty == 0 && s.frequency_penalty == 0 &&
                           s.repetition_penalty == 1 && s.logit_bias.empty() && s.min_tokens == 0;
    for (size_t i = 0; i < answer.tokens.size(); ++i) {
      const TokenLogprob& expected = alone.prompt_logprobs[request.tokens.size() - 1 + i];
      if (s.top_logprobs >= 0) compare(answer.logprobs.at(i).logprob, expected.logprob, "token", i);
      if (likeliest) {
        EXPECT_GT(expected.logprob, expected.top[0].second - load_.worst) << "token " << i << " is not the likeliest";
      }
      ++report_.tokens;
    }
  }

  void compare(double found, double expected, const char* what, size_t at) {
    const double difference = std::abs(found - expected);
    EXPECT_LT(difference, load_.worst) << what << " " << at << " of seed " << load_.seed << ": " << found
                                       << " instead of " << expected;
    report_.worst = std::max(report_.worst, difference);
    report_.sum += difference;
  }

  const ExecutorLoad load_;
  std::mt19937_64 random_;
  test::TemporaryFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  ReplicaSpec spec_;
  std::optional<LoneRank> subject_, plain_;
  std::optional<ReplicaHarness> alone_;
  std::optional<Batcher> batcher_;
  std::deque<StepResult> expected_;  // of the steps in flight
  std::vector<int32_t> beginnings_[3];
  std::map<std::pair<uint64_t, int>, Open> open_;  // by request and choice
  uint64_t next_id_ = 1;
  LoadReport report_;
};

}  // namespace

void LoadReport::add(const LoadReport& other) {
  steps += other.steps;
  rows += other.rows;
  decode_steps += other.decode_steps;
  requests += other.requests;
  cancelled += other.cancelled;
  preemptions += other.preemptions;
  prefix_hits += other.prefix_hits;
  copies += other.copies;
  tokens += other.tokens;
  scores += other.scores;
  worst = std::max(worst, other.worst);
  sum += other.sum;
}

LoadReport run_executor_load(const ExecutorLoad& load) { return Driver(load).run(); }

}  // namespace skein::testing
