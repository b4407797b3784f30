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

// By what a ROUTER knows the peer of that name with the key of `user`. Names are what peers say of themselves, so those
// of different keys never meet.
std::string peer_id(const std::string& user, const std::string& name);

// A ZeroMQ socket that carries frames. Single-owner. Nothing here blocks: a full queue refuses, an empty one says so.
// Options: LINGER 0, bounded queues, MAXMSGSIZE. A TCP connection ends when the other side's kernel has not taken what
// was sent for 10 s, so that a process that stands still for less keeps it.
class MessageSocket {
 public:
  struct Received {
    std::string peer = {};  // a ROUTER's sender as peer_id(), if the frame could be read; empty on a DEALER
    std::string name = {};  // what it calls itself
    std::string user = {};  // whose key it has, of the allow-list; empty without keys
    bool reconnected = false;  // the first frame on a later connection: frames from that peer or to it may be lost
    Result<Frame> frame;
  };

  // ROUTER with ROUTER_MANDATORY, bound to `endpoint`: ipc:// in a private folder, or tcp:// at one address. With keys
  // all of it is encrypted (CURVE), and only peers of the allow-list get a connection; a thread more answers for that.
  static Result<std::unique_ptr<MessageSocket>> bind(const std::string& endpoint,
                                                     const std::optional<ListenKeys>& keys = std::nullopt);
  // DEALER whose frames say that they are of `name`, which no other with its key has. Connects when it can, and
  // again when the connection breaks.
  static Result<std::unique_ptr<MessageSocket>> connect(const std::string& endpoint, const std::string& name,
                                                        const std::optional<ConnectKeys>& keys = std::nullopt);
  ~MessageSocket();

  // kUnavailable: that peer is not connected; kResourceExhausted: its queue is full. `peer`: peer_id(); unused on a
  // DEALER.
  Status send(std::string_view peer, const Frame& frame);
  // The next message that is here, if any. A ROUTER tells a peer of another wire version so.
  std::optional<Received> receive();

  // Whether a DEALER's key was refused since the last call.
  bool key_refused();

  // Readable on an edge when something may have changed: then call receive() until it gives nothing, and again after
  // every send().
  int fd() const;

 private:
  struct State;
  explicit MessageSocket(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace skein
