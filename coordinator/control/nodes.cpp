#include "coordinator/control/nodes.h"

#include <algorithm>

namespace skein {
namespace {

constexpr size_t kNamesMax = 4096;  // of refused agents

}  // namespace

std::optional<std::string> NodeTable::admit(const std::string& peer, RegisterAgent registration, int64_t now_ms) {
  std::optional<std::string> refusal;
  const auto here = nodes_.find(registration.node);
  if (registration.build != SKEIN_BUILD) {
    refusal = "the agent of " + registration.node + " is Skein " + registration.build + " and the coordinator " +
              SKEIN_BUILD + ": install the same version on every node";
  } else if (here != nodes_.end() && here->second.registration.instance != registration.instance) {
    refusal = "another agent is here as " + registration.node +
              (here->second.registration.address.empty() ? "" : ", at " + here->second.registration.address) +
              ": give each node a --name and a key of its own, or end the other one";
  }
  if (refusal) {
    if (refusals_.size() < kNamesMax) refusals_[registration.node] = *refusal;
    return refusal;
  }
  refusals_.erase(registration.node);
  Node& node = nodes_[registration.node];
  node.peer = peer;
  node.launches.clear();
  for (const AgentJob& job : registration.jobs) node.launches.insert(job.launch);
  node.registration = std::move(registration);
  node.lease.heard(now_ms);
  return std::nullopt;
}

std::vector<std::string> NodeTable::forget_silent(int64_t now_ms, int64_t lease_ms) {
  std::vector<std::string> silent;
  for (auto it = nodes_.begin(); it != nodes_.end();) {
    if (it->second.lease.silent_ms(now_ms) <= lease_ms) {
      ++it;
      continue;
    }
    silent.push_back(it->first);
    it = nodes_.erase(it);
  }
  return silent;
}

NodeTable::Node* NodeTable::find(const std::string& node) {
  const auto it = nodes_.find(node);
  return it == nodes_.end() ? nullptr : &it->second;
}

NodeTable::Node* NodeTable::of_peer(const std::string& peer) {
  const auto it = std::ranges::find_if(nodes_, [&](const auto& entry) { return entry.second.peer == peer; });
  return it == nodes_.end() ? nullptr : &it->second;
}

std::string NodeTable::refusal(const std::string& node) const {
  const auto it = refusals_.find(node);
  return it == refusals_.end() ? "" : it->second;
}

}  // namespace skein
