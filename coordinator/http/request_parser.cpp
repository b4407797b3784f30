#include "coordinator/http/request_parser.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace skein {
namespace {

bool is_token_char(unsigned char c) {
  constexpr std::string_view kPunctuation = "!#$%&'*+-.^_`|~";
  const bool alphanumeric =
      (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return alphanumeric || kPunctuation.find(static_cast<char>(c)) != kPunctuation.npos;
}

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}

bool is_field_char(unsigned char c) { return c == '\t' || (c >= 0x20 && c != 0x7F); }

bool is_target_char(unsigned char c) { return c > 0x20 && c < 0x7F; }

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

constexpr uint64_t kTooLong = uint64_t{1} << 56;  // stands for every length from there on

// Digits only, no sign, no list.
std::optional<uint64_t> parse_length(std::string_view text) {
  if (text.empty()) return std::nullopt;
  uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    value = std::min(kTooLong, value * 10 + static_cast<uint64_t>(c - '0'));
  }
  return value;
}

std::optional<uint64_t> parse_hex(std::string_view text) {
  if (text.empty()) return std::nullopt;
  uint64_t value = 0;
  for (const char c : text) {
    const char folded = static_cast<char>(c | 0x20);
    if (c >= '0' && c <= '9') {
      value = std::min(kTooLong, value * 16 + static_cast<uint64_t>(c - '0'));
    } else if (folded >= 'a' && folded <= 'f') {
      value = std::min(kTooLong, value * 16 + static_cast<uint64_t>(folded - 'a' + 10));
    } else {
      return std::nullopt;
    }
  }
  return value;
}

// Calls `fn` with every element of a comma-separated list.
template <typename Fn>
void for_each_element(std::string_view list, Fn fn) {
  while (true) {
    const size_t comma = list.find(',');
    fn(lower(trim(list.substr(0, comma))));
    if (comma == list.npos) return;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace

size_t RequestParser::feed(std::string_view bytes) {
  const bool head_was_done = head_done();
  size_t used = 0;
  while (used < bytes.size() && !error_ && !done()) {
    const bool in_body = state_ == State::kBody || state_ == State::kChunkData;
    const std::string_view rest = bytes.substr(used);
    used += in_body ? feed_body(rest) : feed_line(rest);
    if (!head_was_done && head_done()) break;
  }
  return used;
}

size_t RequestParser::line_bytes_max() const {
  if (state_ == State::kChunkSize || state_ == State::kChunkEnd) return limits_.chunk_line_bytes_max;
  return limits_.head_bytes_max - head_bytes_;
}

size_t RequestParser::feed_line(std::string_view bytes) {
  const size_t newline = bytes.find('\n');
  const size_t wanted = newline == bytes.npos ? bytes.size() : newline + 1;
  const size_t room = line_bytes_max() - line_.size();
  if (wanted > room) {
    const bool chunk = state_ == State::kChunkSize || state_ == State::kChunkEnd;
    fail(chunk ? 400 : 431, chunk ? "A chunk-size line is too long."
                                  : "Request line and headers are over the limit of " +
                                        std::to_string(limits_.head_bytes_max) + " bytes.");
    return room;
  }
  line_.append(bytes.substr(0, wanted));
  if (newline != bytes.npos) accept_line();
  return wanted;
}

void RequestParser::accept_line() {
  const std::string line = std::exchange(line_, {});
  if (state_ != State::kChunkSize && state_ != State::kChunkEnd) head_bytes_ += line.size();
  if (line.size() < 2 || line[line.size() - 2] != '\r') {
    return fail(400, "A line of the request ends in LF without CR.");
  }
  const std::string_view text = std::string_view(line).substr(0, line.size() - 2);
  if (!std::all_of(text.begin(), text.end(), is_field_char)) {
    return fail(400, "A line of the request holds control characters.");
  }
  switch (state_) {
    case State::kRequestLine:
      // RFC 9112, 2.2: empty lines before a request are to be skipped; head_bytes_ bounds them.
      if (!text.empty()) accept_request_line(text);
      return;
    case State::kHeaders:
      return text.empty() ? accept_head() : accept_header(text);
    case State::kChunkSize:
      return accept_chunk_size(text);
    case State::kChunkEnd:
      if (!text.empty()) return fail(400, "A chunk is longer than its size says.");
      state_ = State::kChunkSize;
      return;
    case State::kTrailers:
      // Trailers are read and dropped: nothing of ours depends on one.
      if (text.empty()) state_ = State::kDone;
      return;
    case State::kBody:
    case State::kChunkData:
    case State::kDone:
      CHECK(false);
  }
}

void RequestParser::accept_request_line(std::string_view line) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == line.npos || first == last) {
    return fail(400, "The request line is not METHOD TARGET VERSION.");
  }
  const std::string_view method = line.substr(0, first);
  const std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!is_token(method) || method.size() > 32) return fail(400, "The request's method is no token.");
  if (target.empty() || !std::all_of(target.begin(), target.end(), is_target_char)) {
    return fail(400, "The request's target holds spaces or characters that need percent-encoding.");
  }
  if (version == "HTTP/1.0") {
    http_1_0_ = true;
    keep_alive_ = false;
  } else if (version != "HTTP/1.1") {
    return version.starts_with("HTTP/") ? fail(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
                                        : fail(400, "The request line ends in no HTTP version.");
  }
  request_.method = method;
  accept_target(target);
}

void RequestParser::accept_target(std::string_view target) {
  if (target.starts_with("http://") || target.starts_with("https://")) {
    const size_t slash = target.find('/', target.find("//") + 2);
    target = slash == target.npos ? std::string_view("/") : target.substr(slash);
  }
  if (target[0] != '/' && target != "*") return fail(400, "The request's target is no path.");
  const size_t question = target.find('?');
  request_.path = target.substr(0, question);
  if (question != target.npos) request_.query = target.substr(question + 1);
  state_ = State::kHeaders;
}

void RequestParser::accept_header(std::string_view line) {
  if (request_.headers.size() >= static_cast<size_t>(limits_.headers_max)) {
    return fail(431, "More than " + std::to_string(limits_.headers_max) + " headers.");
  }
  const size_t colon = line.find(':');
  // A folded line begins with a space, which is no token character either.
  if (colon == line.npos || !is_token(line.substr(0, colon))) {
    return fail(400, "A header's name is no token followed by a colon.");
  }
  const std::string name = lower(line.substr(0, colon));
  const std::string_view value = trim(line.substr(colon + 1));
  accept_framing(name, value);
  request_.headers.push_back({name, std::string(value)});
}

void RequestParser::accept_framing(std::string_view name, std::string_view value) {
  if (name == "host") {
    ++hosts_;
  } else if (name == "content-length") {
    if (content_length_) return fail(400, "Content-Length occurs twice.");
    content_length_ = parse_length(value);
    if (!content_length_) fail(400, "Content-Length is no decimal number.");
  } else if (name == "transfer-encoding") {
    if (chunked_ || lower(value) != "chunked") {
      return fail(400, "The only Transfer-Encoding spoken here is \"chunked\", once.");
    }
    chunked_ = true;
  } else if (name == "content-encoding") {
    if (lower(value) != "identity") fail(415, "Compressed request bodies are not accepted.");
  } else if (name == "expect") {
    if (lower(value) != "100-continue") return fail(417, "The only expectation met is 100-continue.");
    expects_continue_ = true;
  } else if (name == "connection") {
    for_each_element(value, [&](const std::string& option) {
      if (option == "close") keep_alive_ = false;
      if (option == "keep-alive" && http_1_0_) keep_alive_ = true;
    });
  }
}

void RequestParser::accept_head() {
  if (hosts_ > 1 || (hosts_ == 0 && !http_1_0_)) {
    return fail(400, "A request needs exactly one Host header.");
  }
  if (chunked_ && (content_length_ || http_1_0_)) {
    return fail(400, "Transfer-Encoding cannot go with Content-Length or with HTTP/1.0.");
  }
  if (content_length_.value_or(0) > limits_.body_bytes_max) {
    return fail(413, "The body is over the limit of " + std::to_string(limits_.body_bytes_max) + " bytes.");
  }
  left_ = content_length_.value_or(0);
  state_ = chunked_ ? State::kChunkSize : left_ > 0 ? State::kBody : State::kDone;
}

void RequestParser::accept_chunk_size(std::string_view line) {
  const std::string_view digits = trim(line.substr(0, line.find(';')));
  const bool padded = !line.empty() && (line[0] == ' ' || line[0] == '\t');
  const std::optional<uint64_t> size = padded ? std::nullopt : parse_hex(digits);
  if (!size) return fail(400, "A chunk's size is no hexadecimal number.");
  if (*size > limits_.body_bytes_max - request_.body.size()) {
    return fail(413, "The chunked body is over the limit of " +
                         std::to_string(limits_.body_bytes_max) + " bytes.");
  }
  left_ = *size;
  state_ = left_ > 0 ? State::kChunkData : State::kTrailers;
}

size_t RequestParser::feed_body(std::string_view bytes) {
  const size_t count = static_cast<size_t>(std::min<uint64_t>(left_, bytes.size()));
  request_.body.append(bytes.substr(0, count));
  left_ -= count;
  if (left_ == 0) state_ = state_ == State::kBody ? State::kDone : State::kChunkEnd;
  return count;
}

void RequestParser::fail(int status, std::string message) {
  if (!error_) error_ = HttpError{.status = status, .message = std::move(message)};
}

HttpRequest RequestParser::take() {
  CHECK(done());
  HttpRequest request = std::move(request_);
  state_ = State::kRequestLine;
  request_ = {};
  head_bytes_ = 0;
  left_ = 0;
  content_length_.reset();
  chunked_ = http_1_0_ = expects_continue_ = false;
  keep_alive_ = true;
  hosts_ = 0;
  return request;
}

}  // namespace skein
