#include "coordinator/http/server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <csignal>
#include <future>
#include <thread>

#include "coordinator/http/loop.h"

// A real server on a port that the system picks, against clients of plain blocking sockets.

namespace skein {
namespace {

class Client {
 public:
  explicit Client(uint16_t port, int receive_buffer = 0) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval deadline{.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline);
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof deadline);
    if (receive_buffer > 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { close(); }
  Client(const Client&) = delete;

  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  bool connected() const { return connected_; }
  bool send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      text.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  // Reads until `wanted` has come, or to the end of the connection.
  std::string read_until(std::string_view wanted) {
    while (in_.find(wanted) == in_.npos) {
      char bytes[4096];
      const ssize_t count = recv(fd_, bytes, sizeof bytes, 0);
      if (count <= 0) {
        closed_ = count == 0 || errno == ECONNRESET;
        break;
      }
      in_.append(bytes, static_cast<size_t>(count));
    }
    const size_t at = in_.find(wanted);
    const size_t length = at == in_.npos ? in_.size() : at + wanted.size();
    std::string out = in_.substr(0, length);
    in_.erase(0, length);
    return out;
  }
  // One answer with a Content-Length: its head, then its body.
  std::pair<std::string, std::string> read_answer() {
    std::string head = read_until("\r\n\r\n");
    const size_t at = head.find("Content-Length: ");
    size_t length = 0;
    if (at != head.npos) std::from_chars(head.data() + at + 16, head.data() + head.size(), length);
    while (in_.size() < length) {
      char byte;
      if (recv(fd_, &byte, 1, 0) != 1) break;
      in_ += byte;
    }
    std::string body = in_.substr(0, length);
    in_.erase(0, length);
    return {std::move(head), std::move(body)};
  }
  std::string read_all() { return read_until("\xFF\xFF no such text"); }
  bool closed_by_server() {
    read_all();
    return closed_;
  }

 private:
  int fd_;
  bool connected_ = false;
  bool closed_ = false;
  std::string in_;
};

std::string get(const std::string& path, const std::string& headers = {}) {
  return "GET " + path + " HTTP/1.1\r\nHost: a\r\n" + headers + "\r\n";
}
std::string post(const std::string& path, const std::string& body) {
  return "POST " + path + " HTTP/1.1\r\nHost: a\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

// Paths: /echo answers path and body; /hold keeps the writer; /stream sends two events and keeps the writer; /flood
// writes without end.
class Server : public ::testing::Test {
 protected:
  void start(HttpConfig config = {}) {
    config.port = 0;
    server_ = std::make_unique<HttpServer>(
        loop_, std::move(config), [this](HttpRequest request, std::shared_ptr<ResponseWriter> writer) {
          handle(request, writer);
        });
    const Status status = server_->listen();
    ASSERT_TRUE(status.ok()) << status.message();
    port_ = server_->port();
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~Server() override {
    if (!thread_.joinable()) return;
    on_loop([this] { server_.reset(); });
    loop_.stop();
    thread_.join();
  }

  void handle(const HttpRequest& request, const std::shared_ptr<ResponseWriter>& writer) {
    if (request.path == "/echo") return writer->respond({.body = request.path + ":" + request.body});
    writer->on_closed([this] {
      ++gone_;
      notice();
    });
    if (request.path == "/flood") return flood(writer, 0);
    if (request.path == "/stream") {
      writer->start(200, "text/event-stream");
      writer->write("data: 1\n\n");
      writer->write("data: 2\n\n");
    }
    held_ = writer;
    ++holding_;
    notice();
  }
  void flood(const std::shared_ptr<ResponseWriter>& writer, int round) {
    if (round == 0) writer->start(200, "text/event-stream");
    if (gone_ > 0) return;
    writer->write(std::string(10'000, 'x'));
    loop_.post([=, this] { flood(writer, round + 1); });
  }

  void on_loop(const std::function<void()>& fn) {
    std::promise<void> done;
    loop_.post([&] {
      fn();
      done.set_value();
    });
    done.get_future().wait();
  }
  HttpCounters counters() {
    HttpCounters out;
    on_loop([&] { out = server_->counters(); });
    return out;
  }
  // Waits on the loop's thread's changes until `condition`, asked there, holds.
  void wait_until(const std::function<bool()>& condition) {
    std::promise<void> done;
    on_loop([&] {
      waiting_ = [&, condition] {
        if (!condition()) return false;
        done.set_value();
        return true;
      };
      notice();
      tick();
    });
    ASSERT_EQ(done.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready);
  }
  void notice() {
    if (waiting_ && waiting_()) waiting_ = nullptr;
  }
  void tick() {
    notice();
    if (waiting_) loop_.call_after(5, [this] { tick(); });
  }

  Loop loop_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
  uint16_t port_ = 0;
  std::function<bool()> waiting_;
  std::shared_ptr<ResponseWriter> held_;
  int gone_ = 0, holding_ = 0;
};

TEST_F(Server, KeepsConnectionsAlive) {
  start();
  Client client(port_);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.send(post("/echo", "body" + std::to_string(i))));
    const auto [head, body] = client.read_answer();
    EXPECT_TRUE(head.starts_with("HTTP/1.1 200 OK\r\n")) << head;
    EXPECT_NE(head.find("Content-Type: application/json\r\n"), head.npos);
    EXPECT_NE(head.find("Date: "), head.npos);
    EXPECT_EQ(body, "/echo:body" + std::to_string(i));
  }
  EXPECT_EQ(counters().connections_accepted, 1);
  EXPECT_EQ(counters().requests, 3);
}

TEST_F(Server, AnswersPipelinedRequestsInOrder) {
  start();
  Client client(port_);
  std::string all;
  for (int i = 0; i < 200; ++i) all += post("/echo", std::to_string(i));
  ASSERT_TRUE(client.send(all));
  for (int i = 0; i < 200; ++i) ASSERT_EQ(client.read_answer().second, "/echo:" + std::to_string(i));
}

TEST_F(Server, RunsOnePipelinedRequestAtATime) {
  start();
  Client client(port_);
  ASSERT_TRUE(client.send(get("/hold") + get("/echo")));
  wait_until([&] { return holding_ == 1; });
  EXPECT_EQ(counters().requests, 1);
  on_loop([&] { held_->respond({.body = "held"}); });
  EXPECT_EQ(client.read_answer().second, "held");
  EXPECT_EQ(client.read_answer().second, "/echo:");
}

TEST_F(Server, ClosesWhereAsked) {
  start();
  Client client(port_);
  ASSERT_TRUE(client.send(get("/echo", "Connection: close\r\n")));
  EXPECT_NE(client.read_answer().first.find("Connection: close\r\n"), std::string::npos);
  EXPECT_TRUE(client.closed_by_server());
}

TEST_F(Server, SpeaksHttp10) {
  start();
  Client plain(port_);
  ASSERT_TRUE(plain.send("GET /echo HTTP/1.0\r\n\r\n"));
  EXPECT_TRUE(plain.read_all().ends_with("\r\n\r\n/echo:"));
  EXPECT_TRUE(plain.closed_by_server());
  Client stream(port_);
  ASSERT_TRUE(stream.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
  stream.read_until("data: 2\n\n");
  on_loop([&] { held_->end(); });
  const std::string rest = stream.read_all();
  EXPECT_EQ(rest, "");
  EXPECT_TRUE(stream.closed_by_server());
}

TEST_F(Server, AnswersHeadWithoutABody) {
  start();
  Client client(port_);
  ASSERT_TRUE(client.send("HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n" + get("/echo")));
  const std::string head = client.read_until("\r\n\r\n");
  EXPECT_NE(head.find("Content-Length: 6\r\n"), head.npos);
  EXPECT_EQ(client.read_answer().second, "/echo:");
}

TEST_F(Server, StreamsInChunksThatLeaveTogether) {
  start();
  Client client(port_);
  ASSERT_TRUE(client.send(get("/stream")));
  const std::string head = client.read_until("\r\n\r\n");
  EXPECT_NE(head.find("Transfer-Encoding: chunked\r\n"), head.npos);
  EXPECT_EQ(client.read_until("data: 2\n\n\r\n"), "12\r\ndata: 1\n\ndata: 2\n\n\r\n");
  on_loop([&] {
    held_->write("data: 3\n\n");
    held_->end();
    held_->write("late");
  });
  EXPECT_EQ(client.read_until("0\r\n\r\n"), "9\r\ndata: 3\n\n\r\n0\r\n\r\n");
  ASSERT_TRUE(client.send(get("/echo")));
  EXPECT_EQ(client.read_answer().second, "/echo:");
}

TEST_F(Server, NoticesThatAClientHasGone) {
  start();
  for (const char* path : {"/hold", "/stream"}) {
    gone_ = holding_ = 0;
    Client client(port_);
    ASSERT_TRUE(client.send(get(path)));
    wait_until([&] { return holding_ == 1; });
    client.close();
    wait_until([&] { return gone_ == 1; });
    on_loop([&] {
      held_->write("into the void");
      held_->end();
      held_.reset();
    });
  }
  EXPECT_EQ(counters().clients_gone, 2);
  EXPECT_EQ(counters().requests_running, 0);
  EXPECT_EQ(counters().connections, 0);
}

TEST_F(Server, CutsAStreamThatIsNotRead) {
  HttpConfig config;
  config.limits.stream_bytes_max = 100'000;
  start(config);
  Client client(port_, 4096);
  ASSERT_TRUE(client.send(get("/flood")));
  wait_until([&] { return gone_ == 1; });
  EXPECT_EQ(counters().slow_streams_cut, 1);
}

TEST_F(Server, DoesNotTakeItsOwnDelayForASlowClient) {
  HttpConfig config;
  config.limits.stream_bytes_max = 20'000;
  start(config);
  Client client(port_);
  ASSERT_TRUE(client.send(get("/stream")));
  client.read_until("data: 2\n\n\r\n");
  wait_until([&] { return held_->ready(); });  // the bytes are here before the server knows that they have left
  std::atomic<int> ready = 0;
  on_loop([&] {
    held_->on_ready([&] { ++ready; });
    held_->write("first");
    EXPECT_FALSE(held_->ready());
    loop_.post([&] {  // behind that write's start, ahead of its end
      for (int i = 0; i < 10; ++i) held_->write(std::string(10'000, 'x'));
    });
  });
  wait_until([&] { return ready == 1; });
  on_loop([&] { held_->end(); });
  client.read_until("0\r\n\r\n");
  EXPECT_EQ(counters().slow_streams_cut, 0);
}

TEST_F(Server, CutsAClientThatTakesNothing) {
  HttpConfig config;
  config.limits.write_timeout_ms = 100;
  config.limits.stream_bytes_max = size_t{1} << 40;
  start(config);
  Client client(port_, 4096);
  ASSERT_TRUE(client.send(get("/flood")));
  wait_until([&] { return gone_ == 1; });
  EXPECT_EQ(counters().timeouts, 1);
}

TEST_F(Server, RefusesWithAnAnswerAndCloses) {
  HttpConfig config;
  config.limits.body_bytes_max = 1000;
  config.limits.head_bytes_max = 2000;
  start(config);
  const std::pair<std::string, const char*> table[] = {
      {"GET / HTTP/1.1\n\n", "400"},
      {get("/echo", "Content-Length: 1001\r\n"), "413"},
      {get("/echo", "X: " + std::string(3000, 'x') + "\r\n"), "431"},
      {get("/echo", "Content-Encoding: gzip\r\n"), "415"},
      {"GET /echo HTTP/3.0\r\n\r\n", "505"},
      {get("/echo", "Transfer-Encoding: chunked\r\n") + "3e9\r\n", "413"},
  };
  for (const auto& [request, status] : table) {
    Client client(port_);
    // The rest of a long body is on its way: the answer must arrive all the same.
    ASSERT_TRUE(client.send(request));
    client.send(std::string(300'000, 'x'));
    const auto [head, body] = client.read_answer();
    EXPECT_TRUE(head.starts_with(std::string("HTTP/1.1 ") + status)) << head;
    EXPECT_NE(head.find("Connection: close"), head.npos);
    EXPECT_TRUE(body.starts_with(R"({"error":{"message":")")) << body;
    client.close();
  }
  EXPECT_EQ(counters().requests, 0);
  EXPECT_EQ(counters().requests_refused, 6);
  EXPECT_EQ(counters().requests_running, 0);
}

TEST_F(Server, AsksForAKeyBeforeItTakesABody) {
  HttpConfig config;
  config.access.api_keys = {"our-key-1"};
  start(config);
  Client client(port_);
  ASSERT_TRUE(client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"));
  const auto [head, body] = client.read_answer();
  EXPECT_TRUE(head.starts_with("HTTP/1.1 401 ")) << head;
  EXPECT_NE(head.find("WWW-Authenticate: Bearer\r\n"), head.npos);
  EXPECT_NE(body.find("invalid_api_key"), body.npos);
  Client known(port_);
  ASSERT_TRUE(known.send(get("/echo", "Authorization: Bearer our-key-1\r\n")));
  EXPECT_EQ(known.read_answer().second, "/echo:");
}

TEST_F(Server, ServesAllowedOrigins) {
  HttpConfig config;
  config.access.api_keys = {"our-key-1"};
  config.access.allowed_origins = {"https://a.example"};
  start(config);
  Client client(port_);
  const std::string origin = "Origin: https://a.example\r\n";
  ASSERT_TRUE(client.send("OPTIONS /echo HTTP/1.1\r\nHost: a\r\nAccess-Control-Request-Method: POST\r\n" + origin + "\r\n"));
  const std::string preflight = client.read_until("\r\n\r\n");
  EXPECT_TRUE(preflight.starts_with("HTTP/1.1 204 ")) << preflight;
  EXPECT_NE(preflight.find("Access-Control-Allow-Origin: https://a.example\r\n"), preflight.npos);
  ASSERT_TRUE(client.send(get("/echo", origin + "Authorization: Bearer our-key-1\r\n")));
  EXPECT_NE(client.read_answer().first.find("Access-Control-Allow-Origin: https://a.example\r\n"), std::string::npos);
  ASSERT_TRUE(client.send(get("/echo", "Origin: https://b.example\r\nAuthorization: Bearer our-key-1\r\n")));
  EXPECT_EQ(client.read_answer().first.find("Access-Control-Allow-Origin"), std::string::npos);
}

TEST_F(Server, InvitesABodyThatWaits) {
  start();
  Client client(port_);
  ASSERT_TRUE(client.send("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"));
  EXPECT_EQ(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  ASSERT_TRUE(client.send("abc"));
  EXPECT_EQ(client.read_answer().second, "/echo:abc");
}

TEST_F(Server, TakesChunksOfOneByte) {
  start();
  Client client(port_);
  std::string text = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 20'000; ++i) text += "1;x=y\r\nz\r\n";
  ASSERT_TRUE(client.send(text + "0\r\n\r\n"));
  EXPECT_EQ(client.read_answer().second, "/echo:" + std::string(20'000, 'z'));
}

TEST_F(Server, TimesOutSlowHeadsAndBodies) {
  HttpConfig config;
  config.limits.head_timeout_ms = config.limits.body_timeout_ms = 50;
  start(config);
  for (const char* text : {"GET / HT", "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab",
                           "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"}) {
    Client client(port_);
    ASSERT_TRUE(client.send(text));
    EXPECT_TRUE(client.read_all().starts_with("HTTP/1.1 408 ")) << text;
    EXPECT_TRUE(client.closed_by_server());
  }
  EXPECT_EQ(counters().timeouts, 3);
}

TEST_F(Server, ClosesIdleConnectionsQuietly) {
  HttpConfig config;
  config.limits.idle_timeout_ms = 50;
  start(config);
  Client client(port_);
  EXPECT_EQ(client.read_all(), "");
  EXPECT_TRUE(client.closed_by_server());
}

TEST_F(Server, BoundsItsConnections) {
  HttpConfig config;
  config.limits.connections_max = 2;
  start(config);
  Client first(port_), second(port_);
  ASSERT_TRUE(first.send(get("/echo")));
  ASSERT_TRUE(second.send(get("/echo")));
  EXPECT_EQ(first.read_answer().second, "/echo:");
  EXPECT_EQ(second.read_answer().second, "/echo:");
  Client third(port_);
  EXPECT_TRUE(third.read_all().starts_with("HTTP/1.1 503 "));
  EXPECT_TRUE(third.closed_by_server());
  first.close();
  third.close();
  wait_until([&] { return server_->counters().connections == 1; });
  Client fourth(port_);
  ASSERT_TRUE(fourth.send(get("/echo")));
  EXPECT_EQ(fourth.read_answer().second, "/echo:");
}

TEST_F(Server, BoundsTheBodiesOfAllRequests) {
  HttpConfig config;
  config.limits.bodies_bytes_max = 1000;
  start(config);
  Client first(port_);
  ASSERT_TRUE(first.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nx"));
  Client probe(port_);  // the first one's head is surely read when this is answered
  ASSERT_TRUE(probe.send(get("/echo")));
  EXPECT_EQ(probe.read_answer().second, "/echo:");
  Client second(port_);
  ASSERT_TRUE(second.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 200\r\n\r\n"));
  EXPECT_TRUE(second.read_answer().first.starts_with("HTTP/1.1 503 "));
  ASSERT_TRUE(first.send(std::string(899, 'x')));
  EXPECT_EQ(first.read_answer().second.size(), 906u);
  ASSERT_TRUE(first.send(post("/echo", std::string(900, 'x'))));  // the share was given back
  EXPECT_EQ(first.read_answer().second.size(), 906u);
}

TEST_F(Server, DrainsWhatRuns) {
  start();
  Client idle(port_), running(port_);
  ASSERT_TRUE(idle.send(get("/echo")));
  EXPECT_EQ(idle.read_answer().second, "/echo:");
  ASSERT_TRUE(running.send(get("/stream")));
  running.read_until("data: 2\n\n");
  bool drained = false;
  on_loop([&] { server_->drain([&] { drained = true; }); });
  EXPECT_TRUE(idle.closed_by_server());
  EXPECT_FALSE(Client(port_).connected());
  EXPECT_FALSE(drained);
  on_loop([&] { held_->end(); });
  EXPECT_TRUE(running.read_all().ends_with("0\r\n\r\n"));
  EXPECT_TRUE(running.closed_by_server());
  running.close();
  wait_until([&] { return drained; });
}

TEST_F(Server, DrainsAtOnceWhenNothingRuns) {
  start();
  bool drained = false;
  on_loop([&] { server_->drain([&] { drained = true; }); });
  wait_until([&] { return drained; });
}

TEST_F(Server, SaysWhyItCannotListen) {
  start();
  HttpConfig config;
  config.port = port_;
  Loop loop;
  HttpServer second(loop, config, [](HttpRequest, std::shared_ptr<ResponseWriter>) {});
  const Status status = second.listen();
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.message().find("127.0.0.1:" + std::to_string(port_)), std::string::npos);
  HttpServer nowhere(loop, {.host = "no such host.invalid", .limits = {}, .access = {}}, nullptr);
  EXPECT_FALSE(nowhere.listen().ok());
}

TEST_F(Server, OutlivesManyClientsThatVanish) {
  start();
  for (int round = 0; round < 20; ++round) {
    std::vector<std::unique_ptr<Client>> clients;
    for (int i = 0; i < 50; ++i) {
      clients.push_back(std::make_unique<Client>(port_));
      ASSERT_TRUE(clients.back()->send(get(i % 2 == 0 ? "/stream" : "/hold")));
    }
    wait_until([&] { return holding_ == 50 * (round + 1); });
  }
  wait_until([&] { return gone_ == 1000; });
  on_loop([&] { held_.reset(); });
  wait_until([&] { return server_->counters().connections == 0; });
  EXPECT_EQ(counters().requests_running, 0);
}

// ---- the loop

TEST(Loop, RunsTimersUnlessCancelled) {
  Loop loop;
  std::vector<int> order;
  const Loop::TimerId cancelled = loop.call_after(1, [&] { order.push_back(0); });
  loop.cancel(cancelled);
  loop.call_after(20, [&] {
    order.push_back(2);
    loop.stop();
  });
  loop.call_after(2, [&] { order.push_back(1); });
  loop.run();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(Loop, WatchesADescriptorUntilToldNotTo) {
  Loop loop;
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  int seen = 0;
  loop.watch_readable(ends[0], [&] {
    char byte;
    ASSERT_EQ(::read(ends[0], &byte, 1), 1);
    if (++seen < 3) {
      ASSERT_EQ(::write(ends[1], "x", 1), 1);
      return;
    }
    loop.unwatch(ends[0]);
    ASSERT_EQ(::write(ends[1], "x", 1), 1);
    loop.call_after(20, [&] { loop.stop(); });
  });
  ASSERT_EQ(::write(ends[1], "x", 1), 1);
  loop.run();
  EXPECT_EQ(seen, 3);
  // Still open, and ours.
  EXPECT_EQ(::close(ends[0]), 0);
  EXPECT_EQ(::close(ends[1]), 0);
}

TEST(Loop, DeliversSignals) {
  Loop loop;
  std::vector<int> seen;
  loop.on_signal({SIGUSR1, SIGUSR2}, [&](int number) {
    seen.push_back(number);
    if (seen.size() == 2) return loop.stop();
    raise(SIGUSR2);
  });
  loop.post([] { raise(SIGUSR1); });
  loop.run();
  EXPECT_EQ(seen, (std::vector<int>{SIGUSR1, SIGUSR2}));
}

TEST(Loop, TakesCallsFromOtherThreads) {
  Loop loop;
  std::thread other([&] { loop.post([&] { loop.stop(); }); });
  loop.run();
  other.join();
}

}  // namespace
}  // namespace skein
