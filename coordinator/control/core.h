#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/lease_watch.h"
#include "base/replica_spec.h"
#include "base/request.h"
#include "base/status.h"
#include "comm/wire.h"
#include "coordinator/control/nodes.h"

// The coordinator's state: requests, replicas, launches. A deterministic state machine: events and the time come in,
// actions come out; sockets, processes and clocks belong to the caller (coordinator/control/cluster.h).

namespace skein {

struct CoreConfig {
  std::vector<ReplicaSpec> replicas;  // launch, coordinator and cache_key are filled in here
  Cluster described = {};             // that they were placed on; empty: it was not described
  int waiting_max = 1024;             // requests in the system, running ones included; more are refused
  int64_t lease_ms = 2000;            // a replica that is silent so long is lost
  int64_t launch_timeout_ms = 600'000;
  int64_t backoff_min_ms = 500;       // before a lost replica is launched again; doubles
  int64_t backoff_max_ms = 30'000;
  int64_t healthy_ms = 60'000;        // served so long: back-off starts over
  // Agents are daemons of their own: a silent one is lost, and what runs when this coordinator starts is adopted.
  bool own_agents = false;
  int64_t adopt_ms = 10'000;  // that the leader of a running replica has to register
  uint64_t instance = 0;      // of this coordinator; it counts on from there
  uint64_t first_launch = 1;   // above every earlier coordinator's
  uint64_t first_request = 1;  // the same
};

// What the caller is to do, in order.
struct SendToReplica {
  uint64_t launch = 0;
  Frame frame;
};
struct SendToAgent {
  std::string peer;  // coordinator/control/nodes.h
  Frame frame;
};
struct DeliverFrame {
  TokenFrame frame;
};
struct ReplicaReady {
  uint32_t replica = 0;
  RegisterReplica registration;
};
struct ReplicaLost {
  uint32_t replica = 0;
  std::string reason;
  int64_t retry_in_ms = 0;
  int requests = 0;  // that ended with it
};
struct StartFailed {  // a replica ended before it was ready for the first time: the server does not come up
  uint32_t replica = 0;
  std::string reason;
};
using Action = std::variant<SendToReplica, SendToAgent, DeliverFrame, ReplicaReady, ReplicaLost, StartFailed>;
using Actions = std::vector<Action>;

class Core {
 public:
  enum class ReplicaState : uint8_t { kDown, kLaunching, kReady, kEnding };
  struct Replica {
    ReplicaSpec spec;
    ReplicaState state = ReplicaState::kDown;
    bool was_ready = false;
    uint64_t launch = 0;       // current or last
    int64_t launch_at_ms = 0;  // kDown: when to launch
    int64_t since_ms = 0;      // of the state
    LeaseWatch lease;          // kReady
    int64_t backoff_ms = 0;
    int64_t launches = 0;
    int64_t charge = 0;        // tokens that its requests may still take
    int requests = 0;
    bool cut_off = false;      // kReady: a frame could not be sent there, and none has come since
    RegisterReplica registration;
    ReplicaStatus status;
    std::string end_reason;    // kEnding
    int64_t launched_ms = 0;   // of the launch
    int64_t asked_ms = 0;      // kEnding: when its agents were last asked to end it
    std::optional<int64_t> share_ended_ms;  // of a node that is not the first
    std::string share_reason;
    bool adopted = false;      // the launch was another coordinator's
  };

  explicit Core(CoreConfig config);

  // Events. Each appends to *actions.
  void agent_lost(int64_t now_ms, const std::string& reason, Actions* actions);  // of this machine
  void replica_frame(uint64_t launch, Frame frame, int64_t now_ms, Actions* actions);
  void agent_frame(const std::string& peer, Frame frame, int64_t now_ms, Actions* actions);
  // Requests to that replica, or tokens from it, may be lost.
  void replica_reconnected(uint64_t launch, Actions* actions);
  // A frame could not be sent to that replica.
  void send_failed(uint64_t launch, const std::string& reason, int64_t now_ms, Actions* actions);
  // Call at least every 100 ms.
  void tick(int64_t now_ms, Actions* actions);

  // Chooses the replica with the least charge, of several the next in turn, and charges it. kResourceExhausted: too
  // many requests; kUnavailable: no replica, or draining.
  Result<uint64_t> submit(GenerationRequest request, Actions* actions);
  void cancel(uint64_t id, Actions* actions);
  // Nothing new is admitted or launched from now on.
  void drain();
  // Asks every replica to leave; end_all(): those that did not are ended.
  void stop(Actions* actions);
  void end_all(int64_t now_ms, Actions* actions);

  const std::vector<Replica>& replicas() const { return replicas_; }
  size_t requests() const { return requests_.size(); }
  bool draining() const { return draining_; }
  int ready() const;
  bool all_were_ready() const;
  bool all_down() const;
  uint64_t instance() const { return instance_; }  // of Introduce
  const NodeTable& nodes() const { return nodes_; }

 private:
  struct Request {
    uint32_t replica = 0;
    uint32_t epoch = 0;
    int64_t charge = 0;
    int choices_left = 0;
    std::vector<int32_t> next_index;  // by choice
  };

  Replica* find_launch(uint64_t launch);
  void take(TokenFrame frame, Replica& replica, Actions* actions);
  void agent_registered(const std::string& peer, RegisterAgent registration, int64_t now_ms, Actions* actions);
  void adopt(const AgentJob& job, int64_t now_ms);
  void start_daemon(StartDaemon start, const NodeTable::Node& from, Actions* actions);
  void launch_ended(const std::string& node, const LaunchEnded& ended, int64_t now_ms, Actions* actions);
  void check_nodes(int64_t now_ms, Actions* actions);
  void check_shares(Replica& replica, int64_t now_ms, Actions* actions);
  void wait_for_nodes(const Replica& replica, int64_t now_ms, Actions* actions);
  bool can_launch(const Replica& replica) const;
  void launch(Replica& replica, int64_t now_ms, Actions* actions);
  void send_to_nodes(const Replica& replica, const Frame& frame, Actions* actions);
  void leave_service(Replica& replica, ReplicaState state, int64_t now_ms);
  void end_launch(Replica& replica, const std::string& reason, int64_t now_ms, Actions* actions);
  void lost(Replica& replica, const std::string& reason, int64_t now_ms, Actions* actions);
  int fail_requests(Replica& replica, const std::string& reason, Actions* actions);
  void forget(std::unordered_map<uint64_t, Request>::iterator request);

  const CoreConfig config_;
  std::vector<Replica> replicas_;
  std::unordered_map<uint64_t, Request> requests_;
  size_t turn_ = 0;  // the replica that goes first among equals
  uint64_t next_request_;
  uint64_t next_launch_;
  uint64_t instance_;
  NodeTable nodes_;
  int64_t started_ms_ = -1;  // first tick
  bool draining_ = false;
};

}  // namespace skein
