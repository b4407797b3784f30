#include "comm/messages.h"

#include <zmq.h>

#include <cerrno>
#include <thread>

#include "base/log.h"
#include "comm/peer_table.h"

namespace skein {
namespace {

constexpr int kQueueFrames = 100'000;   // to replicas
constexpr int kAnswerFrames = 1'000;    // from one replica; more wait in its leader, which joins them
constexpr int kUnackedMs = 10'000;      // then a TCP connection has ended
constexpr int kIdleSeconds = 60;        // then the other side's kernel is asked whether it still knows of it
constexpr int kConnectTimeoutMs = 2000;
constexpr int kReconnectMsMax = 1000;
constexpr int kHandshakeMs = 5000;  // strangers that say nothing are dropped then
constexpr char kAuthenticator[] = "inproc://zeromq.zap.01";  // ZAP, RFC 27: ZeroMQ asks there
constexpr char kMonitor[] = "inproc://monitor";

Status zmq_error(std::string what) {
  return unavailable(std::move(what) + ": " + zmq_strerror(zmq_errno()));
}

void set(void* socket, int option, int value) {
  CHECK_EQ(zmq_setsockopt(socket, option, &value, sizeof value), 0);
}

}  // namespace

namespace {

// One message, part by part. False: nothing there (yet), or the context ends.
bool receive_parts(void* socket, int flags, std::vector<std::string>* parts, std::string* user = nullptr) {
  parts->clear();
  int more = 1;
  while (more != 0) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, socket, flags) < 0) {
      zmq_msg_close(&part);
      return false;  // multi-part messages arrive whole, so this is the first part
    }
    parts->emplace_back(static_cast<const char*>(zmq_msg_data(&part)), zmq_msg_size(&part));
    if (user != nullptr) {
      const char* name = zmq_msg_gets(&part, "User-Id");
      *user = name == nullptr ? "" : name;
    }
    more = zmq_msg_more(&part);
    zmq_msg_close(&part);
  }
  return true;
}

// Answers ZeroMQ's question whether a key may connect, by the allow-list. Its thread ends with the context.
class Authenticator {
 public:
  Authenticator(void* context, AllowList allowed)
      : allowed_(std::move(allowed)), socket_(zmq_socket(context, ZMQ_REP)) {
    CHECK(socket_ != nullptr);
    CHECK_EQ(zmq_bind(socket_, kAuthenticator), 0);
    thread_ = std::thread([this] { run(); });
  }
  ~Authenticator() { thread_.join(); }

 private:
  void run() {
    std::vector<std::string> request;  // version, id, domain, address, identity, mechanism, credentials
    while (receive_parts(socket_, 0, &request)) {
      const std::string* user = nullptr;
      if (request.size() == 7 && request[5] == "CURVE" && request[6].size() == 32) user = find(request[6]);
      if (user == nullptr) {
        log_warning("connection refused: its key is not in the allow-list",
                    {{"address", request.size() > 3 ? request[3] : std::string()}});
      }
      answer({"1.0", request.size() > 1 ? request[1] : std::string(), user == nullptr ? "400" : "200",
              user == nullptr ? "key not in the allow-list" : "OK", user == nullptr ? std::string() : *user, ""});
    }
    zmq_close(socket_);
  }

  const std::string* find(const std::string& key) const {
    char text[41];
    zmq_z85_encode(text, reinterpret_cast<const uint8_t*>(key.data()), key.size());
    const auto found = allowed_.find(text);
    return found == allowed_.end() ? nullptr : &found->second;
  }

  void answer(const std::vector<std::string>& parts) {
    for (size_t i = 0; i < parts.size(); ++i) {
      zmq_send(socket_, parts[i].data(), parts[i].size(), i + 1 < parts.size() ? ZMQ_SNDMORE : 0);
    }
  }

  const AllowList allowed_;
  void* socket_;
  std::thread thread_;
};

}  // namespace

KeyPair make_key_pair() {
  char public_key[41];
  char secret_key[41];
  CHECK_EQ(zmq_curve_keypair(public_key, secret_key), 0);  // fails in a libzmq without CURVE alone
  return {.public_key = public_key, .secret_key = secret_key};
}

// A name in an allow-list has no blanks.
std::string peer_id(const std::string& user, const std::string& name) { return user.empty() ? name : user + " " + name; }

struct MessageSocket::State {
  void* context = nullptr;
  void* socket = nullptr;
  void* monitor = nullptr;
  bool router = false;
  PeerTable peers;      // of a ROUTER
  std::string name;     // of a DEALER
  uint64_t frames = 0;  // that a DEALER sent
  std::unique_ptr<Authenticator> authenticator;

  ~State() {
    if (monitor != nullptr) zmq_close(monitor);
    if (socket != nullptr) zmq_close(socket);
    if (context == nullptr) return;
    zmq_ctx_shutdown(context);
    authenticator.reset();
    zmq_ctx_term(context);
  }

  static std::unique_ptr<State> make(int type) {
    auto state = std::make_unique<State>();
    state->context = zmq_ctx_new();
    state->socket = zmq_socket(state->context, type);
    CHECK(state->socket != nullptr);
    state->router = type == ZMQ_ROUTER;
    set(state->socket, ZMQ_LINGER, 0);
    set(state->socket, ZMQ_SNDHWM, state->router ? kQueueFrames : kAnswerFrames);
    set(state->socket, ZMQ_RCVHWM, state->router ? kAnswerFrames : kQueueFrames);
    // No heartbeats: libzmq 4.3.4 aborts where one is due on a dead connection with more unread than the queue takes.
    set(state->socket, ZMQ_TCP_MAXRT, kUnackedMs);
    set(state->socket, ZMQ_TCP_KEEPALIVE, 1);
    set(state->socket, ZMQ_TCP_KEEPALIVE_IDLE, kIdleSeconds);
    set(state->socket, ZMQ_CONNECT_TIMEOUT, kConnectTimeoutMs);
    set(state->socket, ZMQ_RECONNECT_IVL_MAX, kReconnectMsMax);
    set(state->socket, ZMQ_HANDSHAKE_IVL, kHandshakeMs);
    const int64_t bytes_max = kFrameBytesMax;
    CHECK_EQ(zmq_setsockopt(state->socket, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max), 0);
    return state;
  }

  void find_sender(const std::string& connection, Envelope envelope, Received* received);
  void refuse(const std::string& connection, uint32_t version, const Status& why);

  void set_key(int option, const std::string& key) {
    CHECK_EQ(zmq_setsockopt(socket, option, key.c_str(), key.size() + 1), 0);
  }

  void listen_with(const ListenKeys& keys) {
    authenticator = std::make_unique<Authenticator>(context, keys.allowed);
    set(socket, ZMQ_CURVE_SERVER, 1);
    set_key(ZMQ_CURVE_SECRETKEY, keys.own.secret_key);
  }

  void connect_with(const ConnectKeys& keys) {
    set_key(ZMQ_CURVE_SERVERKEY, keys.server_public_key);
    set_key(ZMQ_CURVE_PUBLICKEY, keys.own.public_key);
    set_key(ZMQ_CURVE_SECRETKEY, keys.own.secret_key);
    CHECK_EQ(zmq_socket_monitor(socket, kMonitor, ZMQ_EVENT_HANDSHAKE_FAILED_AUTH), 0);
    monitor = zmq_socket(context, ZMQ_PAIR);
    set(monitor, ZMQ_LINGER, 0);
    CHECK_EQ(zmq_connect(monitor, kMonitor), 0);
  }
};

// Whose frame it is that came over that connection.
void MessageSocket::State::find_sender(const std::string& connection, Envelope envelope, Received* received) {
  const Status& status = received->frame.status();
  if (status.code() == Code::kUnsupported) refuse(connection, envelope.version, status);
  if (!status.ok()) return;
  if (envelope.sender.empty()) {
    received->frame = corrupt("a frame does not say whose it is");
    return;
  }
  received->name = std::move(envelope.sender);
  received->peer = peer_id(received->user, received->name);
  received->reconnected =
      peers.heard({received->peer, envelope.number, received->user, connection}) == PeerTable::Heard::kReconnected;
}

// In words that a Skein of that version reads, too. One that has gone again needs none.
void MessageSocket::State::refuse(const std::string& connection, uint32_t version, const Status& why) {
  const std::string bytes = encode_frame(RefuseAgent{why.message()}, {.version = version});
  if (zmq_send(socket, connection.data(), connection.size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) return;
  zmq_send(socket, bytes.data(), bytes.size(), ZMQ_DONTWAIT);
}

MessageSocket::MessageSocket(std::unique_ptr<State> state) : state_(std::move(state)) {}
MessageSocket::~MessageSocket() = default;

Result<std::unique_ptr<MessageSocket>> MessageSocket::bind(const std::string& endpoint,
                                                           const std::optional<ListenKeys>& keys) {
  auto state = State::make(ZMQ_ROUTER);
  set(state->socket, ZMQ_ROUTER_MANDATORY, 1);
  if (keys) state->listen_with(*keys);
  if (zmq_bind(state->socket, endpoint.c_str()) != 0) {
    return zmq_error("cannot listen for replicas at " + endpoint);
  }
  return std::unique_ptr<MessageSocket>(new MessageSocket(std::move(state)));
}

Result<std::unique_ptr<MessageSocket>> MessageSocket::connect(const std::string& endpoint, const std::string& name,
                                                              const std::optional<ConnectKeys>& keys) {
  if (name.empty() || name.size() > kSenderBytesMax) {
    return invalid_argument("a name of " + std::to_string(name.size()) + " bytes; choose one of 1 to " +
                            std::to_string(kSenderBytesMax) + ": " + name);
  }
  auto state = State::make(ZMQ_DEALER);
  state->name = name;
  if (keys) state->connect_with(*keys);
  if (zmq_connect(state->socket, endpoint.c_str()) != 0) {
    return zmq_error("cannot connect to the coordinator at " + endpoint);
  }
  return std::unique_ptr<MessageSocket>(new MessageSocket(std::move(state)));
}

Status MessageSocket::send(std::string_view peer, const Frame& frame) {
  void* socket = state_->socket;
  std::string bytes;
  if (state_->router) {
    const std::string* connection = state_->peers.connection_of(peer);
    if (connection == nullptr) return unavailable(std::string(peer) + " is not connected");
    if (zmq_send(socket, connection->data(), connection->size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
      if (zmq_errno() == EAGAIN) {
        return resource_exhausted("the message queue to " + std::string(peer) + " is full");
      }
      return zmq_error("no connection to " + std::string(peer));
    }
    bytes = encode_frame(frame);
  } else {
    bytes = encode_frame(frame, {.sender = state_->name, .number = ++state_->frames});
  }
  if (zmq_send(socket, bytes.data(), bytes.size(), ZMQ_DONTWAIT) < 0) {
    if (zmq_errno() == EAGAIN) return resource_exhausted("the message queue is full");
    return zmq_error("cannot send to " + std::string(peer));
  }
  return {};
}

std::optional<MessageSocket::Received> MessageSocket::receive() {
  std::vector<std::string> parts;
  std::string user;
  if (!receive_parts(state_->socket, ZMQ_DONTWAIT, &parts, &user)) return std::nullopt;
  if (parts.size() != (state_->router ? 2 : 1)) {
    return Received{.user = user, .frame = corrupt("a message has " + std::to_string(parts.size()) + " parts")};
  }
  Envelope envelope;
  Received received{.user = std::move(user), .frame = decode_frame(parts.back(), &envelope)};
  if (state_->router) state_->find_sender(parts[0], std::move(envelope), &received);
  return received;
}

bool MessageSocket::key_refused() {
  std::vector<std::string> event;  // there is one kind
  bool refused = false;
  while (state_->monitor != nullptr && receive_parts(state_->monitor, ZMQ_DONTWAIT, &event)) refused = true;
  return refused;
}

int MessageSocket::fd() const {
  int fd = -1;
  size_t size = sizeof fd;
  CHECK_EQ(zmq_getsockopt(state_->socket, ZMQ_FD, &fd, &size), 0);
  return fd;
}

}  // namespace skein
