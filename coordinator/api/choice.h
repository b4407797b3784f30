#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/request.h"
#include "coordinator/api/prepared_request.h"
#include "coordinator/api/stop_matcher.h"

namespace skein {

// A token with its log-probability as an answer shows it.
struct TokenEntry {
  TokenLogprob logprob;
  int64_t text_offset = 0;  // characters of the choice's text before the token
  bool known = true;        // false: no log-probability (a prompt's first token)
};

// What is new of one choice; parts of an answer that is not streamed are appended to each other.
struct ChoiceDelta {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<TokenEntry> entries;  // as many as tokens (and the prompt's, where echoed), or none
  std::string_view finish_reason;   // empty: more is to come
  Json stop_reason;

  void append(ChoiceDelta next);
  // About the size of its JSON.
  size_t bytes() const;
};

// The text side of one choice: ids to text, stop strings, offsets. Single-owner; `model`, `request` and `prompt` must
// outlive it.
class Choice {
 public:
  Choice(const ServedModel& model, const PreparedRequest& request, const Prompt& prompt);

  // Takes a frame's tokens up to where the choice ends. `prompt_logprobs` are the request's, for an echo.
  // Requires: !finished().
  ChoiceDelta accept(const TokenFrame& frame, const std::vector<TokenLogprob>& prompt_logprobs);

  bool finished() const { return finished_; }
  int64_t generated() const { return generated_; }

 private:
  void begin(const std::vector<TokenLogprob>& prompt_logprobs, ChoiceDelta* out);
  void accept_token(const TokenFrame& frame, size_t k, ChoiceDelta* out);
  void add_text(const std::string& text, ChoiceDelta* out);
  void finish(const TokenFrame& frame, ChoiceDelta* out);

  const ServedModel& model_;
  const PreparedRequest& request_;
  const Prompt& prompt_;
  std::optional<IncrementalDecoder> decoder_;
  StopMatcher matcher_;
  int64_t generated_ = 0;
  int64_t characters_ = 0;  // of the text so far, held back or not
  bool begun_ = false;
  bool finished_ = false;
};

}  // namespace skein
