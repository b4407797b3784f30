#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "comm/wire.h"

namespace skein {

// A ZeroMQ socket that carries frames. Single-owner. Nothing here blocks: a full queue refuses, an empty one says so.
// Options: LINGER 0, bounded queues, MAXMSGSIZE, heartbeats of 500 ms that drop a silent connection after 2 s.
class MessageSocket {
 public:
  struct Received {
    std::string peer;  // a ROUTER's sender; empty on a DEALER
    Result<Frame> frame;
  };

  // ROUTER with ROUTER_MANDATORY, bound to `endpoint` (ipc:// in a private folder, or tcp:// on one interface).
  static Result<std::unique_ptr<MessageSocket>> bind(const std::string& endpoint);
  // DEALER that names itself `identity`.
  static Result<std::unique_ptr<MessageSocket>> connect(const std::string& endpoint, const std::string& identity);
  ~MessageSocket();

  // kUnavailable: that peer is not connected; kResourceExhausted: its queue is full. `peer` is unused on a DEALER.
  Status send(std::string_view peer, const Frame& frame);
  // The next message that is here, if any.
  std::optional<Received> receive();

  // Readable on an edge when something may have changed: then call receive() until it gives nothing, and again after
  // every send().
  int fd() const;

 private:
  struct State;
  explicit MessageSocket(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace skein
