#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "coordinator/http/access.h"
#include "coordinator/http/limits.h"
#include "coordinator/http/message.h"

namespace skein {

class Loop;

struct HttpConfig {
  std::string host = "127.0.0.1";  // an address of this machine, or a name of one
  uint16_t port = 8000;            // 0: the system picks one
  HttpLimits limits;
  AccessPolicy access;
};

// Since the start, but for the gauges.
struct HttpCounters {
  int64_t connections = 0;          // gauge: open now
  int64_t requests_running = 0;     // gauge: handed to the handler, answer not complete
  int64_t connections_accepted = 0;
  int64_t connections_refused = 0;  // over connections_max
  int64_t requests = 0;             // handed to the handler
  int64_t requests_refused = 0;     // answered by the transport: malformed, too large, no key
  int64_t timeouts = 0;             // a head, body or write that took too long
  int64_t slow_streams_cut = 0;
  int64_t clients_gone = 0;         // while their request ran
};

// HTTP/1.1 on one listening socket. Requests of a connection run one after the other; each goes to the handler with the
// writer for its answer. Everything happens on the loop's thread.
class HttpServer {
 public:
  // Requires: `loop` outlives this object.
  HttpServer(Loop& loop, HttpConfig config, OnRequest handler);
  ~HttpServer();  // cuts every connection
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds and starts to accept.
  Status listen();
  uint16_t port() const;  // the bound one

  // Stops accepting, closes idle connections, lets running requests finish; then calls `done` once.
  void drain(std::function<void()> done);
  // Cuts every connection now; writers' on_closed callbacks run.
  void close();

  HttpCounters counters() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace skein
