#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/lease_watch.h"
#include "base/status.h"
#include "comm/wire.h"
#include "topology/cluster.h"
#include "topology/node_report.h"

namespace skein {

inline constexpr char kThisMachine[] = "local";  // the node of replicas without places
inline constexpr std::string_view kAgentPrefix = "agent-";  // of agents' names as peers

// Why an agent with the key of `user` may not register so; nothing if it may.
std::optional<std::string> belies_key(const RegisterAgent& registration, const std::string& user);

// The agents that are here, one a node. Deterministic: no clock, no I/O. Single-owner.
class NodeTable {
 public:
  struct Node {
    RegisterAgent registration;
    std::string peer;  // its name as one
    LeaseWatch lease;
    std::set<uint64_t> launches;  // that it runs, or was asked to
    NodeReport report;
    std::vector<std::string> contradictions;  // between the report and the cluster file
    NodeUse use;
    uint32_t driver_silent_s = 0;  // AgentStatus
    int64_t rivals_ms = 0;         // since when others ask for this name again and again,
    std::optional<int64_t> rival_ms;  // and when one did last

    // What a sign of life says beside being one. What contradicts the report is taken for not known.
    void take(const AgentStatus& status);
  };

  // `described`: the cluster file that replicas were placed by; empty: none.
  explicit NodeTable(Cluster described = {}) : described_(std::move(described)) {}

  // Whether the agent that is here under that name may have ended a moment ago, so that this one, which was started in
  // its place, is to ask again instead of being refused.
  bool may_succeed(const RegisterAgent& registration, int64_t now_ms);
  // Why that agent cannot take part; nothing if it can, and is here now. The same process may register again.
  std::optional<std::string> admit(const std::string& peer, RegisterAgent registration, int64_t now_ms);
  // A node of which nothing was heard for so long is forgotten; returns their names.
  std::vector<std::string> forget_silent(int64_t now_ms, int64_t lease_ms);
  void forget_all() { nodes_.clear(); }

  Node* find(const std::string& node);
  const Node* find(const std::string& node) const { return const_cast<NodeTable*>(this)->find(node); }
  // By its socket; null for one that has not registered.
  Node* of_peer(const std::string& peer);
  const Node* of_peer(const std::string& peer) const { return const_cast<NodeTable*>(this)->of_peer(peer); }
  const std::map<std::string, Node>& all() const { return nodes_; }
  // Why a node that asked was refused last; empty: it was not.
  std::string refusal(const std::string& node) const;

  // Of all nodes that are here and have described themselves, or of those of them that are named: what a planner may
  // place ranks on. Devices have the numbers that places count GPUs by. kUnavailable: there are none.
  Result<Cluster> cluster(const std::set<std::string>& names = {}) const;
  // For operators: {"cluster", "findings"} as of `skein topology --format json`, and {"nodes", "refused"}.
  Json to_json() const;

 private:
  const Cluster described_;
  std::map<std::string, Node> nodes_;
  std::map<std::string, std::string> refusals_;
};

}  // namespace skein
