#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "coordinator/cli/bench_statistics.h"

// What `skein bench serve` says and hears: bodies of requests, and the events of answers. No clock, no socket.

namespace skein {

struct RequestShape {
  std::string endpoint = "/v1/completions";  // or /v1/chat/completions
  std::string model = {};
  LengthRange input_len = {256, 256};  // of chats: words
  LengthRange output_len = {128, 128};
  LengthRange token_ids = {32, 255};   // that prompts are drawn from
  std::string count_by = "ids";        // ids (return_token_ids), usage (continuous_usage_stats), events (one token each)
  double temperature = 0;
  bool ignore_eos = true;
  uint64_t seed = 0;
};

struct BenchRequest {
  std::string body;
  int output_len = 0;
};

// Request `index` of a run: a function of the shape and the index alone.
BenchRequest make_request(const RequestShape& shape, uint64_t index);

// What one event says.
struct AnswerEvent {
  std::optional<int64_t> token_ids = {};          // how many it carries
  std::optional<int64_t> completion_tokens = {};  // so far, of its usage
  std::optional<int64_t> prompt_tokens = {};
  bool has_choice = false;
  bool has_text = false;
  std::string error = {};  // of an event that reports one
};

// kCorrupt: no JSON object, or not of this protocol's shape.
Result<AnswerEvent> read_event(std::string_view data);

// The times of one answer as its events arrive. Single-owner.
class AnswerProgress {
 public:
  // Adds to `inter_token` the time since the last event with tokens, shared by the tokens of this one.
  void on_event(const AnswerEvent& event, double seconds_since_sent, Durations* inter_token);

  bool has_tokens() const { return seen_tokens_ > 0; }
  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t output_tokens() const { return output_tokens_; }
  RequestTimes times(double e2e_s) const;

 private:
  int64_t seen_tokens_ = 0;    // of the events that the latencies come from
  int64_t output_tokens_ = 0;  // what the server says where it does, else the former
  int64_t prompt_tokens_ = 0;
  double first_s_ = 0;
  double last_s_ = 0;
};

}  // namespace skein
