#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/request.h"
#include "coordinator/api/limits.h"
#include "coordinator/engine.h"
#include "coordinator/http/message.h"

namespace skein {

// How the answer is to look. Plain values, immutable once read.
struct AnswerOptions {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool echo = false;
  bool echo_only = false;  // echo with max_tokens 0: the one generated token is dropped
  bool return_token_ids = false;
  bool tokens_as_ids = false;
  bool skip_special_tokens = true;
  bool include_stop_text = false;
  bool ignore_eos = false;
  bool prompt_logprobs = false;       // asked for by name; echo's are part of the choice's own
  int top_logprobs = -1;              // -1: none
  std::string role = "assistant";
  std::vector<std::string> stops;
};

struct Prompt {
  std::vector<int32_t> tokens;
  std::string echo;          // the text to put before each choice
  int32_t max_tokens = 0;
};

// A request that has passed every check and needs nothing but an engine.
struct PreparedRequest {
  std::vector<Prompt> prompts;
  int32_t choices = 1;       // of each prompt
  SamplingParams sampling;   // but for max_tokens, which a prompt has
  std::string cache_salt;
  AnswerOptions answer;
};

// Read `body`, tokenize, check every bound. Nothing but an error to answer with is returned; without one `out` is
// filled. Pure but for the seed they draw when there is none; any thread.
std::optional<HttpError> prepare_completion(const Json& body, const ServedModel& model,
                                            const ApiLimits& limits, PreparedRequest* out);
std::optional<HttpError> prepare_chat(const Json& body, const ServedModel& model,
                                      const ApiLimits& limits, PreparedRequest* out);
// The answers of /tokenize and /detokenize.
std::optional<HttpError> answer_tokenize(const Json& body, const ServedModel& model,
                                         const ApiLimits& limits, std::string* out);
std::optional<HttpError> answer_detokenize(const Json& body, const ServedModel& model,
                                           const ApiLimits& limits, std::string* out);

}  // namespace skein
