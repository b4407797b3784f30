#include "kernels/cpu/sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "kernels/philox.h"

namespace skein {
namespace {

constexpr float kGreedyBelow = 1e-5f;  // temperatures that would overflow are greedy, as in vLLM
constexpr int32_t kInvalidLogits = -2;
constexpr float kForbidden = -INFINITY;

struct Row {
  float* logits;
  int64_t vocabulary;
  const SlotSampling& sampling;
  const int32_t* tokens;  // of the slot
  int32_t known;          // tokens up to the query's
  const uint32_t* mask;   // or null

  int32_t generated() const { return known - sampling.prompt_tokens; }
  bool contains(int32_t token) const { return token >= 0 && token < vocabulary; }
};

bool has_penalties(const SlotSampling& s) {
  return s.repetition_penalty != 1 || s.frequency_penalty != 0 || s.presence_penalty != 0;
}

bool forbids_stops(const Row& row) {
  return row.generated() < row.sampling.min_tokens && row.sampling.stop_count > 0;
}

bool changes_logits(const Row& row) {
  return has_penalties(row.sampling) || row.sampling.bias_count > 0 || forbids_stops(row) ||
         row.mask != nullptr;
}

// counts[t]: how often t was generated; kSeen marks tokens already penalised. Zero before and after.
void apply_penalties(const Row& row, int32_t* counts) {
  constexpr int32_t kSeen = INT32_MIN;
  const SlotSampling& s = row.sampling;
  for (int32_t i = std::max(s.prompt_tokens, 0); i < row.known; ++i) {
    if (row.contains(row.tokens[i])) ++counts[row.tokens[i]];
  }
  for (int32_t i = 0; i < row.known; ++i) {
    const int32_t token = row.tokens[i];
    if (!row.contains(token) || (counts[token] & kSeen) != 0) continue;
    float& logit = row.logits[token];
    logit = logit > 0 ? logit / s.repetition_penalty : logit * s.repetition_penalty;
    if (counts[token] > 0) {
      logit -= s.frequency_penalty * static_cast<float>(counts[token]);
      logit -= s.presence_penalty;
    }
    counts[token] |= kSeen;
  }
  for (int32_t i = 0; i < row.known; ++i) {
    if (row.contains(row.tokens[i])) counts[row.tokens[i]] = 0;
  }
}

void apply_mask(const Row& row) {
  for (int64_t begin = 0; begin < row.vocabulary; begin += 32) {
    const uint32_t allowed = row.mask[begin / 32];
    if (allowed == ~uint32_t{0}) continue;
    const int64_t end = std::min(begin + 32, row.vocabulary);
    for (int64_t t = begin; t < end; ++t) {
      if ((allowed >> (t - begin) & 1) == 0) row.logits[t] = kForbidden;
    }
  }
}

void change_logits(const Row& row, int32_t* counts) {
  const SlotSampling& s = row.sampling;
  if (has_penalties(s)) apply_penalties(row, counts);
  for (int32_t i = 0; i < s.bias_count; ++i) {
    if (row.contains(s.bias_tokens[i])) row.logits[s.bias_tokens[i]] += s.bias_values[i];
  }
  if (forbids_stops(row)) {
    for (int32_t i = 0; i < s.stop_count; ++i) {
      if (row.contains(s.stop_tokens[i])) row.logits[s.stop_tokens[i]] = kForbidden;
    }
  }
  if (row.mask != nullptr) apply_mask(row);
}

bool likelier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// All tokens with weight >= bound (and above 0), in order of their ids.
int64_t collect(const float* weights, int64_t n, float bound, const IsaKernels& kernels,
                Candidate* out) {
  const float lowest = std::max(bound, 1e-45f);
  int64_t count = 0;
  for (int64_t i = kernels.find_not_less(weights, 0, n, lowest); i < n;
       i = kernels.find_not_less(weights, i + 1, n, lowest)) {
    out[count++] = {weights[i], static_cast<int32_t>(i)};
  }
  return count;
}

double mass(const Candidate* candidates, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(candidates[i].weight);
  return sum;
}

// Leaves the tokens that min-p, then top-k, then top-p keep in `candidates`, likeliest first; returns how
// many. Only as many as needed are looked at: a bound on the weight falls until enough are above it.
int64_t keep_likeliest(const Row& row, const float* weights, const IsaKernels& kernels,
                       Candidate* candidates) {
  const SlotSampling& s = row.sampling;
  const int64_t n = row.vocabulary;
  const bool limited = s.top_k > 0 && s.top_k < n;
  const bool unbounded = !limited && s.min_p <= 0;  // top-p of everything
  const double total = unbounded ? kernels.sum(weights, n) : 0;
  const float floor = std::min(s.min_p, 1.0f);
  int64_t count = 0;
  for (float bound = 0x1p-4f;; bound *= 0x1p-4f) {
    const bool last = bound <= floor || bound < 1e-30f || (!limited && !unbounded);
    count = collect(weights, n, last ? floor : bound, kernels, candidates);
    if (last) break;
    if (limited && count >= s.top_k) break;
    if (unbounded && mass(candidates, count) >= s.top_p * total * (1 + 1e-6)) break;
  }
  std::sort(candidates, candidates + count, likelier);
  if (limited) count = std::min<int64_t>(count, s.top_k);
  if (s.top_p < 1) {
    const double wanted = s.top_p * (unbounded ? total : mass(candidates, count));
    double sum = 0;
    int64_t kept = 0;
    while (kept < count && (kept == 0 || sum < wanted)) {
      sum += static_cast<double>(candidates[kept++].weight);
    }
    count = kept;
  }
  return count;
}

int32_t draw_from(const Candidate* candidates, int64_t count, double uniform) {
  double left = uniform * mass(candidates, count);
  for (int64_t i = 0; i < count; ++i) {
    left -= static_cast<double>(candidates[i].weight);
    if (left < 0) return candidates[i].token;
  }
  return candidates[count - 1].token;
}

// The row's logits have their final values, the largest of which is `highest`.
int32_t choose(const Row& row, float highest, const IsaKernels& kernels,
               const SampleScratch& scratch) {
  const SlotSampling& s = row.sampling;
  const int64_t n = row.vocabulary;
  if (s.temperature < kGreedyBelow) {
    return static_cast<int32_t>(kernels.find_not_less(row.logits, 0, n, highest));
  }
  const auto index = static_cast<uint32_t>(row.generated());
  if (s.top_p >= 1 && s.min_p <= 0 && (s.top_k <= 0 || s.top_k >= n)) {
    return kernels.draw(row.logits, n, 1 / s.temperature, s.seed, index);
  }
  kernels.exp_row(scratch.weights, row.logits, n, highest, 1 / s.temperature);
  const double uniform = philox_uniform(s.seed, index);
  const int64_t count = keep_likeliest(row, scratch.weights, kernels, scratch.candidates);
  return draw_from(scratch.candidates, count, uniform);
}

// The likeliest `count` tokens of the raw logits.
void report_top(const float* logits, int64_t n, int32_t count, double log_normaliser,
                const IsaKernels& kernels, SampledToken* out) {
  Candidate best[kTopLogprobsMax];
  int32_t have = 0;
  const auto wanted = static_cast<int32_t>(std::min<int64_t>(count, n));
  if (wanted <= 0) return;
  int64_t i = 0;
  while (i < n) {
    const Candidate candidate = {logits[i], static_cast<int32_t>(i)};
    if (have < wanted || likelier(candidate, best[have - 1])) {
      if (have < wanted) ++have;
      int32_t at = have - 1;
      for (; at > 0 && likelier(candidate, best[at - 1]); --at) best[at] = best[at - 1];
      best[at] = candidate;
    }
    i = have < wanted ? i + 1 : kernels.find_not_less(logits, i + 1, n, best[have - 1].weight);
  }
  out->top_count = have;
  for (int32_t k = 0; k < have; ++k) {
    out->top_tokens[k] = best[k].token;
    out->top_logprobs[k] = static_cast<float>(static_cast<double>(best[k].weight) - log_normaliser);
  }
}

void multiply(uint32_t a, uint32_t b, uint32_t* high, uint32_t* low) {
  const uint64_t product = uint64_t{a} * b;
  *high = static_cast<uint32_t>(product >> 32);
  *low = static_cast<uint32_t>(product);
}

}  // namespace

double philox_uniform(uint64_t seed, uint32_t index) {
  uint32_t counter[4] = {index, 0, 0, 0};
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < kPhiloxRounds; ++round) {
    uint32_t high0, low0, high1, low1;
    multiply(kPhiloxM0, counter[0], &high0, &low0);
    multiply(kPhiloxM1, counter[2], &high1, &low1);
    counter[0] = high1 ^ counter[1] ^ key[0];
    counter[1] = low1;
    counter[2] = high0 ^ counter[3] ^ key[1];
    counter[3] = low0;
    key[0] += kPhiloxW0;
    key[1] += kPhiloxW1;
  }
  return (static_cast<double>(counter[0]) + 0.5) * 0x1p-32;
}

void sample_row(const SampleArgs& args, int r, const IsaKernels& kernels,
                const SampleScratch& scratch) {
  const SampleRow& request = args.row[r];
  const SlotState& state = *args.state;
  CHECK(request.slot >= 0 && request.slot < state.slots);
  CHECK(request.position >= 0 && request.position < state.tokens_max);
  const int64_t n = args.vocabulary;
  const int64_t mask_words = (n + 31) / 32;
  const Row row = {args.logits + r * n, n, state.sampling[request.slot],
                   state.tokens + request.slot * int64_t{state.tokens_max}, request.position + 1,
                   args.token_mask == nullptr ? nullptr : args.token_mask + r * mask_words};
  SampledToken& out = args.out[r];
  out = {};
  args.tokens[r] = request.score != 0 ? -1 : kInvalidLogits;
  out.token = kInvalidLogits;
  const RowMaximum raw = kernels.maximum(row.logits, n);
  if (!raw.valid) return;
  const float* raw_logits = row.logits;
  int32_t token = kInvalidLogits;
  if (request.score != 0) {
    CHECK_LT(row.known, state.tokens_max);
    token = row.tokens[row.known];
    CHECK(row.contains(token));
  } else {
    float highest = raw.value;
    if (changes_logits(row)) {
      std::memcpy(scratch.raw, row.logits, static_cast<size_t>(n) * sizeof(float));
      raw_logits = scratch.raw;
      change_logits(row, scratch.counts);
      const RowMaximum changed = kernels.maximum(row.logits, n);
      if (!changed.valid) return;  // every token is forbidden
      highest = changed.value;
    }
    token = choose(row, highest, kernels, scratch);
    args.tokens[r] = token;
  }
  out.token = token;
  if (request.score == 0 && row.sampling.top_logprobs < 0) return;
  const double log_normaliser = static_cast<double>(raw.value) + std::log(kernels.exp_sum(raw_logits, n, raw.value));
  const float logit = raw_logits[token];
  out.logprob = static_cast<float>(static_cast<double>(logit) - log_normaliser);
  out.rank = static_cast<int32_t>(kernels.count_not_less(raw_logits, n, logit));
  report_top(raw_logits, n, std::min(row.sampling.top_logprobs, kTopLogprobsMax), log_normaliser,
             kernels, &out);
}

}  // namespace skein
