#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// What coordinator and replicas exchange about requests, as plain values. comm/wire turns them into frames.

namespace skein {

struct SamplingParams {
  float temperature = 1;  // 0: greedy
  float top_p = 1;
  float min_p = 0;
  int32_t top_k = 0;  // 0: all
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float repetition_penalty = 1;
  uint64_t seed = 0;            // choice c of a request draws from seed + c
  int32_t max_tokens = 16;      // generated tokens at most, per choice
  int32_t min_tokens = 0;       // stop_tokens cannot be sampled before
  int32_t top_logprobs = -1;    // -1: no log-probabilities; 0: of the sampled token only
  int32_t prompt_logprobs = -1; // likewise for every prompt token but the first
  std::vector<int32_t> stop_tokens;  // end-of-sequence ids (unless ignore_eos) and the request's own
  std::vector<std::pair<int32_t, float>> logit_bias;
};

// One request as a replica sees it: token ids only.
struct GenerationRequest {
  uint64_t id = 0;
  uint32_t epoch = 0;  // attempt; frames of another epoch are stale
  std::vector<int32_t> tokens;  // prompt, then tokens accepted in earlier attempts
  int32_t prompt_tokens = 0;    // how many of `tokens` are the prompt; the rest count as generated
  int32_t choices = 1;          // n; above 1 only when nothing has been generated yet
  SamplingParams sampling;
  std::string cache_salt;       // separates prefix caches
};

struct TokenLogprob {
  int32_t token = -1;
  float logprob = 0;
  int32_t rank = 0;  // 1: the likeliest
  std::vector<std::pair<int32_t, float>> top;  // falling
};

enum class FinishReason : uint8_t {
  kNone,       // more is to come
  kStop,       // a stop token was sampled; it is the last of the frame's tokens
  kLength,     // max_tokens or the context's end
  kCancelled,
  kError,      // `error` says why
};

// New tokens of one choice. The receiver accepts only the next index of the current epoch.
struct TokenFrame {
  uint64_t request = 0;
  uint32_t epoch = 0;
  int32_t choice = 0;
  int32_t first_index = 0;  // generated index of tokens[0]
  std::vector<int32_t> tokens;
  std::vector<TokenLogprob> logprobs;         // as many as tokens, or none
  std::vector<TokenLogprob> prompt_logprobs;  // of prompt tokens [1, ...), once, before the first token
  int32_t cached_tokens = 0;                  // prompt tokens that came from the prefix cache
  FinishReason finish = FinishReason::kNone;
  std::string error;
};

}  // namespace skein
