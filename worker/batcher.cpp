#include "worker/batcher.h"

#include <algorithm>
#include <ranges>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "worker/batcher_state.h"

namespace skein {
namespace {

bool all_tokens_valid(const std::vector<int32_t>& tokens, int vocabulary) {
  return std::ranges::all_of(tokens, [&](int32_t id) { return id >= 0 && id < vocabulary; });
}

// The coordinator has answered the client long before; this keeps a wrong frame off the device.
Status check_sampling(const SamplingParams& sampling, int vocabulary) {
  const auto within = [](float value, float low, float high) {
    return value >= low && value <= high;  // no NaN is
  };
  constexpr float kMax = std::numeric_limits<float>::max();
  constexpr float kAboveZero = std::numeric_limits<float>::min();
  if (!within(sampling.temperature, 0, kMax) || !within(sampling.top_p, kAboveZero, 1) ||
      !within(sampling.min_p, 0, 1) || sampling.top_k < 0 ||
      !within(sampling.presence_penalty, -kMax, kMax) ||
      !within(sampling.frequency_penalty, -kMax, kMax) ||
      !within(sampling.repetition_penalty, kAboveZero, kMax)) {
    return invalid_argument("a sampling parameter is out of its range");
  }
  if (sampling.max_tokens < 0 || sampling.min_tokens < 0) {
    return invalid_argument("max_tokens and min_tokens cannot be negative");
  }
  if (sampling.top_logprobs > kTopLogprobsMax || sampling.prompt_logprobs > kTopLogprobsMax) {
    return invalid_argument("at most " + std::to_string(kTopLogprobsMax) +
                            " logprobs are reported");
  }
  if (sampling.stop_tokens.size() > kStopTokensMax || sampling.logit_bias.size() > kLogitBiasMax) {
    return invalid_argument("at most " + std::to_string(kStopTokensMax) + " stop tokens and " +
                            std::to_string(kLogitBiasMax) + " logit biases are possible");
  }
  for (const auto& [token, bias] : sampling.logit_bias) {
    if (token < 0 || token >= vocabulary || std::isnan(bias)) {
      return invalid_argument("logit_bias names a token outside the vocabulary, or no number");
    }
  }
  if (!all_tokens_valid(sampling.stop_tokens, vocabulary)) {
    return invalid_argument("a stop token is outside the vocabulary");
  }
  return {};
}

Status check_request(const GenerationRequest& request, const BatcherConfig& config) {
  const auto tokens = static_cast<int64_t>(request.tokens.size());
  if (request.prompt_tokens < 1 || request.prompt_tokens > tokens) {
    return invalid_argument("the prompt is empty, or longer than the tokens that came");
  }
  if (tokens > config.sequence_tokens_max) {
    return invalid_argument("the request has " + std::to_string(tokens) + " tokens, but at most " +
                            std::to_string(config.sequence_tokens_max) + " fit");
  }
  if (request.prompt_tokens == config.sequence_tokens_max && request.sampling.max_tokens > 0) {
    return invalid_argument("the prompt of " + std::to_string(request.prompt_tokens) +
                            " tokens leaves no room to generate; shorten it");
  }
  if (!all_tokens_valid(request.tokens, config.vocabulary)) {
    return invalid_argument("a token id is outside the vocabulary of " +
                            std::to_string(config.vocabulary));
  }
  if (request.choices < 1 || request.choices > config.slots) {
    return invalid_argument("n is " + std::to_string(request.choices) + ", but from 1 to " +
                            std::to_string(config.slots) + " choices can run at once");
  }
  if (request.choices > 1 && tokens > request.prompt_tokens) {
    return invalid_argument("a request that continues can have one choice only");
  }
  return check_sampling(request.sampling, config.vocabulary);
}

}  // namespace

Batcher::State::State(const BatcherConfig& from, std::unique_ptr<KvCache> kv)
    : config(from), cache(std::move(kv)) {
  CHECK(cache != nullptr);
  for (const int number : {config.slots, config.step_tokens_max, config.sequence_tokens_max,
                           config.vocabulary, config.lanes, config.lane_steps_max,
                           config.waiting_max}) {
    CHECK_GT(number, 0);
  }
  slots.resize(static_cast<size_t>(config.slots));
  for (int slot = config.slots; slot-- > 0;) free_slots.push_back(slot);
  lanes.resize(static_cast<size_t>(config.lanes));
}

Batcher::Batcher(const BatcherConfig& config, std::unique_ptr<KvCache> cache)
    : state_(std::make_unique<State>(config, std::move(cache))) {}

Batcher::~Batcher() = default;

Status Batcher::submit(GenerationRequest request) {
  State& s = *state_;
  RETURN_IF_ERROR(check_request(request, s.config));
  const std::pair key{request.id, request.epoch};
  if (s.requests.contains(key)) return invalid_argument("this request is here already");

  auto sequence = std::make_unique<Sequence>();
  sequence->end = static_cast<int>(
      std::min<int64_t>(s.config.sequence_tokens_max,
                        int64_t{request.prompt_tokens} + request.sampling.max_tokens));
  const int first_generated = static_cast<int>(request.tokens.size()) - request.prompt_tokens;
  if (request.sampling.prompt_logprobs >= 0 && first_generated == 0) {
    sequence->score_end = request.prompt_tokens - 1;
  }
  if (!s.cache->fits(sequence->end - 1)) {
    return invalid_argument("the request may grow to " + std::to_string(sequence->end) +
                            " tokens, more than the KV cache holds; lower max_tokens");
  }
  if (s.waiting.size() >= static_cast<size_t>(s.config.waiting_max)) {
    return resource_exhausted(std::to_string(s.waiting.size()) + " requests wait already");
  }

  auto owner = std::make_shared<BatchedRequest>();
  sequence->tokens = std::move(request.tokens);
  owner->request = std::move(request);
  owner->arrival = s.next_arrival++;
  owner->open_choices = owner->request.choices;
  sequence->owner = owner;
  s.requests.emplace(key, owner);

  const bool generates = static_cast<int>(sequence->tokens.size()) < sequence->end;
  if (generates) {
    sequence->forks = owner->request.choices - 1;
    s.enqueue(std::move(sequence));
    return {};
  }
  // Nothing to generate: the first choice may have a prompt to score, the others are complete.
  for (int choice = sequence->score_end > 0 ? 1 : 0; choice < owner->request.choices; ++choice) {
    TokenFrame frame = s.frame_of(*sequence);
    frame.choice = choice;
    frame.finish = FinishReason::kLength;
    s.frames.push_back(std::move(frame));
    s.finish_request(*owner);
  }
  if (sequence->score_end > 0) s.enqueue(std::move(sequence));
  return {};
}

void Batcher::cancel_all() {
  std::vector<std::pair<uint64_t, uint32_t>> all;
  for (const auto& entry : state_->requests) all.push_back(entry.first);
  for (const auto& [request, epoch] : all) cancel(request, epoch);
}

void Batcher::cancel(uint64_t request, uint32_t epoch) {
  State& s = *state_;
  const auto found = s.requests.find({request, epoch});
  if (found == s.requests.end()) return;
  const std::shared_ptr<BatchedRequest> owner = found->second;
  const auto end = [&](Sequence& sequence) {
    TokenFrame frame = s.frame_of(sequence);
    frame.finish = FinishReason::kCancelled;
    for (int fork = 1; fork <= sequence.forks; ++fork) {
      TokenFrame other = frame;
      other.choice = sequence.choice + fork;
      s.frames.push_back(std::move(other));
      s.finish_request(*owner);
    }
    s.finish(sequence, std::move(frame));
  };
  for (auto& slot : s.slots) {
    if (!slot || slot->owner != owner || slot->phase == Phase::kFinished) continue;
    end(*slot);
    if (slot->in_flight == 0) s.retire(slot->slot);
  }
  std::erase_if(s.waiting, [&](const std::unique_ptr<Sequence>& sequence) {
    if (sequence->owner != owner) return false;
    end(*sequence);
    return true;
  });
  s.admission_stalled = false;
}

std::vector<TokenFrame> Batcher::take_frames() { return std::exchange(state_->frames, {}); }

bool Batcher::idle() const {
  return state_->requests.empty() && state_->in_flight.empty();
}

int Batcher::steps_in_flight() const { return static_cast<int>(state_->in_flight.size()); }

BatcherStats Batcher::stats() const {
  BatcherStats stats = state_->counters;
  for (const Lane& lane : state_->lanes) stats.running += static_cast<int>(lane.running.size());
  stats.waiting = static_cast<int>(state_->waiting.size()) + state_->preempting;
  for (int group = 0; group < state_->cache->groups(); ++group) {
    const KvUsage usage = state_->cache->usage(group);
    stats.kv_usage = std::max(stats.kv_usage, static_cast<double>(usage.held) / usage.blocks);
  }
  return stats;
}

}  // namespace skein
