#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/network.h"
#include "base/status.h"

// Byte streams between ranks of different nodes: one TCP connection each. Who waits sleeps in the kernel.

namespace skein {

// Told once what became of a peer, in a sentence; must not return.
using LostPeer = std::function<void(const std::string& what)>;

// One end of a stream. A peer that closed, was reset, answers no packet for kSilentMs or sends what is no frame is
// lost. A peer that is only slow is waited for. One thread may read while another writes.
class RankSocket {
 public:
  static constexpr int kSilentMs = 5000;

  // Takes `fd`. `peer`: as sentences name it. `lost` must outlive this object.
  RankSocket(int fd, std::string peer, const LostPeer& lost);
  ~RankSocket();
  RankSocket(const RankSocket&) = delete;
  RankSocket& operator=(const RankSocket&) = delete;

  void write(const void* data, size_t bytes);
  void read(void* data, size_t bytes);
  bool readable() const;  // a read would return, or find the peer lost, at once
  // A length, then that many bytes.
  void write_message(std::string_view message);
  std::string read_message();

  // Sends `own` to each of `peers` and fills into[i] from peers[i], all at once: none waits for another's turn.
  static void exchange(std::span<RankSocket* const> peers, std::span<const std::byte> own,
                       std::span<std::byte* const> into);

 private:
  size_t try_write(const std::byte* data, size_t bytes);  // 0: no room
  size_t try_read(std::byte* data, size_t bytes);         // 0: nothing there
  void check_alive() const;  // after a wait that brought nothing
  [[noreturn]] void fail(const std::string& what) const;

  const int fd_;
  const std::string peer_;
  const LostPeer& lost_;
};

// Two ends of a stream within this process.
struct SocketPair {
  std::unique_ptr<RankSocket> writer, reader;
};
SocketPair make_socket_pair(const LostPeer& lost);

// A connection to be made between two ranks; its place in the list is its number, the same on both.
struct RankLink {
  int from = 0;  // connects
  int to = 0;    // accepts
};

struct MeshOptions {
  int rank = 0;
  std::vector<RankLink> links;
  std::string network;  // base/network.h: which of this machine's interfaces
  PortRange ports;
  std::function<std::string(int rank)> name_of;  // "rank 2"
  // Every rank's bytes, by rank. Collective.
  std::function<std::vector<std::string>(const std::string&)> all_gather;
  int timeout_ms = 30'000;
};

// Collective: connects what `links` says. By link: this rank's end, null where it has none. Listens at one interface
// while it lasts, and takes only connections that know a token which rank 0 handed out. `lost` outlives the sockets.
Result<std::vector<std::unique_ptr<RankSocket>>> connect_mesh(const MeshOptions& options, const LostPeer& lost);

}  // namespace skein
