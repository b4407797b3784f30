#include "coordinator/http/connection.h"

#include <poll.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <charconv>
#include <ctime>
#include <utility>

#include "base/check.h"

namespace skein {

namespace asio = boost::asio;

namespace {

constexpr size_t kSliceBytes = 64 << 10;

std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[40];
  return {text, std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts)};
}

// A share of a budget, given back on destruction, by whichever thread that is.
class BodyCharge {
 public:
  BodyCharge(std::shared_ptr<std::atomic<size_t>> used, size_t bytes)
      : used_(std::move(used)), bytes_(bytes) {
    used_->fetch_add(bytes_, std::memory_order_relaxed);
  }
  ~BodyCharge() { used_->fetch_sub(bytes_, std::memory_order_relaxed); }
  BodyCharge(const BodyCharge&) = delete;
  BodyCharge& operator=(const BodyCharge&) = delete;

 private:
  const std::shared_ptr<std::atomic<size_t>> used_;
  const size_t bytes_;
};

}  // namespace

// The writer of one request's answer; deaf once the connection has gone or the answer is complete.
class Exchange : public ResponseWriter {
 public:
  explicit Exchange(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}

  void respond(HttpResponse response) override {
    if (const auto connection = finish()) connection->answer(response);
  }
  void start(int status, std::string_view content_type) override {
    if (connection_) connection_->answer_start(status, content_type);
  }
  void write(std::string_view bytes) override {
    if (connection_) connection_->answer_write(bytes);
  }
  void end() override {
    if (const auto connection = finish()) connection->answer_end();
  }
  bool ready() const override { return !connection_ || connection_->ready_to_write(); }
  void on_ready(std::function<void()> fn) override {
    if (connection_) on_ready_ = std::move(fn);
  }
  void on_closed(std::function<void()> fn) override {
    if (connection_) on_closed_ = std::move(fn);
  }

  void all_sent() {
    if (const auto fn = on_ready_) fn();  // a copy: the call may complete the answer
  }

  void client_gone() {
    const auto fn = std::exchange(on_closed_, nullptr);
    finish();
    if (fn) fn();
  }

 private:
  std::shared_ptr<Connection> finish() {
    if (ended_) return nullptr;
    ended_ = true;
    on_closed_ = nullptr;
    on_ready_ = nullptr;
    return std::exchange(connection_, nullptr);
  }

  std::shared_ptr<Connection> connection_;
  std::function<void()> on_closed_, on_ready_;
  bool ended_ = false;
};

Connection::Connection(asio::ip::tcp::socket socket, std::shared_ptr<ConnectionShared> shared)
    : socket_(std::move(socket)),
      shared_(std::move(shared)),
      deadline_(socket_.get_executor()),
      write_deadline_(socket_.get_executor()),
      parser_(shared_->limits) {
  ++shared_->counters.connections;
}

Connection::~Connection() { --shared_->counters.connections; }

void Connection::start() {
  Error ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  arm(shared_->limits.idle_timeout_ms);
  read();
}

void Connection::start_refused(const HttpError& error) {
  refuse(error);
  read();
}

void Connection::drain() {
  const bool idle = state_ == State::kHead && !parser_.started() && pending_.empty();
  if (idle || state_ == State::kLingering) cut();
}

void Connection::cut() {
  if (state_ == State::kGone) return;
  const bool running = state_ == State::kRunning;
  state_ = State::kGone;
  deadline_.cancel();
  write_deadline_.cancel();
  Error ignored;
  socket_.close(ignored);
  charge_.reset();
  const auto self = shared_from_this();
  if (running) {
    --shared_->counters.requests_running;
    ++shared_->counters.clients_gone;
  }
  if (const auto exchange = std::exchange(exchange_, nullptr)) exchange->client_gone();
  shared_->on_gone(self);
}

// ---- reading

void Connection::read() {
  if (reading_ || state_ == State::kGone) return;
  if (pending_.size() >= shared_->limits.pipelined_bytes_max) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(in_), [self = shared_from_this()](Error error, size_t count) {
    self->reading_ = false;
    self->on_read(error, count);
  });
}

void Connection::on_read(Error error, size_t count) {
  if (state_ == State::kGone) return;
  // A client that has half-closed after its last request still gets what is being flushed to it.
  if (error == asio::error::eof && state_ == State::kFlushing) {
    keep_alive_ = false;
    return;
  }
  if (error) return cut();
  if (state_ != State::kLingering) {
    pending_.append(in_.data(), count);
    consume();
  }
  read();
}

void Connection::consume() {
  while (reading_request() && !pending_.empty()) {
    const bool fresh = state_ == State::kHead && !parser_.started();
    pending_.erase(0, parser_.feed(pending_));
    if (fresh) arm(shared_->limits.head_timeout_ms);
    if (parser_.error()) return refuse(*parser_.error());
    if (state_ == State::kHead && parser_.head_done()) {
      if (!admit_head()) return;
      state_ = State::kBody;
      arm(shared_->limits.body_timeout_ms);
    }
    if (!charge_body()) {
      return refuse({.status = 503, .message = "Too many request bodies are being read; try again."});
    }
    if (parser_.done()) return dispatch();
  }
}

bool Connection::admit_head() {
  const HttpRequest& request = parser_.request();
  keep_alive_ = parser_.keep_alive() && !shared_->draining;
  http_1_0_ = parser_.http_1_0();
  head_request_ = request.method == "HEAD";
  origin_ = shared_->access.allowed_origin(request).value_or("");
  if (!is_preflight(request)) {
    if (const auto error = shared_->access.refuse(request)) {
      refuse(*error);
      return false;
    }
  }
  if (parser_.expects_continue() && !parser_.done() && !http_1_0_) {
    out_ += "HTTP/1.1 100 Continue\r\n\r\n";
    flush_soon();
  }
  return true;
}

// Holds a share of the budget as large as the body: all of it at once where the length is announced.
bool Connection::charge_body() {
  const size_t wanted = std::max<size_t>(parser_.content_length().value_or(0), parser_.body_bytes());
  if (wanted <= charged_) return true;
  const size_t share = std::max(wanted, std::min(2 * charged_, shared_->limits.body_bytes_max));
  charge_.reset();
  if (shared_->body_bytes->load(std::memory_order_relaxed) + share > shared_->limits.bodies_bytes_max) {
    return false;
  }
  charge_ = std::make_shared<BodyCharge>(shared_->body_bytes, share);
  charged_ = share;
  return true;
}

void Connection::dispatch() {
  deadline_.cancel();
  state_ = State::kRunning;
  ended_ = false;
  ++shared_->counters.requests;
  ++shared_->counters.requests_running;
  HttpRequest request = parser_.take();
  request.body_charge = std::exchange(charge_, nullptr);
  charged_ = 0;
  if (is_preflight(request)) return answer(preflight_response(shared_->access, request));
  if (head_request_) request.method = "GET";
  exchange_ = std::make_shared<Exchange>(shared_from_this());
  shared_->handler(std::move(request), exchange_);
}

void Connection::refuse(const HttpError& error) {
  ++shared_->counters.requests_refused;
  ++shared_->counters.requests_running;  // on_answered() counts it down again
  charge_.reset();
  keep_alive_ = false;
  state_ = State::kRunning;
  answer(error_response(error));
}

// ---- answering

void Connection::append_header(std::string_view name, std::string_view value) {
  out_.append(name).append(": ").append(value).append("\r\n");
}

void Connection::begin_head(int status, std::string_view content_type) {
  if (shared_->draining) keep_alive_ = false;
  out_.append("HTTP/1.1 ").append(std::to_string(status)).append(" ").append(reason_phrase(status));
  out_ += "\r\n";
  append_header("Date", http_date());
  if (!content_type.empty()) append_header("Content-Type", content_type);
  if (!origin_.empty()) {
    append_header("Access-Control-Allow-Origin", origin_);
    append_header("Vary", "Origin");
  }
  if (status == 401) append_header("WWW-Authenticate", "Bearer");
  if (!keep_alive_) {
    append_header("Connection", "close");
  } else if (http_1_0_) {
    append_header("Connection", "keep-alive");
  }
}

void Connection::answer(const HttpResponse& response) {
  if (state_ == State::kGone) return;
  begin_head(response.status, response.content_type);
  for (const HttpHeader& header : response.headers) append_header(header.name, header.value);
  if (response.status != 204) append_header("Content-Length", std::to_string(response.body.size()));
  out_ += "\r\n";
  if (!head_request_) out_ += response.body;
  chunked_ = false;
  on_answered();
}

void Connection::answer_start(int status, std::string_view content_type) {
  if (state_ == State::kGone) return;
  chunked_ = !http_1_0_;
  if (!chunked_) keep_alive_ = false;
  begin_head(status, content_type);
  append_header("Cache-Control", "no-cache");
  append_header("X-Accel-Buffering", "no");
  if (chunked_) append_header("Transfer-Encoding", "chunked");
  out_ += "\r\n";
  flush_soon();
}

void Connection::answer_write(std::string_view bytes) {
  if (state_ != State::kRunning || head_request_ || too_slow_) return;
  if (writing_ && out_.size() + chunk_.size() > shared_->limits.stream_bytes_max && !takes_bytes()) {
    too_slow_ = true;
    ++shared_->counters.slow_streams_cut;
    // Not from within a call of the handler's: its on_closed must not run there.
    asio::post(socket_.get_executor(), [self = shared_from_this()] { self->cut(); });
    return;
  }
  (chunked_ ? chunk_ : out_) += bytes;
  flush_soon();
}

void Connection::answer_end() {
  if (state_ != State::kRunning) return;
  on_answered();
}

void Connection::on_answered() {
  --shared_->counters.requests_running;
  ended_ = true;
  state_ = State::kFlushing;
  exchange_.reset();
  flush_soon();
}

// ---- writing

void Connection::flush_soon() {
  if (flush_posted_ || writing_) return;
  flush_posted_ = true;
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->flush_posted_ = false;
    self->flush();
  });
}

void Connection::seal_chunk() {
  if (!chunk_.empty()) {
    char size[20];
    const auto end = std::to_chars(size, size + sizeof size, chunk_.size(), 16).ptr;
    out_.append(size, end).append("\r\n").append(chunk_).append("\r\n");
    chunk_.clear();
  }
  if (ended_ && chunked_) {
    chunked_ = false;
    if (!head_request_) out_ += "0\r\n\r\n";
  }
}

void Connection::flush() {
  if (writing_ || state_ == State::kGone) return;
  if (sent_ == sending_.size()) {
    seal_chunk();
    sending_ = std::exchange(out_, {});
    sent_ = 0;
  }
  if (sending_.empty()) {
    if (state_ == State::kFlushing) return next_request();
    if (const auto exchange = exchange_) exchange->all_sent();
    return;
  }
  writing_ = true;
  arm_write();
  const size_t slice = std::min(kSliceBytes, sending_.size() - sent_);
  asio::async_write(socket_, asio::buffer(sending_.data() + sent_, slice),
                    [self = shared_from_this()](Error error, size_t count) {
                      self->on_written(error, count);
                    });
}

void Connection::on_written(Error error, size_t count) {
  writing_ = false;
  write_deadline_.cancel();
  if (state_ == State::kGone) return;
  if (error) return cut();
  sent_ += count;
  flush();
}

void Connection::next_request() {
  if (!keep_alive_ || shared_->draining) return linger();
  state_ = State::kHead;
  head_request_ = http_1_0_ = false;
  origin_.clear();
  arm(pending_.empty() ? shared_->limits.idle_timeout_ms : shared_->limits.head_timeout_ms);
  consume();
  read();
}

// Closing at once would reset a client that still sends, and it might never see the answer.
void Connection::linger() {
  Error error;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error);
  if (error) return cut();
  state_ = State::kLingering;
  pending_.clear();
  arm(shared_->limits.linger_ms);
  read();
}

// ---- deadlines

void Connection::arm(int timeout_ms) {
  deadline_.expires_after(std::chrono::milliseconds(timeout_ms));
  deadline_.async_wait([self = shared_from_this()](Error error) {
    if (error || self->deadline_.expiry() > std::chrono::steady_clock::now()) return;
    self->on_deadline();
  });
}

void Connection::on_deadline() {
  if (state_ == State::kLingering) return cut();
  if (!reading_request()) return;
  if (!parser_.started()) return cut();
  ++shared_->counters.timeouts;
  refuse({.status = 408, .message = "The request did not arrive in time."});
}

void Connection::arm_write() {
  write_deadline_.expires_after(std::chrono::milliseconds(shared_->limits.write_timeout_ms));
  write_deadline_.async_wait([self = shared_from_this()](Error error) {
    if (error || !self->writing_) return;
    if (self->write_deadline_.expiry() > std::chrono::steady_clock::now()) return;
    ++self->shared_->counters.timeouts;
    self->cut();
  });
}

// Whether the write under way waits for its turn in the loop, and not for the client.
bool Connection::takes_bytes() {
  pollfd socket{socket_.native_handle(), POLLOUT, 0};
  return poll(&socket, 1, 0) == 1 && socket.revents == POLLOUT;
}

}  // namespace skein
