#include "comm/messages.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <zmq.h>

#include <chrono>
#include <functional>
#include <thread>

#include "base/network.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

// Waits until `done`, looking again and again; false after 10 s.
bool until(const std::function<bool()>& done) {
  const auto end = Clock::now() + std::chrono::seconds(10);
  while (!done()) {
    if (Clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

// A connection of a peer's, whose frames say what a test likes. Several may be of the same peer, as where it lost one
// and the other side does not know that yet.
class Connection {
 public:
  explicit Connection(const std::string& endpoint)
      : context_(zmq_ctx_new()), socket_(zmq_socket(context_, ZMQ_DEALER)) {
    const int none = 0;
    EXPECT_EQ(zmq_setsockopt(socket_, ZMQ_LINGER, &none, sizeof none), 0);
    EXPECT_EQ(zmq_connect(socket_, endpoint.c_str()), 0);
  }
  ~Connection() { close(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void close() {
    if (socket_ == nullptr) return;
    zmq_close(std::exchange(socket_, nullptr));
    zmq_ctx_term(context_);
  }

  bool send(const Frame& frame, const Envelope& envelope) {
    const std::string bytes = encode_frame(frame, envelope);
    return zmq_send(socket_, bytes.data(), bytes.size(), ZMQ_DONTWAIT) >= 0;
  }

  std::optional<std::string> receive() {
    char bytes[1000];
    const int size = zmq_recv(socket_, bytes, sizeof bytes, ZMQ_DONTWAIT);
    if (size < 0) return std::nullopt;
    return std::string(bytes, static_cast<size_t>(size));
  }

 private:
  void* context_;
  void* socket_;
};

// Of a port that nobody listens at.
std::string free_endpoint() {
  const auto port = listen_at("127.0.0.1", {});
  EXPECT_TRUE(port.ok());
  if (!port.ok()) return "";
  close(port->fd);
  return "tcp://127.0.0.1:" + std::to_string(port->port);
}

class RouterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    endpoint_ = free_endpoint();
    auto router = MessageSocket::bind(endpoint_);
    ASSERT_TRUE(router.ok()) << router.status().message();
    router_ = std::move(*router);
  }

  std::optional<MessageSocket::Received> receive() {
    std::optional<MessageSocket::Received> received;
    EXPECT_TRUE(until([&] { return (received = router_->receive()).has_value(); }));
    return received;
  }

  std::string endpoint_;
  std::unique_ptr<MessageSocket> router_;
};

TEST_F(RouterTest, ReachesAPeerThatCameAgainWhileWhatItSaidBeforeIsUnread) {
  constexpr uint64_t kFrames = 200;
  Connection before(endpoint_);
  for (uint64_t number = 1; number <= kFrames; ++number) {
    ASSERT_TRUE(before.send(Lease{}, {.sender = "replica-1", .number = number}));
  }
  ASSERT_TRUE(receive()) << "it is known";
  Connection again(endpoint_);
  ASSERT_TRUE(again.send(Stop{}, {.sender = "replica-1", .number = kFrames + 9}));
  uint64_t reconnected = 0;
  for (uint64_t frame = 1; frame <= kFrames; ++frame) {
    const auto received = receive();
    ASSERT_TRUE(received && received->frame.ok());
    EXPECT_EQ(received->peer, "replica-1");
    EXPECT_EQ(received->reconnected, std::holds_alternative<Stop>(*received->frame));
    reconnected += received->reconnected;
  }
  EXPECT_EQ(reconnected, 1u);
  ASSERT_TRUE(router_->send("replica-1", Lease{}).ok());
  EXPECT_TRUE(until([&] { return again.receive().has_value(); }));
  EXPECT_FALSE(before.receive().has_value());
}

TEST_F(RouterTest, RefusesFramesThatNameNobody) {
  Connection peer(endpoint_);
  ASSERT_TRUE(peer.send(Lease{}, {}));
  const auto received = receive();
  ASSERT_TRUE(received);
  EXPECT_EQ(received->frame.status().code(), Code::kCorrupt);
  EXPECT_EQ(router_->send("", Lease{}).code(), Code::kUnavailable);
}

TEST_F(RouterTest, TellsAPeerOfAnotherVersionWhyInItsOwn) {
  Connection peer(endpoint_);
  const Envelope old{.version = kWireVersion - 1};
  ASSERT_TRUE(peer.send(Lease{}, old));
  const auto received = receive();
  ASSERT_TRUE(received);
  const std::string why = received->frame.status().message();
  EXPECT_NE(why.find("run the same Skein everywhere"), std::string::npos) << why;
  std::optional<std::string> answer;
  ASSERT_TRUE(until([&] { return (answer = peer.receive()).has_value(); }));
  EXPECT_EQ(*answer, encode_frame(RefuseAgent{why}, old));
}

// With heartbeats libzmq 4.3.4 aborts half a second later, when the next one is due.
TEST_F(RouterTest, OutlivesAPeerThatDiesWithMoreUnreadThanIsTaken) {
  constexpr int kMoreThanTaken = 5000;
  Connection peer(endpoint_);
  uint64_t number = 0;
  const auto send = [&] { return peer.send(Lease{}, {.sender = "replica-1", .number = ++number}); };
  ASSERT_TRUE(send());
  ASSERT_TRUE(receive());
  for (int frame = 0; frame < kMoreThanTaken; ++frame) ASSERT_TRUE(until(send));
  peer.close();
  const auto end = Clock::now() + std::chrono::milliseconds(1200);
  while (Clock::now() < end) {
    (void)router_->send("replica-1", Lease{});  // so that the peer's kernel says that it is gone
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // allowed: a timer in libzmq gives no sign
  }
  EXPECT_TRUE(until([&] {
    return !router_->receive() && router_->send("replica-1", Lease{}).code() == Code::kUnavailable;
  }));
}

class KeyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    endpoint_ = free_endpoint();
    const AllowList allowed = {{a_.public_key, "node-a"}, {b_.public_key, "node-b"}};
    auto listener = MessageSocket::bind(endpoint_, ListenKeys{server_, allowed});
    ASSERT_TRUE(listener.ok()) << listener.status().message();
    listener_ = std::move(*listener);
  }

  std::unique_ptr<MessageSocket> connect(const std::string& name, const KeyPair& own) const {
    auto socket = MessageSocket::connect(endpoint_, name, ConnectKeys{own, server_.public_key});
    EXPECT_TRUE(socket.ok()) << socket.status().message();
    return std::move(*socket);
  }
  static std::optional<MessageSocket::Received> receive(MessageSocket& socket) {
    std::optional<MessageSocket::Received> received;
    EXPECT_TRUE(until([&] { return (received = socket.receive()).has_value(); }));
    return received;
  }

  const KeyPair server_ = make_key_pair();
  const KeyPair a_ = make_key_pair();
  const KeyPair b_ = make_key_pair();
  std::string endpoint_;
  std::unique_ptr<MessageSocket> listener_;
};

TEST_F(KeyTest, LetsInKnownKeysAloneAndNamesThem) {
  const auto refused = connect("x", make_key_pair());
  const auto plain = MessageSocket::connect(endpoint_, "y");
  const auto let_in = connect("z", a_);
  // It fails if they were refused before.
  for (MessageSocket* socket : {refused.get(), plain->get()}) (void)socket->send("", Lease{});
  ASSERT_TRUE(let_in->send("", Lease{}).ok());
  const auto received = receive(*listener_);
  ASSERT_TRUE(received);
  EXPECT_EQ(received->name, "z");
  EXPECT_EQ(received->user, "node-a");
  EXPECT_TRUE(until([&] { return refused->key_refused(); }));
  EXPECT_FALSE(let_in->key_refused());
  EXPECT_FALSE(listener_->receive().has_value());
}

TEST_F(KeyTest, OneDoesNotTakeTheNamesOfAnother) {
  const auto poser = connect("replica-1", b_);
  ASSERT_TRUE(poser->send("", Lease{}).ok());
  auto received = receive(*listener_);
  ASSERT_TRUE(received && received->frame.ok());
  EXPECT_EQ(received->peer, peer_id("node-b", "replica-1"));
  EXPECT_EQ(listener_->send(peer_id("node-a", "replica-1"), Lease{}).code(), Code::kUnavailable);
  const auto leader = connect("replica-1", a_);
  ASSERT_TRUE(leader->send("", Lease{}).ok());
  received = receive(*listener_);
  ASSERT_TRUE(received && received->frame.ok()) << "the other one was first";
  EXPECT_EQ(received->peer, peer_id("node-a", "replica-1"));
  EXPECT_FALSE(received->reconnected);
  ASSERT_TRUE(listener_->send(peer_id("node-a", "replica-1"), Stop{}).ok());
  received = receive(*leader);
  ASSERT_TRUE(received && received->frame.ok());
  EXPECT_TRUE(std::holds_alternative<Stop>(*received->frame));
  EXPECT_FALSE(poser->receive().has_value());
}

TEST(MessageSocket, RefusesNamesThatNoFrameCanCarry) {
  const auto connect = [](size_t bytes) {
    return MessageSocket::connect("tcp://127.0.0.1:1", std::string(bytes, 'a')).status().code();
  };
  EXPECT_EQ(connect(0), Code::kInvalidArgument);
  EXPECT_EQ(connect(kSenderBytesMax), Code::kOk);
  EXPECT_EQ(connect(kSenderBytesMax + 1), Code::kInvalidArgument);
}

}  // namespace
}  // namespace skein
