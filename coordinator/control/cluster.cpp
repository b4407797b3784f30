#include "coordinator/control/cluster.h"

#include <signal.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <unordered_map>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/control/process.h"
#include "coordinator/http/loop.h"

namespace skein {
namespace {

constexpr int64_t kTickMs = 50;
constexpr int64_t kSignMs = 250;
constexpr int64_t kStopMs = 4000;  // then whatever is left is killed
constexpr int kFramesPerTurn = 64;

constexpr std::string_view kOwnAgentPeer = "agent-local";
constexpr int64_t kGiveUpMs = 3000;  // after kStopMs: agents that do not answer hold leases
constexpr std::string_view kReplicaPrefix = "replica-";

std::string random_hex_key() {
  unsigned char bytes[16];
  CHECK_EQ(getrandom(bytes, sizeof bytes, 0), static_cast<ssize_t>(sizeof bytes));
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

struct ReplicaEngine::State {
  Loop& loop;
  const ClusterConfig config;
  ClusterEvents events;
  std::string folder;
  std::unique_ptr<MessageSocket> socket;
  std::unique_ptr<Core> core;
  std::unordered_map<uint64_t, std::pair<OnFrame, int>> streams;  // callback, choices left
  std::function<std::string()> render_metrics;
  bool pump_posted = false;
  pid_t agent = -1;
  int64_t next_sign_ms = 0;
  int64_t stop_at_ms = 0;   // 0: not stopping
  bool pressed = false;     // stopping: everyone was told to end
  int64_t drain_until_ms = 0;
  std::function<void()> drained, stopped;
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);

  State(Loop& loop, ClusterConfig config, ClusterEvents events)
      : loop(loop), config(std::move(config)), events(std::move(events)) {}

  ~State() {
    *alive = false;
    if (socket != nullptr) loop.unwatch(socket->fd());
    if (agent > 0) {
      kill(-agent, SIGKILL);
      waitpid(agent, nullptr, 0);
    }
    std::error_code ignored;  // a folder that stays behind is empty and private
    if (!folder.empty()) std::filesystem::remove_all(folder, ignored);
  }

  Status open() {
    CoreConfig core_config = config.core;
    const std::string cache_key = random_hex_key();
    std::string endpoint;
    if (config.listen) {
      endpoint = config.listen->endpoint;
      ASSIGN_OR_RETURN(socket, MessageSocket::bind(endpoint, config.listen->keys));
      core_config.own_agents = true;
      CHECK_EQ(getrandom(&core_config.instance, sizeof core_config.instance, 0),
               static_cast<ssize_t>(sizeof core_config.instance));
      core_config.first_launch = static_cast<uint64_t>(unix_ms());
      core_config.first_request = core_config.first_launch << 20;  // more than any coordinator serves in a millisecond
    } else {
      ASSIGN_OR_RETURN(folder, make_private_folder());
      endpoint = "ipc://" + folder + "/coordinator";
      ASSIGN_OR_RETURN(socket, MessageSocket::bind(endpoint));
    }
    for (ReplicaSpec& spec : core_config.replicas) {
      spec.coordinator = endpoint;
      spec.lease_seconds = config.listen ? config.listen->orphan_seconds : config.lease_seconds;
      spec.cache_key = cache_key;
    }
    core = std::make_unique<Core>(std::move(core_config));
    if (!config.listen) RETURN_IF_ERROR(start_agent(endpoint));
    loop.watch_readable(socket->fd(), [this] { pump(); });
    schedule_tick();
    return {};
  }

  Status start_agent(const std::string& endpoint) {
    char lease[32] = {};
    std::to_chars(lease, lease + sizeof lease - 1, config.lease_seconds);
    ASSIGN_OR_RETURN(const ChildProcess child,
                     start_process({.arguments = {program_folder() + "/skein", "agent", "--coordinator", endpoint,
                                                  "--run-folder", folder, "--lease-seconds", lease},
                                    .environment = {},
                                    .capture_error = false,
                                    .death_signal = SIGTERM}));  // it has jobs to end first
    agent = child.pid;
    return {};
  }

  void schedule_tick() {
    loop.call_after(kTickMs, [this, alive = alive] {
      if (!*alive) return;
      tick();
      if (*alive) schedule_tick();
    });
  }

  void tick() {
    const int64_t now = now_ms();
    Actions actions;
    if (now >= next_sign_ms) {
      sign();
      next_sign_ms = now + kSignMs;
    }
    core->tick(now, &actions);
    watch_agent(now, &actions);
    perform(std::move(actions));
    pump();
    if (drained && (core->requests() == 0 || now >= drain_until_ms)) std::exchange(drained, nullptr)();
    if (stop_at_ms != 0) press_on(now);
  }

  // While stopping: whoever has not left in time is ended.
  void press_on(int64_t now) {
    if (!config.listen) {
      if (agent > 0 && now >= stop_at_ms) kill(-agent, SIGKILL);
      return;
    }
    if (now >= stop_at_ms && !std::exchange(pressed, true)) {
      Actions actions;
      core->end_all(now, &actions);
      perform(std::move(actions));
    }
    if (stopped && (core->all_down() || now >= stop_at_ms + kGiveUpMs)) loop.post(std::exchange(stopped, nullptr));
  }

  void sign() {
    // A peer that is not connected hears nothing, and its own lease tells it so.
    for (const auto& [name, node] : core->nodes().all()) (void)socket->send(node.peer, Lease{});
    for (const Core::Replica& replica : core->replicas()) {
      if (replica.state == Core::ReplicaState::kReady) (void)socket->send(leader_of(replica), Lease{});
    }
  }

  void watch_agent(int64_t now, Actions* actions) {
    int status = 0;
    if (agent > 0 && waitpid(agent, &status, WNOHANG) == agent) {
      agent = -1;
      core->agent_lost(now, "the agent ended", actions);
      if (stop_at_ms != 0 && stopped) {
        loop.post(std::exchange(stopped, nullptr));
      } else if (stop_at_ms == 0) {
        loop.post([reason = std::string("the agent process ended unexpectedly"), this, alive = alive] {
          if (*alive) events.failed(reason);
        });
      }
    }
  }

  // Some of what has arrived; the rest after HTTP had its turn, or replicas that are faster than this thread would keep
  // every client waiting.
  void pump() {
    const int64_t now = now_ms();
    for (int i = 0; i < kFramesPerTurn; ++i) {
      std::optional<MessageSocket::Received> received = socket->receive();
      if (!received) return;
      take(std::move(*received), now);
    }
    if (std::exchange(pump_posted, true)) return;
    // The socket's edge is spent: nothing else would call again.
    loop.post([this, alive = alive] {
      if (!*alive) return;
      pump_posted = false;
      pump();
    });
  }

  void take(MessageSocket::Received received, int64_t now) {
    if (!received.frame.ok()) {
      log_warning("frame dropped", {{"peer", received.peer},
                                    {"user", received.user},
                                    {"cause", received.frame.status().message()}});
      return;
    }
    if (received.reconnected) {
      log_warning("a peer came again over another connection; frames may be lost", {{"peer", received.peer}});
    }
    Actions actions;
    if (received.name.starts_with(kAgentPrefix)) {
      if (config.listen && !is_whom_its_key_says(received)) return;
      // What it has to know is told to who registers.
      if (received.reconnected) actions.push_back(SendToAgent{received.peer, Introduce{}});
      const bool registers = std::holds_alternative<RegisterAgent>(*received.frame);
      core->agent_frame(received.peer, std::move(*received.frame), now, &actions);
      if (registers) log_contradictions(received.peer);
    } else if (received.name.starts_with(kReplicaPrefix)) {
      uint64_t launch = 0;
      const std::string_view digits = std::string_view(received.name).substr(kReplicaPrefix.size());
      std::from_chars(digits.data(), digits.data() + digits.size(), launch);
      const Core::Replica* replica = find_launch(launch);
      if (replica == nullptr) {  // an older launch, or one that this coordinator may be about to adopt
        if (config.listen) (void)socket->send(received.peer, Introduce{core->instance()});
        return;
      }
      if (received.peer != leader_of(*replica)) return;
      if (received.reconnected) core->replica_reconnected(launch, &actions);
      core->replica_frame(launch, std::move(*received.frame), now, &actions);
    }
    perform(std::move(actions));
  }

  const Core::Replica* find_launch(uint64_t launch) const {
    const auto found = std::ranges::find_if(core->replicas(), [&](const Core::Replica& replica) {
      return replica.launch == launch && replica.state != Core::ReplicaState::kDown;
    });
    return found == core->replicas().end() ? nullptr : &*found;
  }

  // A leader as a peer: it has the key of its replica's first node.
  std::string leader_of(const Core::Replica& replica) const {
    return peer_id(config.listen ? replica.spec.places[0].node : "",
                   std::string(kReplicaPrefix) + std::to_string(replica.launch));
  }

  bool is_whom_its_key_says(const MessageSocket::Received& received) {
    const auto* registration = std::get_if<RegisterAgent>(&*received.frame);
    if (registration == nullptr) return true;
    const std::optional<std::string> refusal = belies_key(*registration, received.user);
    if (refusal) (void)socket->send(received.peer, RefuseAgent{*refusal});
    return !refusal;
  }

  void log_contradictions(const std::string& peer) const {
    const NodeTable::Node* node = core->nodes().of_peer(peer);
    if (node == nullptr) return;
    for (const std::string& what : node->contradictions) {
      log_warning("node is not as described", {{"node", node->registration.node}, {"difference", what}});
    }
  }

  void perform_later(Actions actions) {
    loop.post([this, alive = alive, actions = std::move(actions)]() mutable {
      if (!*alive) return;
      perform(std::move(actions));
      pump();
    });
  }

  void perform(Actions actions) {
    for (size_t i = 0; i < actions.size(); ++i) {
      // Carrying one out may fail and add more.
      Action action = std::move(actions[i]);
      std::visit([&](auto& body) { perform(body, &actions); }, action);
    }
  }

  void perform(SendToReplica& send, Actions* actions) {
    const Core::Replica* replica = find_launch(send.launch);
    if (replica == nullptr) return;  // that launch has ended meanwhile
    const Status status = socket->send(leader_of(*replica), send.frame);
    if (!status.ok()) core->send_failed(send.launch, status.message(), now_ms(), actions);
  }

  void perform(SendToAgent& send, Actions*) {
    const Status status = socket->send(send.peer, send.frame);
    if (!status.ok()) log_error("an agent cannot be reached", {{"agent", send.peer}, {"cause", status.message()}});
  }

  void perform(DeliverFrame& deliver, Actions*) {
    const auto it = streams.find(deliver.frame.request);
    if (it == streams.end()) return;
    OnFrame on_frame = it->second.first;  // the call may cancel, and so erase, this stream
    if (deliver.frame.finish != FinishReason::kNone && --it->second.second == 0) streams.erase(it);
    on_frame(deliver.frame);
  }

  void perform(ReplicaReady& ready, Actions*) { events.ready(ready); }
  void perform(ReplicaLost& lost, Actions*) {
    if (stop_at_ms == 0) events.lost(lost);
  }
  void perform(StartFailed& failed, Actions*) {
    if (stop_at_ms == 0) events.failed(failed.reason);
  }
};

ReplicaEngine::ReplicaEngine(std::unique_ptr<State> state) : state_(std::move(state)) {}
ReplicaEngine::~ReplicaEngine() = default;

Result<std::unique_ptr<ReplicaEngine>> ReplicaEngine::start(Loop& loop, ClusterConfig config, ClusterEvents events) {
  auto state = std::make_unique<State>(loop, std::move(config), std::move(events));
  RETURN_IF_ERROR(state->open());
  return std::unique_ptr<ReplicaEngine>(new ReplicaEngine(std::move(state)));
}

Result<uint64_t> ReplicaEngine::submit(GenerationRequest request, OnFrame on_frame) {
  const int choices = request.choices;
  Actions actions;
  ASSIGN_OR_RETURN(const uint64_t id, state_->core->submit(std::move(request), &actions));
  state_->streams.emplace(id, std::make_pair(std::move(on_frame), choices));
  // Frames may follow only after this returns, even if the replica turns out to be gone.
  state_->perform_later(std::move(actions));
  return id;
}

void ReplicaEngine::cancel(uint64_t id) {
  Actions actions;
  state_->core->cancel(id, &actions);
  state_->streams.erase(id);
  state_->perform_later(std::move(actions));  // behind the request itself, which may not have left yet
}

EngineHealth ReplicaEngine::health() const {
  const Core& core = *state_->core;
  return {.ready = core.ready() > 0 && !core.draining(),
          .draining = core.draining(),
          .replicas_ready = core.ready(),
          .replicas = static_cast<int>(core.replicas().size())};
}

std::string ReplicaEngine::metrics() const { return state_->render_metrics ? state_->render_metrics() : std::string(); }

std::string ReplicaEngine::nodes() const { return state_->core->nodes().to_json().dump(); }

void ReplicaEngine::set_metrics(std::function<std::string()> render) { state_->render_metrics = std::move(render); }

const Core& ReplicaEngine::core() const { return *state_->core; }

void ReplicaEngine::drain(double seconds, std::function<void()> done) {
  state_->core->drain();
  state_->drain_until_ms = now_ms() + static_cast<int64_t>(seconds * 1000);
  state_->drained = std::move(done);
}

void ReplicaEngine::stop(std::function<void()> done) {
  if (state_->stop_at_ms != 0) return;
  state_->stop_at_ms = now_ms() + kStopMs;
  state_->stopped = std::move(done);
  Actions actions;
  state_->core->stop(&actions);
  state_->perform(std::move(actions));
  if (state_->config.listen) return;  // tick() sees when they have left
  if (state_->agent <= 0) {
    state_->loop.post(std::exchange(state_->stopped, nullptr));
    return;
  }
  (void)state_->socket->send(kOwnAgentPeer, Stop{});  // an agent that is not there has ended, which tick() sees
}

}  // namespace skein
