#include "coordinator/http/client.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>

#include "coordinator/http/event_parser.h"

namespace skein {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

constexpr uint64_t kBodyBytesMax = uint64_t{64} << 20;

struct Connection {
  asio::io_context context;
  boost::beast::tcp_stream stream{context};
  boost::beast::flat_buffer buffer;
};

Status failure(const HttpTarget& target, const boost::system::error_code& error) {
  return unavailable("no answer from " + target.host + ":" + std::to_string(target.port) + ": " + error.message());
}

Status open(const HttpTarget& target, Connection* connection) {
  boost::system::error_code error;
  asio::ip::tcp::resolver resolver(connection->context);
  const auto addresses = resolver.resolve(target.host, std::to_string(target.port), error);
  if (!error) connection->stream.connect(addresses, error);
  return error ? failure(target, error) : Status();
}

Status send(const HttpTarget& target, http::verb verb, const std::string& path, const std::string& body,
            Connection* connection) {
  http::request<http::string_body> request(verb, path, 11);
  request.set(http::field::host, target.host);
  request.set(http::field::connection, "close");
  if (!target.api_key.empty()) request.set(http::field::authorization, "Bearer " + target.api_key);
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();
  boost::system::error_code error;
  http::write(connection->stream, request, error);
  return error ? failure(target, error) : Status();
}

}  // namespace

Result<HttpTarget> parse_url(std::string_view url) {
  constexpr std::string_view kScheme = "http://";
  const std::string shown(url);
  if (!url.starts_with(kScheme)) return invalid_argument("\"" + shown + "\" must look like http://host:port");
  url.remove_prefix(kScheme.size());
  url = url.substr(0, url.find('/'));
  const size_t colon = url.rfind(':');
  HttpTarget target{.host = std::string(url.substr(0, colon)), .port = 80, .api_key = {}};
  if (colon != url.npos) {
    const auto [end, error] = std::from_chars(url.data() + colon + 1, url.data() + url.size(), target.port);
    if (error != std::errc() || end != url.data() + url.size()) {
      return invalid_argument("\"" + shown + "\" must look like http://host:port");
    }
  }
  return target;
}

std::string http_error_message(int status, const std::string& body) {
  const Result<Json> json = parse_json(body);
  const Json* error = json.ok() ? json->find("error") : nullptr;
  const Json* message = error == nullptr ? nullptr : error->find("message");
  if (message != nullptr && message->is_string()) return message->as_string();
  return "the server answered with status " + std::to_string(status);
}

Result<HttpReply> http_get(const HttpTarget& target, const std::string& path) {
  Connection connection;
  RETURN_IF_ERROR(open(target, &connection));
  RETURN_IF_ERROR(send(target, http::verb::get, path, "", &connection));
  http::response_parser<http::string_body> parser;
  parser.body_limit(kBodyBytesMax);
  boost::system::error_code error;
  http::read(connection.stream, connection.buffer, parser, error);
  if (error) return failure(target, error);
  return HttpReply{.status = static_cast<int>(parser.get().result_int()), .body = parser.get().body()};
}

Status http_stream(const HttpTarget& target, const std::string& path, const Json& body,
                   const std::function<bool(std::string_view data)>& on_event) {
  Connection connection;
  RETURN_IF_ERROR(open(target, &connection));
  RETURN_IF_ERROR(send(target, http::verb::post, path, body.dump(), &connection));
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(kBodyBytesMax);
  boost::system::error_code error;
  http::read_header(connection.stream, connection.buffer, parser, error);
  if (error) return failure(target, error);
  const int status = static_cast<int>(parser.get().result_int());
  std::string text;  // of an answer that is no event stream
  EventParser events;
  bool wanted = true;
  const auto on_data = [&](std::string_view data) {
    wanted = wanted && on_event(data);
    return Status();
  };
  char chunk[8192];
  while (!parser.is_done()) {
    parser.get().body() = {.data = chunk, .size = sizeof chunk, .more = true};
    http::read_some(connection.stream, connection.buffer, parser, error);
    if (error && error != http::error::need_buffer) return failure(target, error);
    const std::string_view bytes(chunk, sizeof chunk - parser.get().body().size);
    if (status == 200) {
      RETURN_IF_ERROR(events.feed(bytes, on_data));
      if (events.done() || !wanted) return {};
    } else {
      text += bytes;
    }
  }
  if (status != 200) return unavailable(http_error_message(status, text));
  return {};
}

}  // namespace skein
