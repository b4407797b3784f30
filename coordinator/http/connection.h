#pragma once

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>

#include "coordinator/http/request_parser.h"
#include "coordinator/http/server.h"

// Internal to coordinator/http: the only headers with Asio in them.

namespace skein {

class Connection;
class Exchange;

// What the connections of one server share. Outlives the server when a connection does.
struct ConnectionShared {
  HttpLimits limits;
  AccessPolicy access;
  OnRequest handler;
  HttpCounters counters;
  bool draining = false;
  // The text pool frees bodies, too.
  std::shared_ptr<std::atomic<size_t>> body_bytes = std::make_shared<std::atomic<size_t>>(0);
  std::function<void(const std::shared_ptr<Connection>&)> on_gone;
};

// One client's socket: reads and judges requests, runs one at a time, writes its answer. A read is always pending
// (until pipelined_bytes_max), so a client's leaving shows at once. Single-owner: the loop.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(boost::asio::ip::tcp::socket socket, std::shared_ptr<ConnectionShared> shared);
  ~Connection();

  void start();
  // Answers `error` without waiting for a request, then closes.
  void start_refused(const HttpError& error);
  void drain();  // closes when idle; otherwise after the current answer
  void cut();    // closes now; the running request's on_closed is called

  // For Exchange.
  void answer(const HttpResponse& response);
  void answer_start(int status, std::string_view content_type);
  void answer_write(std::string_view bytes);
  void answer_end();
  bool ready_to_write() const { return !writing_ && !flush_posted_; }

 private:
  enum class State : uint8_t { kHead, kBody, kRunning, kFlushing, kLingering, kGone };
  using Error = boost::system::error_code;

  void read();
  void on_read(Error error, size_t count);
  void consume();
  bool admit_head();
  bool charge_body();
  void dispatch();
  void refuse(const HttpError& error);

  void begin_head(int status, std::string_view content_type);
  void append_header(std::string_view name, std::string_view value);
  void flush_soon();
  void flush();
  void seal_chunk();
  void on_written(Error error, size_t count);
  void on_answered();
  void next_request();
  void linger();

  void arm(int timeout_ms);
  void on_deadline();
  void arm_write();
  bool takes_bytes();
  bool reading_request() const { return state_ == State::kHead || state_ == State::kBody; }

  boost::asio::ip::tcp::socket socket_;
  const std::shared_ptr<ConnectionShared> shared_;
  boost::asio::steady_timer deadline_;
  boost::asio::steady_timer write_deadline_;
  RequestParser parser_;
  State state_ = State::kHead;

  std::array<char, 16 << 10> in_;
  std::string pending_;  // read, not yet parsed
  bool reading_ = false;
  std::shared_ptr<const void> charge_;
  size_t charged_ = 0;

  std::shared_ptr<Exchange> exchange_;
  std::string origin_;  // for Access-Control-Allow-Origin
  bool head_request_ = false;
  bool http_1_0_ = false;
  bool keep_alive_ = true;
  bool chunked_ = false;
  bool ended_ = false;
  bool too_slow_ = false;

  std::string out_;      // framed, to be sent after sending_
  std::string chunk_;    // body bytes not yet framed
  std::string sending_;
  size_t sent_ = 0;      // of sending_
  bool writing_ = false;
  bool flush_posted_ = false;
};

}  // namespace skein
