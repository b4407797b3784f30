#include "comm/messages.h"

#include <zmq.h>

#include <cerrno>

namespace skein {
namespace {

constexpr int kQueueFrames = 100'000;   // to replicas
constexpr int kAnswerFrames = 1'000;    // from one replica; more wait in its leader, which joins them
constexpr int kHeartbeatMs = 500;
constexpr int kHeartbeatTimeoutMs = 2000;

Status zmq_error(std::string what) {
  return unavailable(std::move(what) + ": " + zmq_strerror(zmq_errno()));
}

void set(void* socket, int option, int value) {
  CHECK_EQ(zmq_setsockopt(socket, option, &value, sizeof value), 0);
}

}  // namespace

struct MessageSocket::State {
  void* context = nullptr;
  void* socket = nullptr;
  bool router = false;

  ~State() {
    if (socket != nullptr) zmq_close(socket);
    if (context != nullptr) zmq_ctx_term(context);
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
    set(state->socket, ZMQ_HEARTBEAT_IVL, kHeartbeatMs);
    set(state->socket, ZMQ_HEARTBEAT_TIMEOUT, kHeartbeatTimeoutMs);
    set(state->socket, ZMQ_HEARTBEAT_TTL, kHeartbeatTimeoutMs);
    const int64_t bytes_max = kFrameBytesMax;
    CHECK_EQ(zmq_setsockopt(state->socket, ZMQ_MAXMSGSIZE, &bytes_max, sizeof bytes_max), 0);
    return state;
  }
};

MessageSocket::MessageSocket(std::unique_ptr<State> state) : state_(std::move(state)) {}
MessageSocket::~MessageSocket() = default;

Result<std::unique_ptr<MessageSocket>> MessageSocket::bind(const std::string& endpoint) {
  auto state = State::make(ZMQ_ROUTER);
  set(state->socket, ZMQ_ROUTER_MANDATORY, 1);
  if (zmq_bind(state->socket, endpoint.c_str()) != 0) {
    return zmq_error("cannot listen for replicas at " + endpoint);
  }
  return std::unique_ptr<MessageSocket>(new MessageSocket(std::move(state)));
}

Result<std::unique_ptr<MessageSocket>> MessageSocket::connect(const std::string& endpoint,
                                                              const std::string& identity) {
  auto state = State::make(ZMQ_DEALER);
  CHECK_EQ(zmq_setsockopt(state->socket, ZMQ_ROUTING_ID, identity.data(), identity.size()), 0);
  if (zmq_connect(state->socket, endpoint.c_str()) != 0) {
    return zmq_error("cannot connect to the coordinator at " + endpoint);
  }
  return std::unique_ptr<MessageSocket>(new MessageSocket(std::move(state)));
}

Status MessageSocket::send(std::string_view peer, const Frame& frame) {
  const std::string bytes = encode_frame(frame);
  void* socket = state_->socket;
  if (state_->router && zmq_send(socket, peer.data(), peer.size(), ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0) {
    if (zmq_errno() == EAGAIN) {
      return resource_exhausted("the message queue to " + std::string(peer) + " is full");
    }
    return zmq_error("no connection to " + std::string(peer));
  }
  if (zmq_send(socket, bytes.data(), bytes.size(), ZMQ_DONTWAIT) < 0) {
    if (zmq_errno() == EAGAIN) return resource_exhausted("the message queue is full");
    return zmq_error("cannot send to " + std::string(peer));
  }
  return {};
}

std::optional<MessageSocket::Received> MessageSocket::receive() {
  std::string peer;
  std::string body;
  int parts = 0;
  int more = 1;
  while (more != 0) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, state_->socket, ZMQ_DONTWAIT) < 0) {
      zmq_msg_close(&part);
      return std::nullopt;  // multi-part messages arrive whole, so this is the first part
    }
    const std::string_view bytes(static_cast<const char*>(zmq_msg_data(&part)), zmq_msg_size(&part));
    (state_->router && parts == 0 ? peer : body) = bytes;
    ++parts;
    more = zmq_msg_more(&part);
    zmq_msg_close(&part);
  }
  if (parts != (state_->router ? 2 : 1)) {
    return Received{peer, corrupt("a message has " + std::to_string(parts) + " parts")};
  }
  return Received{std::move(peer), decode_frame(body)};
}

int MessageSocket::fd() const {
  int fd = -1;
  size_t size = sizeof fd;
  CHECK_EQ(zmq_getsockopt(state_->socket, ZMQ_FD, &fd, &size), 0);
  return fd;
}

}  // namespace skein
