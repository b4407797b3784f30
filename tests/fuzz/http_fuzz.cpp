#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "coordinator/http/access.h"
#include "coordinator/http/request_parser.h"

// A client's bytes: what is made of them does not depend on how they are split.

namespace {

using namespace skein;

constexpr HttpLimits kLimits{.head_bytes_max = 4096, .headers_max = 20, .body_bytes_max = 4096,
                             .chunk_line_bytes_max = 64};

struct Outcome {
  std::vector<HttpRequest> requests;
  size_t consumed = 0;
  int error = 0;
};

template <typename NextLength>
Outcome parse(std::string_view text, NextLength next_length) {
  Outcome out;
  RequestParser parser(kLimits);
  while (!text.empty() && !parser.error()) {
    std::string_view piece = text.substr(0, next_length());
    while (!piece.empty() && !parser.error()) {
      const size_t used = parser.feed(piece);
      CHECK(used > 0 || parser.error());
      CHECK_LE(used, piece.size());
      piece.remove_prefix(used);
      text.remove_prefix(used);
      out.consumed += used;
      CHECK_LE(parser.body_bytes(), kLimits.body_bytes_max);
      if (parser.done()) out.requests.push_back(parser.take());
    }
  }
  if (parser.error()) out.error = parser.error()->status;
  return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Outcome whole = parse(text, [] { return std::string_view::npos; });
  uint32_t state = static_cast<uint32_t>(size) + 1;
  const Outcome pieces = parse(text, [&] { return 1 + (state = state * 1664525u + 1013904223u) % 7; });
  CHECK_EQ(whole.error, pieces.error);
  CHECK_EQ(whole.consumed, pieces.consumed);
  CHECK_EQ(whole.requests.size(), pieces.requests.size());
  const AccessPolicy policy{.api_keys = {"fuzzed-key"}, .allowed_origins = {"https://a.example"}};
  for (size_t i = 0; i < whole.requests.size(); ++i) {
    const HttpRequest& request = whole.requests[i];
    CHECK_EQ(request.method, pieces.requests[i].method);
    CHECK_EQ(request.path, pieces.requests[i].path);
    CHECK_EQ(request.body, pieces.requests[i].body);
    CHECK_LE(request.headers.size(), static_cast<size_t>(kLimits.headers_max));
    policy.refuse(request);
    if (is_preflight(request)) preflight_response(policy, request);
  }
  return 0;
}
