#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

// What transport and API exchange: plain values and one interface. Nothing here knows sockets, so tests and fuzzers
// drive the API with a ResponseWriter of their own.

namespace skein {

struct HttpHeader {
  std::string name;  // of a request: lower case
  std::string value;
};

struct HttpRequest {
  std::string method;
  std::string path;  // as sent, without the query
  std::string query;
  std::vector<HttpHeader> headers;
  std::string body;
  std::shared_ptr<const void> body_charge;  // the body's share of bodies_bytes_max, given back with the request

  // The first header of that (lower case) name, or nullptr.
  const std::string* header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body = {};
  std::vector<HttpHeader> headers = {};
};

// An answer in OpenAI's error shape.
struct HttpError {
  int status = 400;
  std::string message;
  std::string param = {};  // the field at fault; empty: null
  std::string code = {};   // empty: null
};

// {"error":{"message","type","param","code"}}
std::string error_json(const HttpError& error);
// With Retry-After where the status is 429 or 503.
HttpResponse error_response(const HttpError& error);

// The answer to one request: either respond(), or start(), write() any number of times, end(). Loop thread only.
// Calls never block and never call back; once the client has gone they do nothing.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;
  virtual void respond(HttpResponse response) = 0;
  virtual void start(int status, std::string_view content_type) = 0;
  // Bytes written during one wake-up of the loop leave together.
  virtual void write(std::string_view bytes) = 0;
  virtual void end() = 0;
  // False while bytes written earlier wait to leave: what is written now would only queue behind them.
  virtual bool ready() const = 0;
  // Calls `fn` from the loop each time everything written so far has left, until the answer is complete.
  virtual void on_ready(std::function<void()> fn) = 0;
  // Calls `fn` once, from the loop, when the client goes away or is cut off before the answer is complete.
  virtual void on_closed(std::function<void()> fn) = 0;
};

using OnRequest = std::function<void(HttpRequest, std::shared_ptr<ResponseWriter>)>;

std::string_view reason_phrase(int status);

}  // namespace skein
