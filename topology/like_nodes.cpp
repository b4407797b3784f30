#include "topology/like_nodes.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "base/checked.h"
#include "topology/shapes.h"

namespace skein {
namespace {

// Of all kinds of nodes together: 133 of eight devices that hold a replica each, or 13 of which it takes two.
constexpr int64_t kWorkMax = 1200;
constexpr int64_t kWorkMin = 9;  // of a kind
constexpr int kNodesMax = 4;     // of a cell

// Steps get twice as large from one to the next.
constexpr int kRoundings = 5;
constexpr int64_t kMemorySteps = 1024;  // of all memory, at first
constexpr int kRateSteps = 16;          // of a factor of two, at first

int64_t round_down(int64_t bytes, int64_t all, int rounding) {
  const int64_t step = std::max<int64_t>((all / kMemorySteps) << rounding, 1);
  return std::max<int64_t>(bytes / step * step, 1);  // 0 would be all
}

double round_down(double rate, int rounding) {
  const int steps = std::max(kRateSteps >> rounding, 1);
  int exponent = 0;
  const double mantissa = std::frexp(rate, &exponent);  // [0.5, 1)
  return std::ldexp(std::floor(mantissa * 2 * steps) / (2 * steps), exponent);
}

Cluster rounded(Cluster cluster, int rounding) {
  int64_t host_max = 0;
  for (const Node& node : cluster.nodes) host_max = std::max(host_max, node.memory_bytes);
  for (Node& node : cluster.nodes) {
    const int64_t host = node.memory_free > 0 ? node.memory_free : node.memory_bytes;
    if (host > 0) node.memory_free = round_down(host, host_max, rounding);
    for (Device& device : node.devices) {
      if (device.memory_free == 0) continue;
      device.memory_free = round_down(device.memory_free, kind_of(cluster, device).memory_bytes, rounding);
    }
    for (Nic& nic : node.nics) nic.bytes_per_s = round_down(nic.bytes_per_s, rounding);
  }
  return cluster;
}

// Choices of `nodes` like ones' states, a binomial that is whole when it grows one by one; each with orders of nodes.
int64_t work_of(int64_t states_of_node, int nodes) {
  int64_t states = 1;
  for (int i = 1; i <= nodes; ++i) states = states * (states_of_node + i - 1) / i;
  return states * nodes;
}

struct Kind {
  int devices = 0;
  int64_t memory = 0;
  int64_t states = 1;
};

// What it takes to work out replicas for every kind of node, each on as many nodes as its memory and its degrees need.
int64_t work(const PlanRequest& request, const Cluster& cluster, int64_t bytes, int ranks) {
  PlanRequest there = request;
  there.cluster = &cluster;
  std::map<std::string, Kind> kinds;
  const std::vector<Domain> domains = domains_of(there, {}, {});
  for (auto at = domains.begin(); at != domains.end();) {
    std::string key;
    Kind kind;
    for (const int node = at->node; at != domains.end() && at->node == node; ++at) {
      key += at->key + ";";
      kind.devices += at->size();
      kind.memory += at->size() * std::max<int64_t>(at->memory, 0);
      kind.states *= at->size() + 1;
    }
    kinds.try_emplace(std::move(key), kind);
  }
  int64_t sum = 0;
  for (const auto& [key, kind] : kinds) {
    const int64_t by_memory = ceil_div(bytes, std::max<int64_t>(kind.memory, 1));
    const int64_t nodes = std::max<int64_t>(by_memory, ceil_div(ranks, kind.devices));
    sum += std::max(work_of(kind.states, static_cast<int>(std::clamp<int64_t>(nodes, 1, kNodesMax))), kWorkMin);
  }
  return sum;
}

}  // namespace

std::optional<Cluster> with_like_nodes(const PlanRequest& request) {
  int64_t bytes = 0;
  int ranks = 1;
  for (const ModelDemand& demand : request.models) {
    bytes = std::max(bytes, weight_bytes(demand));
    ranks = std::max(ranks, std::max(demand.tensor_parallel_size, 1) * std::max(demand.pipeline_parallel_size, 1));
  }
  if (work(request, *request.cluster, bytes, ranks) <= kWorkMax) return std::nullopt;
  for (int rounding = 0;; ++rounding) {
    Cluster cluster = rounded(*request.cluster, rounding);
    if (rounding + 1 == kRoundings || work(request, cluster, bytes, ranks) <= kWorkMax) return cluster;
  }
}

}  // namespace skein
