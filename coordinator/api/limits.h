#pragma once

#include <cstddef>
#include <cstdint>

namespace skein {

// What one API request may ask for. Over a bound: 400, naming the field and the bound.
struct ApiLimits {
  size_t json_bytes_max = 8 << 20;        // no larger than HttpLimits::body_bytes_max makes sense
  int json_depth_max = 64;
  size_t json_values_max = 2 << 20;
  size_t members_max = 256;               // of the request's object
  size_t prompts_max = 256;               // in one request
  size_t messages_max = 4096;             // of one chat
  int choices_max = 64;                   // n
  int64_t request_tokens_max = 4 << 20;   // n x (prompt + max_tokens), summed over prompts
  size_t stops_max = 16;
  size_t stop_bytes_max = 256;            // of one stop string
  size_t stop_tokens_max = 32;
  size_t logit_bias_max = 300;
  int logprobs_max = 20;
  size_t cache_salt_bytes_max = 256;
  size_t held_bytes_max = 64 << 10;       // of a streamed answer, kept back until what was written before has left
  size_t answer_bytes_max = 64 << 20;     // of an answer that is not streamed, about; over it the request fails
};

}  // namespace skein
