#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "comm/keys.h"
#include "comm/wire.h"

namespace skein {

KeyPair make_key_pair();

// Who listens: its own pair, and whom it lets in.
struct ListenKeys {
  KeyPair own;
  AllowList allowed;
};

// Who connects: its own pair, and whom it expects to find.
struct ConnectKeys {
  KeyPair own;
  std::string server_public_key;
};

// A ZeroMQ socket that carries frames. Single-owner. Nothing here blocks: a full queue refuses, an empty one says so.
// Options: LINGER 0, bounded queues, MAXMSGSIZE, heartbeats of 500 ms that drop a silent connection after 2 s.
class MessageSocket {
 public:
  struct Received {
    std::string peer;  // a ROUTER's sender; empty on a DEALER
    std::string user;  // whose key it has, of the allow-list; empty without keys
    Result<Frame> frame;
  };

  // ROUTER with ROUTER_MANDATORY, bound to `endpoint`: ipc:// in a private folder, or tcp:// at one address. With keys
  // all of it is encrypted (CURVE), and only peers of the allow-list get a connection; a thread more answers for that.
  static Result<std::unique_ptr<MessageSocket>> bind(const std::string& endpoint,
                                                     const std::optional<ListenKeys>& keys = std::nullopt);
  // DEALER that names itself `identity`. Connects when it can, and again when the connection breaks.
  static Result<std::unique_ptr<MessageSocket>> connect(const std::string& endpoint, const std::string& identity,
                                                        const std::optional<ConnectKeys>& keys = std::nullopt);
  ~MessageSocket();

  // kUnavailable: that peer is not connected; kResourceExhausted: its queue is full. `peer` is unused on a DEALER.
  Status send(std::string_view peer, const Frame& frame);
  // The next message that is here, if any.
  std::optional<Received> receive();

  // What became of a DEALER's connection since the last call; call now and then. Nothing is told of one without keys.
  struct Events {
    bool key_refused = false;
    bool broken = false;  // what was on its way is lost
  };
  Events events();

  // Readable on an edge when something may have changed: then call receive() until it gives nothing, and again after
  // every send().
  int fd() const;

 private:
  struct State;
  explicit MessageSocket(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace skein
