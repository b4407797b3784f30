#pragma once

#include <cstdint>
#include <string_view>

namespace skein {

struct RequestSummary {
  int status = 0;  // HTTP; 499: the client went away
  int64_t prompt_tokens = 0;
  int64_t generation_tokens = 0;
  int64_t cached_tokens = 0;
  int32_t choices = 0;  // in all
  double ttft_s = -1;   // negative: no token came
  double e2e_s = 0;
};

// What metrics hear of generation requests. Called on the loop thread, never blocking.
class RequestObserver {
 public:
  virtual ~RequestObserver() = default;
  // A prompt gave its first token, `seconds` after the request arrived.
  virtual void first_token(double seconds, int64_t prompt_tokens) = 0;
  // `tokens` more came for a choice, `seconds` after its tokens before; none for the first ones.
  virtual void tokens_generated(int64_t tokens) = 0;
  virtual void inter_token(double seconds_per_token, int64_t tokens) = 0;
  // "stop" or "length"; "error" and "abort" for choices that did not get that far.
  virtual void choice_finished(std::string_view reason) = 0;
  virtual void request_finished(const RequestSummary& summary) = 0;
};

}  // namespace skein
