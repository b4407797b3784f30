// Launches and the agents that carry them out: the half of the Core that knows nodes.

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "coordinator/control/core.h"

namespace skein {
namespace {

constexpr int64_t kMissingMs = 2000;   // an agent that reports no such job so long after its launch has lost it
constexpr int64_t kAskAgainMs = 1000;  // to end a launch: frames may be lost with a connection

std::vector<NodeShare> shares_of(const ReplicaSpec& spec) {
  if (spec.places.empty()) return {{.node = kThisMachine, .ranks = spec.ranks()}};
  return node_shares(spec);
}

std::string first_node(const ReplicaSpec& spec) { return spec.places.empty() ? kThisMachine : spec.places[0].node; }

// Equal for specifications that a running replica satisfies alike: all but what each launch fills in.
std::string identity_of(ReplicaSpec spec) {
  spec.replica = 0;
  spec.launch = 0;
  spec.cache_key.clear();
  spec.network.clear();
  uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a
  for (const char c : to_json(spec).dump()) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  char text[17] = {};
  std::to_chars(text, text + 16, hash, 16);
  return text;
}

}  // namespace

void Core::agent_frame(const std::string& peer, Frame frame, int64_t now_ms, Actions* actions) {
  if (auto* registration = std::get_if<RegisterAgent>(&frame)) {
    return agent_registered(peer, std::move(*registration), now_ms, actions);
  }
  NodeTable::Node* node = nodes_.of_peer(peer);
  if (node == nullptr) {
    actions->push_back(SendToAgent{peer, Introduce{instance_}});
    return;
  }
  node->lease.heard(now_ms);
  if (const auto* status = std::get_if<AgentStatus>(&frame)) {
    node->take(*status);
    for (const uint64_t launch : status->launches) {
      // Left by a launch that has ended here, or by another coordinator's.
      if (find_launch(launch) == nullptr) actions->push_back(SendToAgent{peer, EndLaunch{launch}});
    }
  } else if (auto* start = std::get_if<StartDaemon>(&frame)) {
    start_daemon(std::move(*start), *node, actions);
  } else if (auto* started = std::get_if<DaemonStarted>(&frame)) {
    const Replica* replica = find_launch(started->launch);
    const NodeTable::Node* owner = replica == nullptr ? nullptr : nodes_.find(first_node(replica->spec));
    if (owner != nullptr) actions->push_back(SendToAgent{owner->peer, std::move(*started)});
  } else if (const auto* ended = std::get_if<LaunchEnded>(&frame)) {
    node->launches.erase(ended->launch);
    launch_ended(node->registration.node, *ended, now_ms, actions);
  }
}

void Core::agent_registered(const std::string& peer, RegisterAgent registration, int64_t now_ms, Actions* actions) {
  if (nodes_.may_succeed(registration, now_ms)) return;  // its signs of life have it asked again who it is
  const std::vector<AgentJob> jobs = registration.jobs;
  if (const std::optional<std::string> refusal = nodes_.admit(peer, std::move(registration), now_ms)) {
    actions->push_back(SendToAgent{peer, RefuseAgent{*refusal}});
    return;
  }
  for (const AgentJob& job : jobs) {
    adopt(job, now_ms);
    // It may not have been here when the replica became ready.
    const Replica* replica = find_launch(job.launch);
    const bool ready = replica != nullptr && replica->state == ReplicaState::kReady;
    if (ready && config_.own_agents) actions->push_back(SendToAgent{peer, LaunchReady{job.launch}});
  }
  tick(now_ms, actions);
}

// A job that another coordinator launched, which may have counted its replicas otherwise: not launched again but waited
// for.
void Core::adopt(const AgentJob& job, int64_t now_ms) {
  if (find_launch(job.launch) != nullptr) return;
  const auto runs_there = [&](const Replica& replica) {
    return replica.state == ReplicaState::kDown && replica.launches == 0 && job.identity == identity_of(replica.spec);
  };
  const auto at = std::ranges::find_if(replicas_, runs_there);
  if (at == replicas_.end()) return;
  Replica& replica = *at;
  replica.launch = job.launch;
  replica.spec.launch = job.launch;
  replica.state = ReplicaState::kLaunching;
  replica.since_ms = replica.launched_ms = now_ms;
  replica.adopted = true;
  ++replica.launches;
}

// The first node's agent asks for another's share. No other may: what is started is a command.
void Core::start_daemon(StartDaemon start, const NodeTable::Node& from, Actions* actions) {
  NodeTable::Node* node = nodes_.find(start.node);
  const Replica* replica = find_launch(start.job.launch);
  std::string why;
  if (node == nullptr) {
    why = "the agent of " + start.node + " is not connected";
  } else if (replica == nullptr || replica->state != ReplicaState::kLaunching) {
    why = "the launch has ended";
  } else if (from.registration.node != first_node(replica->spec)) {
    why = "only the agent of " + first_node(replica->spec) + " starts this launch";
  } else if (std::ranges::find(replica->spec.places, start.node, &RankPlace::node) == replica->spec.places.end()) {
    why = "the launch has no ranks on " + start.node;
  }
  if (!why.empty()) {
    actions->push_back(SendToAgent{from.peer, DaemonStarted{start.job.launch, start.node, why}});
    return;
  }
  node->launches.insert(start.job.launch);
  actions->push_back(SendToAgent{node->peer, std::move(start)});
}

void Core::launch_ended(const std::string& node, const LaunchEnded& ended, int64_t now_ms, Actions* actions) {
  Replica* replica = find_launch(ended.launch);
  if (replica == nullptr) return;
  if (node == first_node(replica->spec)) {
    std::string reason = replica->state == ReplicaState::kEnding ? replica->end_reason : ended.reason;
    if (reason.empty()) reason = "it ended with status " + std::to_string(ended.exit_status);
    lost(*replica, reason, now_ms, actions);
  } else if (!replica->share_ended_ms) {
    // The first node's mpirun sees it, too, and knows better why; unless the network between them is gone.
    replica->share_ended_ms = now_ms;
    replica->share_reason = "its ranks on " + node + " ended" +
                           (ended.reason.empty() ? " with status " + std::to_string(ended.exit_status) : ": " + ended.reason);
  }
}

void Core::agent_lost(int64_t now_ms, const std::string& reason, Actions* actions) {
  nodes_.forget_all();
  for (Replica& replica : replicas_) {
    if (replica.state != ReplicaState::kDown) lost(replica, reason, now_ms, actions);
  }
}

bool Core::can_launch(const Replica& replica) const {
  const auto runs = [&](uint64_t launch) {
    return std::ranges::any_of(replicas_, [&](const Replica& other) {
      return other.launch == launch && other.state != ReplicaState::kDown;
    });
  };
  return std::ranges::all_of(shares_of(replica.spec), [&](const NodeShare& share) {
    const NodeTable::Node* node = nodes_.find(share.node);
    // What is left of an earlier launch, or of another coordinator's, may still hold the devices.
    return node != nullptr && std::ranges::all_of(node->launches, runs);
  });
}

void Core::launch(Replica& replica, int64_t now_ms, Actions* actions) {
  replica.launch = next_launch_++;
  replica.spec.launch = replica.launch;
  replica.adopted = false;
  replica.share_ended_ms.reset();
  const std::string identity = identity_of(replica.spec);
  Launch launch{.launch = replica.launch,
                .ranks = static_cast<uint32_t>(replica.spec.ranks()),
                .spec = {},
                .replica = replica.spec.replica,
                .identity = identity,
                .nodes = {}};
  std::vector<std::string> networks;
  for (const NodeShare& share : node_shares(replica.spec)) {
    const RegisterAgent& agent = nodes_.find(share.node)->registration;
    launch.nodes.push_back(
        {.node = share.node, .address = agent.address, .ranks = static_cast<uint32_t>(share.ranks)});
    if (std::ranges::find(networks, agent.network) == networks.end()) networks.push_back(agent.network);
  }
  replica.spec.network.clear();
  for (const std::string& network : networks) {
    replica.spec.network += (replica.spec.network.empty() ? "" : ",") + network;
  }
  launch.spec = to_json(replica.spec).dump();
  replica.state = ReplicaState::kLaunching;
  replica.since_ms = replica.launched_ms = now_ms;
  ++replica.launches;
  NodeTable::Node* owner = nodes_.find(first_node(replica.spec));
  owner->launches.insert(replica.launch);
  actions->push_back(SendToAgent{owner->peer, std::move(launch)});
}

void Core::send_to_nodes(const Replica& replica, const Frame& frame, Actions* actions) {
  for (const NodeShare& share : shares_of(replica.spec)) {
    if (const NodeTable::Node* node = nodes_.find(share.node)) actions->push_back(SendToAgent{node->peer, frame});
  }
}

// A replica stops serving, if it did; after a healthy time its back-off starts over.
void Core::leave_service(Replica& replica, ReplicaState state, int64_t now_ms) {
  const bool served = replica.state == ReplicaState::kReady;
  if (served && now_ms - replica.since_ms >= config_.healthy_ms) replica.backoff_ms = config_.backoff_min_ms;
  replica.state = state;
  replica.since_ms = now_ms;
}

void Core::end_launch(Replica& replica, const std::string& reason, int64_t now_ms, Actions* actions) {
  leave_service(replica, ReplicaState::kEnding, now_ms);
  replica.asked_ms = now_ms;
  replica.end_reason = reason;
  send_to_nodes(replica, EndLaunch{replica.launch}, actions);
}

// The launch is over and its processes are gone.
void Core::lost(Replica& replica, const std::string& reason, int64_t now_ms, Actions* actions) {
  leave_service(replica, ReplicaState::kDown, now_ms);
  replica.launch_at_ms = now_ms + replica.backoff_ms;
  replica.status = {};
  replica.cut_off = false;
  const int requests = fail_requests(replica, reason, actions);
  if (!replica.was_ready && !replica.adopted && !draining_) {
    actions->push_back(StartFailed{replica.spec.replica, reason});
  } else {
    actions->push_back(ReplicaLost{.replica = replica.spec.replica,
                                   .reason = reason,
                                   .retry_in_ms = replica.backoff_ms,
                                   .requests = requests});
  }
  replica.backoff_ms = std::min(2 * replica.backoff_ms, config_.backoff_max_ms);
}

// Agents that fell silent take their replicas with them, and so do those that no longer know of a launch.
void Core::check_nodes(int64_t now_ms, Actions* actions) {
  if (!config_.own_agents) return;  // this machine's agent is a child: its end is what counts
  for (const std::string& silent : nodes_.forget_silent(now_ms, config_.lease_ms)) {
    for (Replica& replica : replicas_) {
      const std::vector<NodeShare> shares = shares_of(replica.spec);
      const bool concerned = std::ranges::any_of(shares, [&](const NodeShare& share) { return share.node == silent; });
      if (!concerned || replica.state == ReplicaState::kDown || replica.state == ReplicaState::kEnding) continue;
      const std::string reason =
          "the agent of " + silent + " was silent for " + std::to_string(config_.lease_ms) + " ms: is its node down?";
      end_launch(replica, reason, now_ms, actions);
      fail_requests(replica, reason, actions);
    }
  }
  for (Replica& replica : replicas_) {
    if (replica.state == ReplicaState::kDown) continue;
    const std::string first = first_node(replica.spec);
    const NodeTable::Node* owner = nodes_.find(first);
    if (owner == nullptr) {
      // Nobody can say that its processes are gone; they hold leases of their own.
      if (replica.state == ReplicaState::kEnding) lost(replica, replica.end_reason, now_ms, actions);
    } else if (!owner->launches.contains(replica.launch) && now_ms - replica.launched_ms > kMissingMs) {
      const bool ending = replica.state == ReplicaState::kEnding;
      lost(replica, ending ? replica.end_reason : "the agent of " + first + " does not run it any more", now_ms, actions);
    }
  }
}

void Core::wait_for_nodes(const Replica& replica, int64_t now_ms, Actions* actions) {
  if (!config_.own_agents || replica.was_ready || now_ms - started_ms_ <= config_.launch_timeout_ms) return;
  std::string missing;
  std::string refusals;
  for (const NodeShare& share : shares_of(replica.spec)) {
    if (nodes_.find(share.node) != nullptr) continue;
    missing += (missing.empty() ? "" : ", ") + share.node;
    if (const std::string refusal = nodes_.refusal(share.node); !refusal.empty()) refusals += "; " + refusal;
  }
  if (missing.empty()) missing = "none, but an earlier launch would not end there";
  actions->push_back(StartFailed{replica.spec.replica, "replica " + std::to_string(replica.spec.replica) +
                                                           " waited " +
                                                           std::to_string(config_.launch_timeout_ms / 1000) +
                                                           " s for the agents of " + missing +
                                                           ": start `skein agent` there" + refusals});
}

// A node's share has ended, and the first node's mpirun goes on without it.
void Core::check_shares(Replica& replica, int64_t now_ms, Actions* actions) {
  if (!replica.share_ended_ms || now_ms - *replica.share_ended_ms <= kMissingMs) return;
  const std::string reason = replica.share_reason;
  end_launch(replica, reason, now_ms, actions);
  fail_requests(replica, reason, actions);
}

void Core::tick(int64_t now_ms, Actions* actions) {
  if (started_ms_ < 0) started_ms_ = now_ms;
  check_nodes(now_ms, actions);
  for (Replica& replica : replicas_) {
    switch (replica.state) {
      case ReplicaState::kDown:
        if (draining_ || now_ms < replica.launch_at_ms) break;
        if (can_launch(replica)) {
          launch(replica, now_ms, actions);
        } else {
          wait_for_nodes(replica, now_ms, actions);
        }
        break;
      case ReplicaState::kLaunching: {
        const int64_t limit_ms = replica.adopted ? config_.adopt_ms : config_.launch_timeout_ms;
        if (now_ms - replica.since_ms > limit_ms) {
          end_launch(replica, "it was not ready within " + std::to_string(limit_ms / 1000) + " s", now_ms, actions);
        } else {
          check_shares(replica, now_ms, actions);
        }
        break;
      }
      case ReplicaState::kReady:
        if (replica.lease.silent_ms(now_ms) > config_.lease_ms) {
          const std::string reason = "it was silent for " + std::to_string(config_.lease_ms) + " ms";
          end_launch(replica, reason, now_ms, actions);
          fail_requests(replica, reason, actions);
        } else {
          check_shares(replica, now_ms, actions);
        }
        break;
      case ReplicaState::kEnding:
        if (config_.own_agents && now_ms - replica.asked_ms > kAskAgainMs) {
          replica.asked_ms = now_ms;
          send_to_nodes(replica, EndLaunch{replica.launch}, actions);
        }
        break;
    }
  }
}

}  // namespace skein
