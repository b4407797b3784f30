#include "comm/peer_table.h"

#include <algorithm>

namespace skein {

PeerTable::Heard PeerTable::heard(const Sign& sign) {
  ++signs_;
  const auto found = peers_.find(sign.name);
  if (found == peers_.end()) {
    if (peers_.size() == kPeersMax) forget_one();
    peers_.emplace(sign.name,
                   Peer{.user = sign.user, .connection = sign.connection, .number = sign.number, .heard = signs_});
    return Heard::kAsBefore;
  }
  Peer& peer = found->second;
  if (peer.user != sign.user) return Heard::kForeign;
  peer.heard = signs_;
  if (sign.number <= peer.number) return Heard::kAsBefore;
  peer.number = sign.number;
  if (peer.connection == sign.connection) return Heard::kAsBefore;
  peer.connection = sign.connection;
  return Heard::kReconnected;
}

void PeerTable::forget_one() {
  peers_.erase(std::ranges::min_element(peers_, {}, [](const auto& entry) { return entry.second.heard; }));
}

const std::string* PeerTable::connection_of(std::string_view name) const {
  const auto found = peers_.find(name);
  return found == peers_.end() ? nullptr : &found->second.connection;
}

}  // namespace skein
