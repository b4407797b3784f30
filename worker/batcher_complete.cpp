#include <algorithm>
#include <string>

#include "base/check.h"
#include "worker/batcher_state.h"

// What results change: tokens become known, frames are made, sequences end.

namespace skein {
namespace {

constexpr int32_t kNoFiniteProbabilities = -2;  // what a sampler answers for logits with NaN

Status unexpected(const std::string& what) {
  return {Code::kInternal, "a step's result does not fit its plan: " + what, Scope::kReplica};
}

TokenLogprob logprob_of(const SampledToken& sample, int top) {
  TokenLogprob logprob;
  logprob.token = sample.token;
  logprob.logprob = sample.logprob;
  logprob.rank = sample.rank;
  const int count = std::min(sample.top_count, top);
  for (int i = 0; i < count; ++i) {
    logprob.top.emplace_back(sample.top_tokens[i], sample.top_logprobs[i]);
  }
  return logprob;
}

}  // namespace

Status Batcher::complete(const StepResult& result) {
  State& s = *state_;
  if (s.in_flight.empty() || s.in_flight.front().step != result.step) {
    return unexpected("step " + std::to_string(result.step) + " is not the next");
  }
  const PlannedStep step = std::move(s.in_flight.front());
  s.in_flight.pop_front();
  if (result.samples.size() != step.samples) {
    return unexpected(std::to_string(result.samples.size()) + " samples instead of " +
                      std::to_string(step.samples));
  }
  --s.lanes[static_cast<size_t>(step.lane)].in_flight;
  std::span<const SampledToken> samples(result.samples);
  for (const PlannedRow& row : step.rows) {
    const size_t count = static_cast<size_t>(row.scores) + (row.samples ? 1 : 0);
    RETURN_IF_ERROR(s.accept_row(row, samples.first(count)));
    samples = samples.subspan(count);
  }
  CHECK(samples.empty());
  return {};
}

Status Batcher::State::accept_row(const PlannedRow& row, std::span<const SampledToken> samples) {
  Sequence& sequence = *slots[static_cast<size_t>(row.slot)];
  CHECK_GT(sequence.in_flight, 0);
  --sequence.in_flight;
  for (const SampledToken& sample : samples.first(static_cast<size_t>(row.scores))) {
    sequence.prompt_logprobs.push_back(logprob_of(sample, sequence.sampling().prompt_logprobs));
  }
  // Of a finished sequence, tokens sampled past its end are dropped.
  if (row.samples && --sequence.unknown >= 0 && sequence.phase != Phase::kFinished) {
    RETURN_IF_ERROR(accept_token(sequence, samples.back()));
  }
  const bool scores_only = sequence.end == sequence.prompt_tokens();
  if (scores_only && row.end == sequence.score_end && sequence.phase != Phase::kFinished) {
    TokenFrame frame = frame_of(sequence);
    frame.prompt_logprobs = std::move(sequence.prompt_logprobs);
    frame.finish = FinishReason::kLength;
    finish(sequence, std::move(frame));
  }
  const auto computed = std::min(static_cast<size_t>(row.end), sequence.tokens.size());
  cache->commit(sequence.kv, std::span(sequence.tokens).first(computed));
  if (sequence.phase != Phase::kRunning && sequence.in_flight == 0) retire(row.slot);
  return {};
}

Status Batcher::State::accept_token(Sequence& sequence, const SampledToken& sample) {
  const SamplingParams& sampling = sequence.sampling();
  TokenFrame frame = frame_of(sequence);
  if (sample.token == kNoFiniteProbabilities) {
    frame.finish = FinishReason::kError;
    frame.error = "the model produced no finite probabilities";
    finish(sequence, std::move(frame));
    return {};
  }
  if (sample.token < 0 || sample.token >= config.vocabulary) {
    return unexpected("token " + std::to_string(sample.token));
  }
  const bool may_stop = sequence.generated() >= sampling.min_tokens;
  sequence.tokens.push_back(sample.token);
  ++counters.generated_tokens;
  frame.tokens.push_back(sample.token);
  if (sampling.top_logprobs >= 0) {
    frame.logprobs.push_back(logprob_of(sample, sampling.top_logprobs));
  }
  frame.prompt_logprobs = std::exchange(sequence.prompt_logprobs, {});
  if (may_stop && std::ranges::count(sampling.stop_tokens, sample.token) > 0) {
    frame.finish = FinishReason::kStop;
  } else if (static_cast<int>(sequence.tokens.size()) == sequence.end) {
    frame.finish = FinishReason::kLength;
  }
  if (frame.finish == FinishReason::kNone) {
    frames.push_back(std::move(frame));
  } else {
    finish(sequence, std::move(frame));
  }
  return {};
}

}  // namespace skein
