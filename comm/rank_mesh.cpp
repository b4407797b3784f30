// How ranks of different nodes find each other: everyone listens, everyone learns where, and of each link one end
// connects and shows the token.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/check.h"
#include "comm/rank_socket.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kTokenBytes = 32;
constexpr int kConnectSeconds = 10;
constexpr size_t kStrangersMax = 256;  // the one that came first makes room

// What every rank tells every other; ranks of one replica run the same build on the same byte order.
struct Card {
  char address[INET_ADDRSTRLEN];
  int32_t port;
  std::array<std::byte, kTokenBytes> token;  // rank 0's counts
};

// The first bytes of a connection.
struct Hello {
  std::array<std::byte, kTokenBytes> token;
  uint32_t link;
};

class Mesh {
 public:
  Mesh(const MeshOptions& options, const LostPeer& lost)
      : options_(options),
        lost_(lost),
        until_(Clock::now() + std::chrono::milliseconds(options.timeout_ms)),
        sockets_(options.links.size()) {}
  ~Mesh() {
    if (listening_ >= 0) close(listening_);
    for (const Stranger& stranger : strangers_) close(stranger.fd);
  }

  Result<std::vector<std::unique_ptr<RankSocket>>> connect_all() {
    RETURN_IF_ERROR(introduce());
    for (size_t link = 0; link < options_.links.size(); ++link) {
      if (options_.links[link].from == options_.rank) RETURN_IF_ERROR(connect_to(link));
    }
    RETURN_IF_ERROR(accept_all());
    return std::move(sockets_);
  }

 private:
  struct Stranger {  // a connection that has not said who it is
    int fd = -1;
    size_t bytes = 0;
    Hello hello;
  };

  Status introduce() {
    ASSIGN_OR_RETURN(const Interface interface, find_interface(options_.network));
    ASSIGN_OR_RETURN(const Listening listening, listen_at(interface.address, options_.ports));
    listening_ = listening.fd;
    Card card{};
    std::memcpy(card.address, interface.address.c_str(), interface.address.size() + 1);
    card.port = listening.port;
    CHECK_EQ(getrandom(card.token.data(), kTokenBytes, 0), static_cast<ssize_t>(kTokenBytes));
    const std::vector<std::string> all = options_.all_gather({reinterpret_cast<const char*>(&card), sizeof card});
    for (const std::string& bytes : all) {
      CHECK_EQ(bytes.size(), sizeof card);
      std::memcpy(&cards_.emplace_back(), bytes.data(), sizeof card);
    }
    return {};
  }

  Status connect_to(size_t link) {
    const int peer = options_.links[link].to;
    const Card& card = cards_[static_cast<size_t>(peer)];
    sockaddr_in where{};
    where.sin_family = AF_INET;
    where.sin_port = htons(static_cast<uint16_t>(card.port));
    inet_pton(AF_INET, card.address, &where.sin_addr);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval limit{.tv_sec = kConnectSeconds, .tv_usec = 0};  // Linux applies it to connect(), too
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    const Hello hello{.token = cards_[0].token, .link = static_cast<uint32_t>(link)};
    if (connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof where) != 0 ||
        send(fd, &hello, sizeof hello, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof hello)) {
      const int error = errno;
      close(fd);
      return unavailable("cannot connect to " + options_.name_of(peer) + " at " + card.address + ":" +
                         std::to_string(card.port) + " (" + std::strerror(error) +
                         "): do firewalls between the nodes let the ranks' ports through?");
    }
    sockets_[link] = std::make_unique<RankSocket>(fd, options_.name_of(peer), lost_);
    return {};
  }

  size_t missing() const {
    size_t count = 0;
    for (size_t i = 0; i < sockets_.size(); ++i) {
      count += options_.links[i].to == options_.rank && sockets_[i] == nullptr;
    }
    return count;
  }

  Status accept_all() {
    while (missing() > 0) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until_ - Clock::now()).count();
      if (left <= 0) {
        return unavailable(std::to_string(missing()) + " other ranks did not connect to " +
                           options_.name_of(options_.rank) + " within " + std::to_string(options_.timeout_ms / 1000) +
                           " s: do firewalls between the nodes let the ranks' ports through?");
      }
      std::vector<pollfd> waits{{listening_, POLLIN, 0}};
      for (const Stranger& stranger : strangers_) waits.push_back({stranger.fd, POLLIN, 0});
      poll(waits.data(), waits.size(), static_cast<int>(left));
      for (size_t i = 0; i < strangers_.size(); ++i) {
        if (waits[i + 1].revents != 0) listen_to(strangers_[i]);
      }
      std::erase_if(strangers_, [](const Stranger& stranger) { return stranger.fd < 0; });
      if (waits[0].revents != 0) {
        const int fd = accept4(listening_, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd >= 0) strangers_.push_back({.fd = fd, .bytes = 0, .hello = {}});
        if (strangers_.size() > kStrangersMax) {
          close(strangers_.front().fd);
          strangers_.erase(strangers_.begin());
        }
      }
    }
    return {};
  }

  // Reads on in its hello. One that is complete and right becomes its link's socket; a wrong one is closed.
  void listen_to(Stranger& stranger) {
    auto* bytes = reinterpret_cast<std::byte*>(&stranger.hello);
    const ssize_t got = recv(stranger.fd, bytes + stranger.bytes, sizeof(Hello) - stranger.bytes, MSG_DONTWAIT);
    if (got > 0) stranger.bytes += static_cast<size_t>(got);
    if (got > 0 && stranger.bytes < sizeof(Hello)) return;
    if (got > 0 && expected(stranger.hello)) {
      const size_t link = stranger.hello.link;
      sockets_[link] = std::make_unique<RankSocket>(stranger.fd, options_.name_of(options_.links[link].from), lost_);
    } else {
      close(stranger.fd);
    }
    stranger.fd = -1;
  }

  bool expected(const Hello& hello) const {
    std::byte difference{};
    for (size_t i = 0; i < kTokenBytes; ++i) difference |= hello.token[i] ^ cards_[0].token[i];
    return difference == std::byte{} && hello.link < sockets_.size() && sockets_[hello.link] == nullptr &&
           options_.links[hello.link].to == options_.rank;
  }

  const MeshOptions& options_;
  const LostPeer& lost_;
  const Clock::time_point until_;
  int listening_ = -1;
  std::vector<Card> cards_;  // by rank
  std::vector<Stranger> strangers_;
  std::vector<std::unique_ptr<RankSocket>> sockets_;  // by link
};

}  // namespace

Result<std::vector<std::unique_ptr<RankSocket>>> connect_mesh(const MeshOptions& options, const LostPeer& lost) {
  return Mesh(options, lost).connect_all();
}

}  // namespace skein
