#include "coordinator/control/nodes.h"

#include <algorithm>
#include <utility>

#include "coordinator/control/node_watch.h"
#include "topology/cluster_file.h"
#include "topology/contradictions.h"

namespace skein {
namespace {

constexpr int64_t kRivalMs = 1000;   // in which one that lives gives signs,
constexpr int64_t kRivalSignMs = 750;  // the last one no longer ago
constexpr size_t kNamesMax = 4096;  // of refused agents

// What is free of `all` bytes, 1 at least; 0: not known.
int64_t free_of(uint64_t free, int64_t all) {
  return free <= static_cast<uint64_t>(all) ? std::max<int64_t>(static_cast<int64_t>(free), 1) : 0;
}

// By GPU of a cluster of one node.
std::vector<int64_t> gpu_memories(const Cluster& hardware) {
  std::vector<int64_t> memories;
  for (const Device& device : hardware.nodes.front().devices) {
    const DeviceKind& kind = kind_of(hardware, device);
    if (kind.gpu) memories.push_back(kind.memory_bytes);
  }
  return memories;
}

template <typename Numbers>
Json list_of(const Numbers& numbers) {
  return Json::Array(numbers.begin(), numbers.end());
}

Json node_json(const NodeTable::Node& node) {
  Json json = Json::object();
  json.set("name", node.registration.node);
  json.set("address", node.registration.address);
  json.set("network", node.registration.network);
  json.set("launches", list_of(node.launches));
  json.set("devices_held", list_of(node.use.held));
  if (node.driver_silent_s > 0) json.set("driver_silent_seconds", static_cast<int64_t>(node.driver_silent_s));
  if (!node.report.cluster) return json;
  const Node& hardware = node.report.cluster->nodes.front();
  json.set("devices", static_cast<int64_t>(hardware.devices.size()));
  json.set("memory_bytes", hardware.memory_bytes);
  if (node.use.memory_free > 0) json.set("memory_free_bytes", node.use.memory_free);
  if (!node.use.gpu_memory_free.empty()) json.set("gpu_memory_free_bytes", list_of(node.use.gpu_memory_free));
  return json;
}

}  // namespace

std::optional<std::string> belies_key(const RegisterAgent& registration, const std::string& user) {
  if (registration.node == user) return std::nullopt;
  return "the key of " + user + " cannot register " + registration.node + ": give each node the key of its name";
}

void NodeTable::Node::take(const AgentStatus& status) {
  launches = {status.launches.begin(), status.launches.end()};
  driver_silent_s = status.driver_silent_s;
  use = {};
  use.held = {status.held.begin(), status.held.end()};
  if (!report.cluster) return;
  if (status.memory_free > 0) use.memory_free = free_of(status.memory_free, report.cluster->nodes.front().memory_bytes);
  const std::vector<int64_t> all = gpu_memories(*report.cluster);
  if (status.gpu_memory_free.size() != all.size()) return;
  for (size_t gpu = 0; gpu < all.size(); ++gpu) {
    use.gpu_memory_free.push_back(free_of(status.gpu_memory_free[gpu], all[gpu]));
  }
}

bool NodeTable::may_succeed(const RegisterAgent& registration, int64_t now_ms) {
  Node* here = find(registration.node);
  if (here == nullptr || here->registration.instance == registration.instance) return false;
  const std::optional<int64_t> last_ms = std::exchange(here->rival_ms, now_ms);
  if (!last_ms || now_ms - *last_ms > kRivalMs) here->rivals_ms = now_ms;
  return now_ms - here->rivals_ms < kRivalMs || here->lease.silent_ms(now_ms) > kRivalSignMs;
}

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
  NodeReport report;
  if (!refusal && !registration.topology.empty()) {
    Result<NodeReport> read = parse_node_report(registration.topology, registration.node);
    if (read.ok()) report = std::move(*read);
    else refusal = "what the agent of " + registration.node + " reports of its hardware is refused: " +
                   read.status().message();
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
  registration.topology.clear();
  const int named = find_node(described_, registration.node);
  if (named >= 0 && report.cluster) node.contradictions = differences(described_, named, *report.cluster);
  node.report = std::move(report);
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

Result<Cluster> NodeTable::cluster(const std::set<std::string>& names) const {
  std::vector<ReportedNode> reported;
  for (const auto& [name, node] : nodes_) {
    if (!node.report.cluster || (!names.empty() && !names.contains(name))) continue;
    reported.push_back({.hardware = &*node.report.cluster, .network = node.registration.network, .use = node.use});
  }
  return join_nodes(reported);
}

Json NodeTable::to_json() const {
  Json nodes = Json::array();
  Json findings = Json::array();
  for (const auto& [name, node] : nodes_) {
    nodes.push_back(node_json(node));
    for (const std::string& finding : node.report.findings) findings.push_back(name + ": " + finding);
    for (const std::string& finding : node.contradictions) findings.push_back(name + ": " + finding);
    if (node.driver_silent_s > 0) findings.push_back(name + ": " + silent_driver(node.driver_silent_s));
  }
  Json refused = Json::array();
  for (const auto& [name, reason] : refusals_) {
    refused.push_back(Json::Object{{"name", name}, {"reason", reason}});
  }
  Json json = Json::object();
  const Result<Cluster> joined = cluster();
  if (joined.ok()) json.set("cluster", skein::to_json(*joined));
  else findings.push_back(joined.status().message());
  json.set("findings", std::move(findings));
  json.set("nodes", std::move(nodes));
  json.set("refused", std::move(refused));
  return json;
}

std::string NodeTable::refusal(const std::string& node) const {
  const auto it = refusals_.find(node);
  return it == refusals_.end() ? "" : it->second;
}

}  // namespace skein
