#include "coordinator/http/server.h"

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <unordered_set>
#include <utility>

#include "base/log.h"
#include "coordinator/http/connection.h"
#include "coordinator/http/loop.h"

namespace skein {

namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

constexpr int kAcceptPauseMs = 100;
// Connections over connections_max that are being told so.
constexpr size_t kRefusedMax = 64;

}  // namespace

struct HttpServer::State : std::enable_shared_from_this<State> {
  State(Loop& loop, HttpConfig http_config)
      : config(std::move(http_config)),
        acceptor(loop.context()),
        pause(loop.context()),
        shared(std::make_shared<ConnectionShared>()) {}

  void accept();
  void admit(tcp::socket socket);
  void forget(const std::shared_ptr<Connection>& connection);
  void close();

  const HttpConfig config;
  tcp::acceptor acceptor;
  asio::steady_timer pause;
  std::shared_ptr<ConnectionShared> shared;
  std::unordered_set<std::shared_ptr<Connection>> connections;
  std::function<void()> on_drained;
};

void HttpServer::State::accept() {
  acceptor.async_accept([self = shared_from_this()](boost::system::error_code error,
                                                    tcp::socket socket) {
    if (!self->acceptor.is_open()) return;
    if (!error) self->admit(std::move(socket));
    if (!error || error == asio::error::connection_aborted) return self->accept();
    // Out of descriptors, most likely: without a pause this would spin.
    log_warning("accept_failed", {{"error", error.message()}});
    self->pause.expires_after(std::chrono::milliseconds(kAcceptPauseMs));
    self->pause.async_wait([self](boost::system::error_code cancelled) {
      if (!cancelled) self->accept();
    });
  });
}

void HttpServer::State::admit(tcp::socket socket) {
  const auto limit = static_cast<size_t>(config.limits.connections_max);
  if (connections.size() < limit) {
    ++shared->counters.connections_accepted;
    const auto connection = std::make_shared<Connection>(std::move(socket), shared);
    connections.insert(connection);
    return connection->start();
  }
  ++shared->counters.connections_refused;
  if (connections.size() >= limit + kRefusedMax) return;  // closes the socket
  const auto connection = std::make_shared<Connection>(std::move(socket), shared);
  connections.insert(connection);
  connection->start_refused({.status = 503, .message = "Too many connections; try again."});
}

void HttpServer::State::forget(const std::shared_ptr<Connection>& connection) {
  connections.erase(connection);
  if (connections.empty() && on_drained) std::exchange(on_drained, nullptr)();
}

void HttpServer::State::close() {
  boost::system::error_code ignored;
  acceptor.close(ignored);
  pause.cancel();
  for (const auto& connection : std::exchange(connections, {})) connection->cut();
}

HttpServer::HttpServer(Loop& loop, HttpConfig config, OnRequest handler)
    : state_(std::make_shared<State>(loop, std::move(config))) {
  ConnectionShared& shared = *state_->shared;
  shared.limits = state_->config.limits;
  shared.access = state_->config.access;
  shared.handler = std::move(handler);
  shared.on_gone = [weak = std::weak_ptr<State>(state_)](const std::shared_ptr<Connection>& gone) {
    if (const auto state = weak.lock()) state->forget(gone);
  };
}

HttpServer::~HttpServer() {
  state_->on_drained = nullptr;
  close();
}

Status HttpServer::listen() {
  const HttpConfig& config = state_->config;
  const std::string where = config.host + ":" + std::to_string(config.port);
  boost::system::error_code error;
  tcp::endpoint endpoint(asio::ip::make_address(config.host, error), config.port);
  if (error) {
    tcp::resolver resolver(state_->acceptor.get_executor());
    const auto found = resolver.resolve(config.host, std::to_string(config.port), error);
    if (error || found.empty()) {
      return invalid_argument("\"" + config.host + "\" is no address of this machine: " +
                              error.message() + "; give --host an address such as 127.0.0.1.");
    }
    endpoint = found.begin()->endpoint();
  }
  tcp::acceptor& acceptor = state_->acceptor;
  if (!acceptor.open(endpoint.protocol(), error) &&
      !acceptor.set_option(tcp::acceptor::reuse_address(true), error) &&
      !acceptor.bind(endpoint, error)) {
    acceptor.listen(asio::socket_base::max_listen_connections, error);
  }
  if (error) {
    boost::system::error_code ignored;
    acceptor.close(ignored);
    return unavailable("Cannot listen on " + where + ": " + error.message() +
                       "; choose another --host or --port.");
  }
  state_->accept();
  return {};
}

uint16_t HttpServer::port() const {
  boost::system::error_code ignored;
  return state_->acceptor.local_endpoint(ignored).port();
}

void HttpServer::drain(std::function<void()> done) {
  boost::system::error_code ignored;
  state_->acceptor.close(ignored);
  state_->pause.cancel();
  state_->shared->draining = true;
  state_->on_drained = std::move(done);
  // drain() may take the connection out of the set.
  const auto connections = state_->connections;
  for (const auto& connection : connections) connection->drain();
  if (state_->connections.empty() && state_->on_drained) {
    std::exchange(state_->on_drained, nullptr)();
  }
}

void HttpServer::close() { state_->close(); }

HttpCounters HttpServer::counters() const { return state_->shared->counters; }

}  // namespace skein
