#include "comm/peer_table.h"

#include <algorithm>
#include <utility>

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
  peer.heard = signs_;
  if (sign.number <= peer.number) return Heard::kAsBefore;
  peer.number = sign.number;
  if (peer.connection == sign.connection) return Heard::kAsBefore;
  peer.connection = sign.connection;
  return Heard::kReconnected;
}

// A key that invents names loses its own.
void PeerTable::forget_one() {
  std::map<std::string_view, size_t> names;
  for (const auto& [name, peer] : peers_) ++names[peer.user];
  const auto count = [](const auto& entry) { return entry.second; };
  const std::string_view most = std::ranges::max_element(names, {}, count)->first;
  peers_.erase(std::ranges::min_element(peers_, {}, [&](const auto& entry) {
    return std::pair(entry.second.user != most, entry.second.heard);
  }));
}

const std::string* PeerTable::connection_of(std::string_view name) const {
  const auto found = peers_.find(name);
  return found == peers_.end() ? nullptr : &found->second.connection;
}

}  // namespace skein
