#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/status.h"

namespace skein {

// A small blocking HTTP/1.1 client for this project's own commands. One request per connection.
struct HttpTarget {
  std::string host;
  uint16_t port = 0;
  std::string api_key;  // empty: none
};

// "http://host:port" with an optional trailing path, which is ignored.
Result<HttpTarget> parse_url(std::string_view url);

struct HttpReply {
  int status = 0;
  std::string body;
};

// What an answer with another status than 200 says went wrong: the message of an OpenAI error, or the status.
std::string http_error_message(int status, const std::string& body);

Result<HttpReply> http_get(const HttpTarget& target, const std::string& path);

// Posts `body` and calls `on_event` with the data of each server-sent event until "[DONE]" or the end; false stops. An
// answer that is no event stream is an error with the server's message.
Status http_stream(const HttpTarget& target, const std::string& path, const Json& body,
                   const std::function<bool(std::string_view data)>& on_event);

}  // namespace skein
