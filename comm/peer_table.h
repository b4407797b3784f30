#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace skein {

// The peers of a ROUTER by their names, and over which connection each is reached. A peer whose connection broke comes
// over another one while what it said on the old one may still be unread: the numbers of its frames, which grow, tell
// which is the later one. No clock, no I/O. Single-owner.
class PeerTable {
 public:
  // Of more, the one is forgotten that was silent longest of those of the key with the most names.
  static constexpr size_t kPeersMax = 4096;

  enum class Heard : uint8_t {
    kAsBefore,     // for the first time, or on a connection that was known
    kReconnected,  // on a later connection: frames from it or to it may be lost
  };
  struct Sign {
    std::string name;        // of no peer with another key: peer_id()
    uint64_t number = 0;     // of the frame, among those of that name
    std::string user;        // whose key it has; empty without keys
    std::string connection;  // where it came from
  };

  Heard heard(const Sign& sign);
  // Null: nothing was heard of that name.
  const std::string* connection_of(std::string_view name) const;

 private:
  struct Peer {
    std::string user;
    std::string connection;
    uint64_t number = 0;
    uint64_t heard = 0;  // the last of `signs_`
  };

  void forget_one();

  std::map<std::string, Peer, std::less<>> peers_;
  uint64_t signs_ = 0;
};

}  // namespace skein
