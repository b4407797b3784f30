#include "coordinator/http/stream_client.h"

#include <gtest/gtest.h>

#include <vector>

#include "coordinator/http/loop.h"
#include "coordinator/http/server.h"

// The client against the project's own server, both on one loop.

namespace skein {
namespace {

using Kind = StreamEnd::Kind;

class StreamClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HttpConfig config;
    config.port = 0;
    config.limits.connections_max = 4096;
    server_ = std::make_unique<HttpServer>(
        loop_, std::move(config),
        [this](const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) { answer(request, writer); });
    ASSERT_TRUE(server_->listen().ok());
    connect(server_->port());
  }

  void connect(uint16_t port, int64_t timeout_ms = 20'000) {
    client_ = std::make_unique<StreamClient>(
        loop_, HttpTarget{.host = "127.0.0.1", .port = port, .api_key = "our-key"}, timeout_ms);
    ASSERT_TRUE(client_->resolve().ok());
  }

  void answer(const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
    if (const std::string* key = request.header("authorization")) key_ = *key;
    if (request.path == "/busy") return writer->respond(error_response({.status = 429, .message = "full"}));
    if (request.path == "/json") return writer->respond({.body = "{}"});
    if (request.path == "/hold") return held_.push_back(writer);
    writer->start(200, "text/event-stream; charset=utf-8");
    writer->write("data: " + request.body + "\n\n");
    if (request.path == "/garbage") writer->write("what\n");
    if (request.path == "/echo") writer->write("data: [DONE]\n\n");
    writer->end();
  }

  // Calls `fn` once the server has so many requests for /hold.
  void when_held(size_t count, std::function<void()> fn) {
    loop_.call_after(1, [this, count, fn = std::move(fn)] { held_.size() < count ? when_held(count, fn) : fn(); });
  }

  // How a stream of its own ends.
  StreamEnd end_of(const std::string& path) {
    StreamEnd result;
    client_->post(path, "7", {.on_event = [this](std::string_view data) {
                                events_.emplace_back(data);
                                return data == "refuse" ? corrupt("refused") : Status();
                              },
                              .on_end =
                                  [&](const StreamEnd& end) {
                                    result = end;
                                    loop_.stop();
                                  }});
    loop_.run();
    return result;
  }

  Loop loop_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<StreamClient> client_;
  std::vector<std::shared_ptr<ResponseWriter>> held_;
  std::vector<std::string> events_;
  std::string key_;
};

TEST_F(StreamClientTest, ReadsAStream) {
  const StreamEnd end = end_of("/echo");
  EXPECT_EQ(end.kind, Kind::kDone);
  EXPECT_EQ(end.status, 200);
  EXPECT_EQ(end.message, "");
  EXPECT_EQ(events_, std::vector<std::string>{"7"});
  EXPECT_EQ(key_, "Bearer our-key");
}

TEST_F(StreamClientTest, TellsARefusalWithRetryAfter) {
  const StreamEnd end = end_of("/busy");
  EXPECT_EQ(end.kind, Kind::kStatus);
  EXPECT_EQ(end.status, 429);
  EXPECT_EQ(end.retry_after_s, 1);
  EXPECT_EQ(end.message, "full");
}

TEST_F(StreamClientTest, TellsWhatIsNoStream) {
  const StreamEnd json = end_of("/json");
  EXPECT_EQ(json.kind, Kind::kMalformed);
  EXPECT_NE(json.message.find("application/json"), std::string::npos);
}

TEST_F(StreamClientTest, TellsGarbageWithinAStream) {
  const StreamEnd end = end_of("/garbage");
  EXPECT_EQ(end.kind, Kind::kMalformed);
  EXPECT_NE(end.message.find("what"), std::string::npos);
  EXPECT_EQ(events_.size(), 1u);
}

TEST_F(StreamClientTest, TellsAStreamThatEndsEarly) {
  EXPECT_EQ(end_of("/short").kind, Kind::kCut);
  EXPECT_EQ(events_.size(), 1u);
}

TEST_F(StreamClientTest, TellsAConnectionThatBreaks) {
  when_held(1, [this] { server_->close(); });
  EXPECT_EQ(end_of("/hold").kind, Kind::kCut);
}

TEST_F(StreamClientTest, TellsAServerThatIsNotThere) {
  const uint16_t port = server_->port();
  server_.reset();
  connect(port);
  const StreamEnd end = end_of("/echo");
  EXPECT_EQ(end.kind, Kind::kConnect);
  EXPECT_EQ(end.status, 0);
  EXPECT_NE(end.message.find("refused"), std::string::npos);
}

TEST_F(StreamClientTest, GivesUpAtItsDeadline) {
  connect(server_->port(), 20);
  EXPECT_EQ(end_of("/hold").kind, Kind::kTimeout);
}

TEST_F(StreamClientTest, RunsManyStreamsAtOnce) {
  constexpr int kStreams = 400;  // each takes two descriptors here
  int done = 0;
  for (int i = 0; i < kStreams; ++i) {
    client_->post("/hold", "", {.on_event = [](std::string_view) { return Status(); },
                                .on_end =
                                    [&](const StreamEnd& end) {
                                      EXPECT_EQ(end.kind, Kind::kDone);
                                      if (++done == kStreams) loop_.stop();
                                    }});
  }
  when_held(kStreams, [this] {
    for (const auto& writer : held_) {
      writer->start(200, "text/event-stream");
      writer->write("data: [DONE]\n\n");
      writer->end();
    }
  });
  loop_.run();
  EXPECT_EQ(done, kStreams);
}

TEST_F(StreamClientTest, CallsNobodyOnceItIsGone) {
  client_->post("/hold", "", {.on_event = [](std::string_view) { return Status(); },
                              .on_end = [](const StreamEnd&) { ADD_FAILURE() << "called"; }});
  when_held(1, [this] {
    held_[0]->on_closed([this] { loop_.stop(); });
    client_.reset();
  });
  loop_.run();
}

}  // namespace
}  // namespace skein
