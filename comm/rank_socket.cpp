#include "comm/rank_socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace skein {
namespace {

constexpr uint64_t kMessageBytesMax = uint64_t{1} << 30;
constexpr int kLookMs = 1000;  // between two looks at a connection that brings nothing

void set(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof value); }

// Packets leave at once; a silent connection is probed each second.
void tune(int fd) {
  set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set(fd, IPPROTO_TCP, TCP_KEEPCNT, RankSocket::kSilentMs / 1000 - 1);
}

constexpr const char* kClosed = "was closed by it: the rank ended";

// Of a send or receive that failed.
std::string what_broke(int error) {
  if (error == ECONNRESET || error == EPIPE) return kClosed;
  return std::string("broke: ") + std::strerror(error);
}

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

}  // namespace

RankSocket::RankSocket(int fd, std::string peer, const LostPeer& lost) : fd_(fd), peer_(std::move(peer)), lost_(lost) {
  tune(fd);  // of a pair within this process the options mean nothing
}

RankSocket::~RankSocket() { close(fd_); }

void RankSocket::fail(const std::string& what) const {
  lost_("the connection to " + peer_ + " " + what);
  std::abort();  // the one thing that it must not do is return
}

// Data, or questions whether there is room now, that the peer's kernel does not acknowledge are the sign: that of one
// that is busy, or whose process was paused, does. Where this node has no route any more, data does not even leave, and
// questions alone are counted.
void RankSocket::check_alive() const {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(fd_, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return;  // within this process
  const bool asked = info.tcpi_unacked > 0 || info.tcpi_probes > 1;
  if (asked && info.tcpi_last_ack_recv > static_cast<uint32_t>(kSilentMs)) {
    fail("brought no packet for " + std::to_string(kSilentMs / 1000) + " s: is its node, or the network to it, down?");
  }
}

size_t RankSocket::try_write(const std::byte* data, size_t bytes) {
  const ssize_t sent = send(fd_, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent >= 0) return static_cast<size_t>(sent);
  if (!would_block(errno)) fail(what_broke(errno));
  return 0;
}

size_t RankSocket::try_read(std::byte* data, size_t bytes) {
  const ssize_t got = recv(fd_, data, bytes, MSG_DONTWAIT);
  if (got > 0) return static_cast<size_t>(got);
  if (got == 0) fail(kClosed);
  if (!would_block(errno)) fail(what_broke(errno));
  return 0;
}

void RankSocket::write(const void* data, size_t bytes) {
  const auto* next = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const size_t sent = try_write(next, bytes);
    next += sent;
    bytes -= sent;
    if (sent > 0) continue;
    pollfd wanted{fd_, POLLOUT, 0};
    if (poll(&wanted, 1, kLookMs) == 0) check_alive();
  }
}

void RankSocket::read(void* data, size_t bytes) {
  auto* next = static_cast<std::byte*>(data);
  while (bytes > 0) {
    const size_t got = try_read(next, bytes);
    next += got;
    bytes -= got;
    if (got > 0) continue;
    pollfd wanted{fd_, POLLIN, 0};
    if (poll(&wanted, 1, kLookMs) == 0) check_alive();
  }
}

bool RankSocket::readable() const {
  pollfd wanted{fd_, POLLIN, 0};
  return poll(&wanted, 1, 0) > 0;
}

void RankSocket::write_message(std::string_view message) {
  const uint64_t size = message.size();
  CHECK_LE(size, kMessageBytesMax);
  std::string framed(reinterpret_cast<const char*>(&size), sizeof size);
  framed += message;
  write(framed.data(), framed.size());
}

std::string RankSocket::read_message() {
  uint64_t size = 0;
  read(&size, sizeof size);
  if (size > kMessageBytesMax) fail("carried a message of " + std::to_string(size) + " bytes, over the limit");
  std::string message(size, '\0');
  read(message.data(), message.size());
  return message;
}

void RankSocket::exchange(std::span<RankSocket* const> peers, std::span<const std::byte> own,
                          std::span<std::byte* const> into) {
  struct Progress {
    size_t sent = 0;
    size_t got = 0;
  };
  std::vector<Progress> progress(peers.size());
  std::vector<pollfd> waits;
  while (true) {
    waits.clear();
    bool moved = false;
    for (size_t i = 0; i < peers.size(); ++i) {
      auto& [sent, got] = progress[i];
      if (sent < own.size()) {
        const size_t bytes = peers[i]->try_write(own.data() + sent, own.size() - sent);
        sent += bytes;
        moved |= bytes > 0;
      }
      if (got < own.size()) {
        const size_t bytes = peers[i]->try_read(into[i] + got, own.size() - got);
        got += bytes;
        moved |= bytes > 0;
      }
      const int events = (sent < own.size() ? POLLOUT : 0) | (got < own.size() ? POLLIN : 0);
      if (events != 0) waits.push_back({peers[i]->fd_, static_cast<short>(events), 0});
    }
    if (waits.empty()) return;
    if (!moved && poll(waits.data(), waits.size(), kLookMs) == 0) {
      for (const RankSocket* peer : peers) peer->check_alive();
    }
  }
}

SocketPair make_socket_pair(const LostPeer& lost) {
  int ends[2];
  CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  auto first = std::make_unique<RankSocket>(ends[0], "this rank itself", lost);
  auto second = std::make_unique<RankSocket>(ends[1], "this rank itself", lost);
  return {std::move(first), std::move(second)};
}

}  // namespace skein
