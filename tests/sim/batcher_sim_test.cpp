#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <tuple>

#include "tests/sim/fake_device.h"
#include "worker/batcher.h"

// The batcher against a device that notices everything, under seeded random load: requests of all
// kinds arrive and are cancelled at any moment, pools are tiny, steps overlap. Whatever happens,
// each choice gets the tokens that it would get alone, once, in order, and nothing is lost.

namespace skein::sim {
namespace {

struct Expected {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  FinishReason finish = FinishReason::kLength;
};

// The plain executor: one sequence, token by token.
Expected expect_choice(const GenerationRequest& request, int choice, int sequence_tokens_max) {
  const SamplingParams& sampling = request.sampling;
  const uint64_t seed = sampling.seed + static_cast<uint64_t>(choice);
  uint64_t prefix = 0;
  for (const int32_t token : request.tokens) prefix = extend(prefix, token);
  int length = static_cast<int>(request.tokens.size());
  const int end = std::min(request.prompt_tokens + sampling.max_tokens, sequence_tokens_max);
  Expected expected;
  for (; length < end; ++length) {
    const int index = length - request.prompt_tokens;
    if (broken(prefix, seed)) {
      expected.finish = FinishReason::kError;
      return expected;
    }
    const bool may_stop = index >= sampling.min_tokens;
    const std::span<const int32_t> stops(sampling.stop_tokens);
    const int32_t token = choose(prefix, seed, index, may_stop ? stops.first(0) : stops);
    expected.tokens.push_back(token);
    expected.logprobs.push_back(score(prefix, token));
    prefix = extend(prefix, token);
    if (may_stop && std::ranges::find(stops, token) != stops.end()) {
      expected.finish = FinishReason::kStop;
      return expected;
    }
  }
  return expected;
}

struct Coverage {
  int64_t requests = 0, refused = 0, cancelled = 0, finished[4] = {};
  int64_t preemptions = 0, hits = 0, copies = 0, resumed = 0, scored = 0;
};

class Simulation {
 public:
  Simulation(uint64_t seed, Coverage* coverage) : random_(seed), coverage_(*coverage) {
    config_ = {.slots = draw(1, 8),
               .step_tokens_max = draw(1, 4) == 1 ? draw(1, 4) : draw(4, 40),
               .sequence_tokens_max = draw(8, 60),
               .vocabulary = kVocabulary,
               .lanes = draw(1, 3),
               .lane_steps_max = draw(1, 2),
               .waiting_max = draw(1, 4) == 1 ? draw(1, 3) : 100};
    KvCacheConfig cache{.groups = {}, .prefix_caching = draw(1, 4) > 1, .key = {}, .model = "fake"};
    for (int groups = draw(1, 3) == 1 ? 2 : 1; groups > 0; --groups) {
      const int width = draw(1, 2) == 1 ? 4 : draw(1, 9);
      const int alone = (config_.sequence_tokens_max + width - 1) / width;
      const int blocks = draw(alone, 1 + alone * draw(1, 5));
      cache.groups.push_back({.blocks = blocks, .block_tokens = width});
    }
    groups_ = cache.groups;
    auto kv = std::make_unique<KvCache>(std::move(cache));
    cache_ = kv.get();
    batcher_ = std::make_unique<Batcher>(config_, std::move(kv));
    device_ = std::make_unique<FakeDevice>(groups_, config_.slots, config_.step_tokens_max,
                                           config_.lane_steps_max);
    for (auto& base : bases_) {
      for (int i = 0; i < 60; ++i) base.push_back(draw(0, kVocabulary - 1));
    }
  }

  // Stops at the first thing that is wrong.
  void run(int requests) {
    while (requests > 0 && healthy()) {
      const int event = draw(1, 100);
      if (event <= 12) {
        submit(make_request());
        --requests;
      } else if (event <= 14) {
        cancel_any();
      } else if (event <= 60) {
        plan();
      } else {
        complete();
      }
    }
    finish();
    if (!healthy()) return;
    // Every slot is still there: a request takes them all at once.
    GenerationRequest last = make_request();
    last.tokens.resize(1);
    last.prompt_tokens = 1;
    last.choices = config_.slots;
    last.sampling.max_tokens = 3;
    submit(std::move(last));
    finish();
    if (!healthy()) return;
    check_nothing_lost();
  }

 private:
  // What is known of a choice that has not ended.
  struct Open {
    Expected expected;
    const GenerationRequest* request = nullptr;
    size_t received = 0;
    bool scored = false;
  };
  using Key = std::tuple<uint64_t, uint32_t, int>;

  int draw(int low, int high) { return std::uniform_int_distribution(low, high)(random_); }

  bool healthy() {
    if (!device_->breach().empty()) ADD_FAILURE() << device_->breach();
    return !::testing::Test::HasFailure();
  }

  GenerationRequest make_request() {
    GenerationRequest request;
    request.id = next_id_++;
    request.epoch = static_cast<uint32_t>(draw(0, 3));
    request.cache_salt = draw(1, 6) == 1 ? "salt" : "";
    const auto& base = bases_[static_cast<size_t>(draw(0, 2))];
    const int length = draw(1, std::max(1, config_.sequence_tokens_max - draw(0, 10)));
    const int shared = std::min(length, draw(0, 60));
    request.tokens.assign(base.begin(), base.begin() + shared);
    while (static_cast<int>(request.tokens.size()) < length) request.tokens.push_back(draw(0, 2));
    request.prompt_tokens = length;
    SamplingParams& sampling = request.sampling;
    sampling.seed = static_cast<uint64_t>(draw(0, 3));
    sampling.max_tokens = draw(1, 8) == 1 ? draw(0, 1) : draw(1, 40);
    sampling.min_tokens = draw(0, 1) * draw(0, 10);
    sampling.top_logprobs = draw(-1, 3);
    sampling.prompt_logprobs = draw(1, 4) == 1 ? draw(0, 3) : -1;
    for (int i = draw(0, 4); i > 0; --i) sampling.stop_tokens.push_back(draw(0, kVocabulary - 1));
    if (draw(1, 4) == 1) {
      request.choices = draw(1, std::min(config_.slots, 4));
    } else if (draw(1, 4) == 1) {
      resume(request);
    }
    return request;
  }

  // As if another replica had died after some tokens.
  void resume(GenerationRequest& request) {
    const Expected all = expect_choice(request, 0, config_.sequence_tokens_max);
    const int open = static_cast<int>(all.tokens.size()) - 1;
    if (open <= 0) return;
    const int accepted = draw(1, open);
    request.tokens.insert(request.tokens.end(), all.tokens.begin(), all.tokens.begin() + accepted);
    ++coverage_.resumed;
  }

  void submit(GenerationRequest request) {
    ++coverage_.requests;
    const Status status = batcher_->submit(request);
    if (!status.ok()) {
      const bool no_room = request.prompt_tokens >= config_.sequence_tokens_max;
      const bool full = batcher_->stats().waiting >= config_.waiting_max;
      EXPECT_TRUE(status.code() == Code::kResourceExhausted ? full : no_room) << status.message();
      ++coverage_.refused;
      return;
    }
    const auto kept = std::make_shared<const GenerationRequest>(std::move(request));
    kept_.push_back(kept);
    for (int choice = 0; choice < kept->choices; ++choice) {
      open_[{kept->id, kept->epoch, choice}] = {
          .expected = expect_choice(*kept, choice, config_.sequence_tokens_max),
          .request = kept.get()};
    }
    take_frames();
  }

  void cancel_any() {
    if (open_.empty()) return;
    auto chosen = open_.begin();
    std::advance(chosen, draw(0, static_cast<int>(open_.size()) - 1));
    const auto [id, epoch, choice] = chosen->first;
    batcher_->cancel(id, epoch + 1);  // of no attempt that is here
    take_frames();
    EXPECT_TRUE(open_.contains({id, epoch, choice}));
    cancelling_ = true;
    batcher_->cancel(id, epoch);
    take_frames();
    cancelling_ = false;
    for (const auto& [key, open] : open_) {
      EXPECT_FALSE(std::get<0>(key) == id && std::get<1>(key) == epoch) << "a choice lives on";
    }
    ++coverage_.cancelled;
  }

  bool plan() {
    std::optional<StepPlan> plan = batcher_->plan();
    if (!plan) return false;
    coverage_.copies += static_cast<int64_t>(plan->copies.size());
    device_->plan(std::move(*plan));
    return true;
  }

  bool complete() {
    if (device_->in_flight() == 0) return false;
    const StepResult result = device_->run();
    std::string bytes;
    encode(result, &bytes);
    const Result<StepResult> decoded = decode_step_result(bytes);
    EXPECT_TRUE(decoded.ok() && batcher_->complete(*decoded).ok());
    take_frames();
    return true;
  }

  void finish() {
    while (healthy() && !batcher_->idle()) {
      const bool planned = plan();
      if (!planned || draw(1, 2) == 1) {
        if (!complete() && !planned) {
          ADD_FAILURE() << "work is left, but nothing is planned";
        }
      }
    }
  }

  void take_frames() {
    for (const TokenFrame& frame : batcher_->take_frames()) {
      const auto found = open_.find({frame.request, frame.epoch, frame.choice});
      ASSERT_NE(found, open_.end()) << "a frame of a choice that is not open";
      check_frame(frame, found->second);
      if (frame.finish == FinishReason::kNone) continue;
      ++coverage_.finished[static_cast<size_t>(frame.finish) - 1];
      open_.erase(found);
    }
  }

  void check_frame(const TokenFrame& frame, Open& open) {
    const GenerationRequest& request = *open.request;
    const int before = static_cast<int>(request.tokens.size()) - request.prompt_tokens;
    EXPECT_EQ(frame.first_index, before + static_cast<int>(open.received));
    EXPECT_LT(frame.cached_tokens, static_cast<int>(request.tokens.size()));
    const int top = request.sampling.top_logprobs;
    EXPECT_EQ(frame.logprobs.size(), top < 0 ? 0 : frame.tokens.size());
    check_prompt_logprobs(frame, open);
    for (size_t i = 0; i < frame.tokens.size(); ++i) {
      ASSERT_LT(open.received, open.expected.tokens.size()) << "more tokens than alone";
      EXPECT_EQ(frame.tokens[i], open.expected.tokens[open.received]);
      if (top >= 0) {
        EXPECT_EQ(frame.logprobs[i].logprob, open.expected.logprobs[open.received]);
        EXPECT_EQ(frame.logprobs[i].top.size(), static_cast<size_t>(top));
      }
      ++open.received;
    }
    if (frame.finish == FinishReason::kNone) return;
    EXPECT_EQ(frame.finish == FinishReason::kCancelled, cancelling_);
    if (cancelling_) return;
    EXPECT_EQ(frame.finish, open.expected.finish);
    EXPECT_EQ(open.received, open.expected.tokens.size());
    EXPECT_EQ(frame.error.empty(), frame.finish != FinishReason::kError);
  }

  void check_prompt_logprobs(const TokenFrame& frame, Open& open) {
    const GenerationRequest& request = *open.request;
    const int top = request.sampling.prompt_logprobs;
    const bool resumed = static_cast<int>(request.tokens.size()) > request.prompt_tokens;
    const bool wanted = top >= 0 && !resumed && frame.choice == 0 && !open.scored &&
                        frame.finish != FinishReason::kCancelled &&
                        frame.finish != FinishReason::kError;
    ASSERT_EQ(frame.prompt_logprobs.size(),
              wanted ? static_cast<size_t>(request.prompt_tokens) - 1 : 0);
    if (!wanted) return;
    open.scored = true;
    ++coverage_.scored;
    uint64_t prefix = 0;
    for (size_t i = 0; i < frame.prompt_logprobs.size(); ++i) {
      prefix = extend(prefix, request.tokens[i]);
      EXPECT_EQ(frame.prompt_logprobs[i].token, request.tokens[i + 1]);
      EXPECT_EQ(frame.prompt_logprobs[i].logprob, score(prefix, request.tokens[i + 1]));
      EXPECT_EQ(frame.prompt_logprobs[i].top.size(), static_cast<size_t>(top));
    }
  }

  void check_nothing_lost() {
    EXPECT_TRUE(open_.empty());
    EXPECT_EQ(batcher_->steps_in_flight(), 0);
    const BatcherStats stats = batcher_->stats();
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
    EXPECT_EQ(stats.kv_usage, 0);
    EXPECT_EQ(cache_->sequences(), 0);
    for (int group = 0; group < cache_->groups(); ++group) {
      EXPECT_EQ(cache_->usage(group).held, 0);
    }
    EXPECT_LE(stats.prefix_hits, stats.prefix_queries);
    coverage_.preemptions += stats.preemptions;
    coverage_.hits += stats.prefix_hits;
  }

  std::mt19937_64 random_;
  Coverage& coverage_;
  BatcherConfig config_;
  std::vector<KvGroupConfig> groups_;
  KvCache* cache_ = nullptr;
  std::unique_ptr<Batcher> batcher_;
  std::unique_ptr<FakeDevice> device_;
  std::vector<int32_t> bases_[3];
  std::vector<std::shared_ptr<const GenerationRequest>> kept_;
  std::map<Key, Open> open_;
  uint64_t next_id_ = 1;
  bool cancelling_ = false;
};

TEST(BatcherSimulation, EveryChoiceGetsTheTokensThatItWouldGetAlone) {
  Coverage coverage;
  for (uint64_t seed = 1; seed <= 400 && !HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Simulation(seed, &coverage).run(60);
  }
  if (HasFailure()) return;
  // The load reached every corner.
  EXPECT_GT(coverage.requests, 10000);
  EXPECT_GT(coverage.refused, 100);
  EXPECT_GT(coverage.cancelled, 500);
  for (const int64_t finished : coverage.finished) EXPECT_GT(finished, 20);
  EXPECT_GT(coverage.preemptions, 500);
  EXPECT_GT(coverage.hits, 1000);
  EXPECT_GT(coverage.copies, 500);
  EXPECT_GT(coverage.resumed, 500);
  EXPECT_GT(coverage.scored, 500);
}

}  // namespace
}  // namespace skein::sim
