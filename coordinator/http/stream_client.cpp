#include "coordinator/http/stream_client.h"

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <unordered_set>

#include "coordinator/http/event_parser.h"
#include "coordinator/http/loop.h"

namespace skein {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Error = boost::system::error_code;
using Kind = StreamEnd::Kind;

constexpr size_t kHeadBytesMax = size_t{64} << 10;
constexpr uint64_t kAnswerBytesMax = uint64_t{256} << 20;
constexpr size_t kErrorBytesMax = size_t{64} << 10;  // kept of an answer that is no event stream

class Stream;

std::string request_text(const HttpTarget& target, const std::string& path, const std::string& body) {
  std::string text = "POST " + path + " HTTP/1.1\r\nHost: " + target.host + ':' + std::to_string(target.port) +
                     "\r\nConnection: close\r\nAccept: text/event-stream\r\nContent-Type: application/json\r\n";
  if (!target.api_key.empty()) text += "Authorization: Bearer " + target.api_key + "\r\n";
  return text + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

}  // namespace

struct StreamClient::State {
  asio::io_context& context;
  HttpTarget target;
  int64_t timeout_ms = 0;
  asio::ip::tcp::resolver::results_type addresses;
  std::unordered_set<std::shared_ptr<Stream>> streams;  // those whose reader has not heard of the end
};

namespace {

// One request and its answer. Kept alive by the operations in flight.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  using Forget = std::function<void(const std::shared_ptr<Stream>&)>;

  Stream(asio::io_context& context, std::string request, StreamReader reader, Forget forget)
      : socket_(context),
        deadline_(context),
        request_(std::move(request)),
        reader_(std::move(reader)),
        forget_(std::move(forget)) {
    parser_.header_limit(kHeadBytesMax);
    parser_.body_limit(kAnswerBytesMax);
    parser_.eager(true);
  }

  void start(const asio::ip::tcp::resolver::results_type& addresses, int64_t timeout_ms) {
    deadline_.expires_after(std::chrono::milliseconds(timeout_ms));
    deadline_.async_wait([self = shared_from_this(), timeout_ms](Error error) {
      if (!error) self->end(Kind::kTimeout, "no complete answer within " + std::to_string(timeout_ms / 1000) + " s");
    });
    asio::async_connect(socket_, addresses, [self = shared_from_this()](Error error, const auto&) {
      if (error) return self->end(Kind::kConnect, "no connection: " + error.message());
      self->send();
    });
  }

  void cut() {
    over_ = true;
    close();
  }

 private:
  void send() {
    if (over_) return;
    Error ignored;  // without it small requests wait; nothing else depends on it
    socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
    read();  // a server may answer, and close, before it has read everything
    asio::async_write(socket_, asio::buffer(request_), [self = shared_from_this()](Error, size_t) {
      std::string().swap(self->request_);  // what went wrong is seen by the read, too, after the server's last words
    });
  }

  void read() {
    socket_.async_read_some(asio::buffer(in_), [self = shared_from_this()](Error error, size_t count) {
      if (self->over_) return;
      self->unparsed_.append(self->in_.data(), count);
      self->on_bytes(error);
    });
  }

  void on_bytes(Error read_error) {
    Error error;
    unparsed_.erase(0, parser_.put(asio::buffer(unparsed_), error));
    if (error && error != http::error::need_more) {
      return end(Kind::kMalformed, "the server's answer is no HTTP: " + error.message());
    }
    if (read_error == asio::error::eof && parser_.got_some() && !parser_.is_done()) {
      Error at_end;
      parser_.put_eof(at_end);  // a body may end with its connection
    }
    if (!take_body()) return;
    if (parser_.is_done()) return at_end_of_body();
    if (read_error == asio::error::eof) {
      return end(Kind::kCut, parser_.is_header_done() ? "the connection was closed before the end of the stream"
                                                      : "the connection was closed without an answer");
    }
    if (read_error) return end(Kind::kCut, "the connection broke: " + read_error.message());
    read();
  }

  // False once the stream has ended.
  bool take_body() {
    if (!parser_.is_header_done()) return true;
    std::string& text = parser_.get().body();
    if (!is_event_stream()) {
      if (text.size() > kErrorBytesMax) at_end_of_body();
      return !over_;
    }
    const Status status = events_.feed(text, reader_.on_event);
    text.clear();
    if (!status.ok()) {
      end(Kind::kMalformed, status.message());
    } else if (events_.done()) {
      end(Kind::kDone, "");
    }
    return !over_;
  }

  void at_end_of_body() {
    const int status = static_cast<int>(parser_.get().result_int());
    if (status != 200) return end(Kind::kStatus, http_error_message(status, parser_.get().body()));
    if (is_event_stream()) return end(Kind::kCut, "the stream ended without [DONE]");
    const std::string type(parser_.get()[http::field::content_type]);
    end(Kind::kMalformed, "the server answered with " + (type.empty() ? "no content type" : type) +
                              " where an event stream was asked for");
  }

  bool is_event_stream() {
    return parser_.get().result_int() == 200 &&
           std::string_view(parser_.get()[http::field::content_type]).starts_with("text/event-stream");
  }

  std::optional<int64_t> retry_after() {
    const std::string_view text = parser_.get()[http::field::retry_after];
    int64_t seconds = 0;
    const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    if (error != std::errc() || stop != text.data() + text.size()) return std::nullopt;
    return seconds;
  }

  void end(Kind kind, std::string message) {
    if (std::exchange(over_, true)) return;
    StreamEnd end{.kind = kind, .status = 0, .retry_after_s = {}, .message = std::move(message)};
    if (parser_.is_header_done()) {
      end.status = static_cast<int>(parser_.get().result_int());
      end.retry_after_s = retry_after();
    }
    close();
    const std::shared_ptr<Stream> self = shared_from_this();
    forget_(self);
    reader_.on_end(end);
  }

  void close() {
    deadline_.cancel();
    Error ignored;  // of a socket that may not be open
    socket_.close(ignored);
  }

  asio::ip::tcp::socket socket_;
  asio::steady_timer deadline_;
  std::string request_;
  StreamReader reader_;
  const Forget forget_;
  std::array<char, 16 << 10> in_;
  std::string unparsed_;
  http::response_parser<http::string_body> parser_;
  EventParser events_;
  bool over_ = false;
};

}  // namespace

StreamClient::StreamClient(Loop& loop, HttpTarget target, int64_t timeout_ms)
    : state_(new State{.context = loop.context(), .target = std::move(target), .timeout_ms = timeout_ms,
                       .addresses = {}, .streams = {}}) {}

StreamClient::~StreamClient() {
  for (const std::shared_ptr<Stream>& stream : std::exchange(state_->streams, {})) stream->cut();
}

Status StreamClient::resolve() {
  Error error;
  asio::ip::tcp::resolver resolver(state_->context);
  state_->addresses = resolver.resolve(state_->target.host, std::to_string(state_->target.port), error);
  if (error) return unavailable("no address for " + state_->target.host + ": " + error.message());
  return {};
}

void StreamClient::post(const std::string& path, const std::string& body, StreamReader reader) {
  const auto stream = std::make_shared<Stream>(
      state_->context, request_text(state_->target, path, body), std::move(reader),
      [state = state_.get()](const std::shared_ptr<Stream>& ended) { state->streams.erase(ended); });
  state_->streams.insert(stream);
  stream->start(state_->addresses, state_->timeout_ms);
}

}  // namespace skein
