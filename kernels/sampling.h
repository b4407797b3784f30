#pragma once

#include <cstdint>

namespace skein {

inline constexpr int kTopLogprobsMax = 20;
inline constexpr int kLogitBiasMax = 300;
inline constexpr int kStopTokensMax = 64;
inline constexpr int64_t kSampleVocabularyMax = int64_t{4} << 20;  // devices reserve working memory for it when opened

// How one slot samples; plain bytes, so that a plan can carry it and a device can hold it.
struct SlotSampling {
  float temperature = 1;         // 0: greedy
  float top_p = 1;               // (0, 1]
  float min_p = 0;               // [0, 1]
  int32_t top_k = 0;             // 0: all
  float presence_penalty = 0;    // over generated tokens
  float frequency_penalty = 0;   // over generated tokens
  float repetition_penalty = 1;  // over prompt and generated tokens
  int32_t prompt_tokens = 0;     // where generated tokens begin in SlotState::tokens
  int32_t min_tokens = 0;        // stop_tokens are forbidden before this many generated tokens
  int32_t top_logprobs = 0;      // how many to report, at most kTopLogprobsMax; -1: nor the sampled token's
  // Random numbers are Philox4x32-10 keyed by the seed, with counter (generated index, 0, 0, 0) for the one of a row,
  // and (generated index, t / 4, 0, 1) for token t, which takes word t % 4.
  uint64_t seed = 0;
  int32_t bias_count = 0;
  int32_t stop_count = 0;
  int32_t bias_tokens[kLogitBiasMax] = {};
  float bias_values[kLogitBiasMax] = {};
  int32_t stop_tokens[kStopTokensMax] = {};
};

// One row of logits to turn into a token or to score.
struct SampleRow {
  int32_t slot = 0;
  int32_t position = 0;  // of the query that made these logits; a sampled token goes to position + 1
  int32_t score = 0;     // 1: report the log-probability of SlotState token [position + 1], sample nothing
};

// Log-probabilities are of the raw logits, before penalties, bias and temperature.
struct SampledToken {
  int32_t token = -1;      // sampled, or the scored one; -2: the logits are broken
  float logprob = 0;       // 0 where none was asked for
  int32_t rank = 0;        // 1 = the likeliest; how many raw logits are >= this token's; 0 likewise
  int32_t top_count = 0;
  int32_t top_tokens[kTopLogprobsMax] = {};  // falling log-probability, ties by smaller id
  float top_logprobs[kTopLogprobsMax] = {};
};

struct SlotState;

// Order per row: log-softmax of the raw logits for the report; repetition, frequency and presence
// penalties; bias; stop tokens below min_tokens forbidden; token mask; then arg-max (ties: smaller id)
// if temperature is below 1e-5; without min-p, top-k and top-p the largest of logit / temperature + Gumbel noise, which
// every token has of its own; else temperature, min-p, top-k, top-p over what these leave (as vLLM; top-k keeps
// exactly k, ties by smaller id) and one uniform number. Logits of -infinity are allowed. A NaN or +infinity among
// them, or nothing left to choose from, gives token -2 in `out` (and in `tokens`, unless scored) and no more: the
// request is to end with an error.
struct SampleArgs {
  SampledToken* out = nullptr;    // (rows)
  int32_t* tokens = nullptr;      // (rows) the sampled token, -1 for a scored row, -2 as above
  float* logits = nullptr;        // (rows, vocabulary), overwritten
  int64_t vocabulary = 0;         // at most kSampleVocabularyMax
  int rows = 0;
  const SampleRow* row = nullptr;  // (rows)
  const SlotState* state = nullptr;  // host struct of device pointers
  const uint32_t* token_mask = nullptr;  // (rows, ceil(vocabulary / 32)), bit set = allowed; or null
  // (rows) LinearArgs::largest of the product that made the logits, or null: where it is not 0, a greedy row of which
  // nothing is reported may take its token from it.
  const uint64_t* largest = nullptr;
};

}  // namespace skein
