#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <barrier>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "comm/rank_socket.h"

namespace skein {
namespace {

const LostPeer kThrow = [](const std::string& what) { throw std::runtime_error(what); };

// A connection to a listener of this machine that has said `bytes`.
int stranger(const std::string& address, int port, const std::string& bytes) {
  sockaddr_in where{};
  where.sin_family = AF_INET;
  where.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, address.c_str(), &where.sin_addr);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&where), sizeof where), 0);
  EXPECT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  return fd;
}

TEST(RankMesh, ConnectionsWithoutTheTokenAreNotTaken) {
  std::barrier meet(2);
  std::string cards[2];
  std::vector<int> strangers;
  const auto run = [&](int rank) {
    const auto sockets = connect_mesh(
        {.rank = rank,
         .links = {{.from = 0, .to = 1}},
         .network = "127.0.0.0/8",
         .ports = {},
         .name_of = [](int other) { return "rank " + std::to_string(other); },
         .all_gather =
             [&](const std::string& card) {
               cards[rank] = card;
               meet.arrive_and_wait();
               if (rank == 0) {
                 // The address, then the port; the token, which comes behind, is not known to strangers.
                 int32_t port = 0;
                 std::memcpy(&port, cards[1].data() + INET_ADDRSTRLEN, sizeof port);
                 const std::string address = cards[1].substr(0, cards[1].find('\0'));
                 strangers.push_back(stranger(address, port, ""));
                 strangers.push_back(stranger(address, port, "GET / HTTP/1.1"));
                 strangers.push_back(stranger(address, port, std::string(36, '\0')));
                 strangers.push_back(stranger(address, port, std::string(4096, 'x')));
               }
               meet.arrive_and_wait();
               return std::vector<std::string>{cards[0], cards[1]};
             }},
        kThrow);
    ASSERT_TRUE(sockets.ok()) << sockets.status().message();
    if (rank == 0) {
      (*sockets)[0]->write_message("from rank 0");
    } else {
      EXPECT_EQ((*sockets)[0]->read_message(), "from rank 0");
    }
    meet.arrive_and_wait();
  };
  std::thread other([&] { run(1); });
  run(0);
  other.join();
  for (const int fd : strangers) close(fd);
}

TEST(RankMesh, SaysWhoDidNotConnect) {
  const auto sockets = connect_mesh(
      {.rank = 1,
       .links = {{.from = 0, .to = 1}},
       .network = "127.0.0.1",
       .ports = {},
       .name_of = [](int other) { return "rank " + std::to_string(other); },
       .all_gather = [](const std::string& card) { return std::vector<std::string>{card, card}; },
       .timeout_ms = 50},
      kThrow);
  ASSERT_FALSE(sockets.ok());
  EXPECT_NE(sockets.status().message().find("1 other ranks did not connect to rank 1"), std::string::npos)
      << sockets.status().message();
}

TEST(RankMesh, SaysWhichInterfacesThereAre) {
  const auto sockets = connect_mesh({.rank = 0,
                                     .links = {},
                                     .network = "absent0",
                                     .ports = {},
                                     .name_of = {},
                                     .all_gather = {}},
                                    kThrow);
  ASSERT_FALSE(sockets.ok());
  EXPECT_NE(sockets.status().message().find("lo 127.0.0.1/8"), std::string::npos) << sockets.status().message();
}

TEST(RankSocket, AFrameOverTheLimitIsNotBelieved) {
  SocketPair ends = make_socket_pair(kThrow);
  const uint64_t size = uint64_t{1} << 40;
  ends.writer->write(&size, sizeof size);
  EXPECT_THROW(ends.reader->read_message(), std::runtime_error);
}

TEST(RankSocket, ExchangesMoreThanTheKernelHolds) {
  SocketPair ends = make_socket_pair(kThrow);
  const size_t bytes = 8 << 20;
  const auto run = [&](RankSocket* socket, std::byte value) {
    const std::vector<std::byte> own(bytes, value);
    std::vector<std::byte> other(bytes);
    std::byte* const into[] = {other.data()};
    RankSocket* const peers[] = {socket};
    RankSocket::exchange(peers, own, into);
    for (const std::byte byte : other) ASSERT_EQ(byte, value ^ std::byte{3});
  };
  std::thread other([&] { run(ends.reader.get(), std::byte{1}); });
  run(ends.writer.get(), std::byte{2});
  other.join();
}

}  // namespace
}  // namespace skein
