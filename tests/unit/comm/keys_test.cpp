#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>

#include "base/network.h"
#include "comm/messages.h"
#include "tests/unit/model/temporary_folder.h"

namespace skein {
namespace {

using Clock = std::chrono::steady_clock;

class KeysTest : public ::testing::Test {
 protected:
  std::string write(const std::string& text, mode_t mode = 0600) {
    std::string path = folder_.write("key", text);
    chmod(path.c_str(), mode);
    return path;
  }
  test::TemporaryFolder folder_;
};

TEST_F(KeysTest, SurviveTheirFile) {
  const KeyPair pair = make_key_pair();
  const auto back = read_key_file(write(key_file_text(pair)));
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(back->public_key, pair.public_key);
  EXPECT_EQ(back->secret_key, pair.secret_key);
  EXPECT_EQ(*read_public_key_file(write(public_key_text(pair.public_key))), pair.public_key);
}

TEST_F(KeysTest, RefusesWhatIsNoSecret) {
  const std::string good = key_file_text(make_key_pair());
  EXPECT_NE(read_key_file(write(good, 0644)).status().message().find("chmod 600"), std::string::npos);
  EXPECT_FALSE(read_key_file(write("public x\n")).ok());
  EXPECT_FALSE(read_key_file(write("")).ok());
  EXPECT_FALSE(read_key_file(folder_.file("absent")).ok());
  const auto published = read_public_key_file(write("public rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7\n"));
  EXPECT_NE(published.status().message().find("manual"), std::string::npos);
}

TEST_F(KeysTest, AnAllowListNamesItsLines) {
  const std::string one = make_key_pair().public_key;
  const std::string other = make_key_pair().public_key;
  const auto list = parse_allow_list("# nodes\na " + one + "\n\nb " + other + "\n");
  ASSERT_TRUE(list.ok()) << list.status().message();
  EXPECT_EQ(list->at(other), "b");
  const auto error = [](const std::string& text) { return parse_allow_list(text).status().message(); };
  EXPECT_NE(error("a " + one + "\na " + other).find("line 2: the node a is there twice"), std::string::npos);
  EXPECT_NE(error("a " + one + "\nb " + one).find("the same key"), std::string::npos);
  EXPECT_NE(error("a short").find("line 1"), std::string::npos);
  EXPECT_NE(error("a").find("line 1"), std::string::npos);
}

// Waits until `done`, looking again and again; false after 10 s.
bool until(const std::function<bool()>& done) {
  const auto end = Clock::now() + std::chrono::seconds(10);
  while (!done()) {
    if (Clock::now() > end) return false;
    std::this_thread::yield();
  }
  return true;
}

TEST(CurveSocket, LetsInKnownKeysAloneAndNamesThem) {
  const KeyPair server = make_key_pair();
  const KeyPair known = make_key_pair();
  const KeyPair stranger = make_key_pair();
  const auto port = listen_at("127.0.0.1", {});
  ASSERT_TRUE(port.ok());
  close(port->fd);
  const std::string endpoint = "tcp://127.0.0.1:" + std::to_string(port->port);
  const auto listener = MessageSocket::bind(endpoint, ListenKeys{server, {{known.public_key, "node-a"}}});
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  const auto refused = MessageSocket::connect(endpoint, "x", ConnectKeys{stranger, server.public_key});
  const auto plain = MessageSocket::connect(endpoint, "y");
  const auto let_in = MessageSocket::connect(endpoint, "z", ConnectKeys{known, server.public_key});
  for (const auto& socket : {&refused, &plain, &let_in}) ASSERT_TRUE((**socket)->send("", Lease{}).ok());
  std::optional<MessageSocket::Received> received;
  ASSERT_TRUE(until([&] { return (received = (*listener)->receive()).has_value(); }));
  EXPECT_EQ(received->peer, "z");
  EXPECT_EQ(received->user, "node-a");
  EXPECT_TRUE(until([&] { return (*refused)->key_refused(); }));
  EXPECT_FALSE((*let_in)->key_refused());
  EXPECT_FALSE((*listener)->receive().has_value());
}

}  // namespace
}  // namespace skein
