#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "coordinator/http/limits.h"
#include "coordinator/http/message.h"

namespace skein {

// Bytes to one HTTP/1.0 or 1.1 request (RFC 9112), strictly: whatever two parsers could read differently is refused
// (bare LF or CR, folded or padded header names, Content-Length with Transfer-Encoding, repeated or odd lengths).
// The result does not depend on how the bytes are split between calls. Single-owner.
class RequestParser {
 public:
  explicit RequestParser(const HttpLimits& limits) : limits_(limits) {}

  // Takes bytes from the front and returns how many. Stops once at the end of the headers, so that the caller can
  // judge them before a body is taken, then at the end of the request, and at the first error.
  size_t feed(std::string_view bytes);

  bool started() const { return head_bytes_ > 0 || !line_.empty(); }
  bool head_done() const { return state_ > State::kHeaders; }
  bool done() const { return state_ == State::kDone; }
  const std::optional<HttpError>& error() const { return error_; }

  // Requires: head_done().
  const HttpRequest& request() const { return request_; }
  bool keep_alive() const { return keep_alive_; }
  bool http_1_0() const { return http_1_0_; }
  bool expects_continue() const { return expects_continue_; }
  std::optional<uint64_t> content_length() const { return content_length_; }
  size_t body_bytes() const { return request_.body.size(); }

  // Requires: done(). Leaves the parser ready for the next request.
  HttpRequest take();

 private:
  enum class State : uint8_t {
    kRequestLine, kHeaders, kBody, kChunkSize, kChunkData, kChunkEnd, kTrailers, kDone
  };

  size_t feed_line(std::string_view bytes);
  size_t feed_body(std::string_view bytes);
  void accept_line();
  void accept_request_line(std::string_view line);
  void accept_target(std::string_view target);
  void accept_header(std::string_view line);
  void accept_framing(std::string_view name, std::string_view value);
  void accept_head();
  void accept_chunk_size(std::string_view line);
  void fail(int status, std::string message);
  size_t line_bytes_max() const;

  const HttpLimits& limits_;
  State state_ = State::kRequestLine;
  HttpRequest request_;
  std::string line_;
  size_t head_bytes_ = 0;  // of head, then of trailers as well
  uint64_t left_ = 0;      // of the body or the current chunk
  std::optional<uint64_t> content_length_;
  bool chunked_ = false;
  bool http_1_0_ = false;
  bool keep_alive_ = true;
  bool expects_continue_ = false;
  int hosts_ = 0;
  std::optional<HttpError> error_;
};

}  // namespace skein
