#include "topology/domains.h"

#include <algorithm>
#include <map>

#include "base/checked.h"
#include "topology/device_kinds.h"

namespace skein {
namespace {

constexpr int64_t kSystemReserve = int64_t{512} << 20;  // of a node of cores, for the system and the agent

bool apart(const Device& a, const Device& b) { return a.kind != b.kind || a.nvlink_domain != b.nvlink_domain; }

// All that may tell devices of a node from each other: their sockets and NVLinks, and the NICs that are up.
std::string layout_of(const Cluster& cluster, const Domain& domain) {
  const Node& node = cluster.nodes[static_cast<size_t>(domain.node)];
  std::string text;
  const auto add = [&](auto number) { text.append(reinterpret_cast<const char*>(&number), sizeof number); };
  std::map<int, int> nvlink_domains;  // which was met when: their numbers mean nothing
  for (const int index : domain.devices) {
    const Device& device = node.devices[static_cast<size_t>(index)];
    add(index);
    add(device.numa);
    const int met = static_cast<int>(nvlink_domains.size());
    add(device.nvlink_domain < 0 ? -1 : nvlink_domains.try_emplace(device.nvlink_domain, met).first->second);
    add(device.nvlinks_up);
  }
  for (const Nic& nic : node.nics) {
    if (!nic.up) continue;
    add(nic.network);
    add(nic.bytes_per_s);
    add(nic.numa);
    add(nic.rail);
    for (const int device : nic.devices) add(device);
    add(-1);
  }
  return text;
}

bool joined(const Cluster& cluster, const Domain& domain) {
  const auto& devices = cluster.nodes[static_cast<size_t>(domain.node)].devices;
  return domain.size() == 1 || devices[static_cast<size_t>(domain.devices[0])].nvlink_domain >= 0;
}

// What a message over both at once waits for. One that leads to itself counts for nothing.
Path slower(const Path& a, const Path& b) {
  if (a.link == LinkKind::kSelf) return b;
  if (b.link == LinkKind::kSelf) return a;
  Path slow = b.bytes_per_s < a.bytes_per_s ? b : a;
  slow.latency_us = std::max(a.latency_us, b.latency_us);
  return slow;
}

void share_cores(int ranks, size_t cores, Domain* domain) {
  for (int rank = 1; rank < ranks; ++rank) domain->devices.push_back(rank * static_cast<int>(cores) / ranks);
  domain->group_max = ranks;
  domain->memory /= ranks;
}

// The free devices of one node. Its cores are taken all together or not at all.
void add_domains(const PlanRequest& request, int node_index, const std::vector<int>& taken, const Relaxed& relaxed,
                 std::vector<Domain>* domains) {
  const Cluster& cluster = *request.cluster;
  const Node& node = cluster.nodes[static_cast<size_t>(node_index)];
  const auto first = static_cast<ptrdiff_t>(domains->size());
  for (size_t d = 0; d < node.devices.size(); ++d) {
    const Device& device = node.devices[d];
    const DeviceKind& kind = kind_of(cluster, device);
    const bool free = std::ranges::find(taken, static_cast<int>(d)) == taken.end() && (kind.gpu || taken.empty());
    if (!free || !backend_runs_on(kind)) continue;
    const int64_t memory = usable_memory(cluster, {node_index, static_cast<int>(d)}, request.memory_share);
    const auto same = std::find_if(domains->begin() + first, domains->end(), [&](const Domain& domain) {
      return !apart(node.devices[static_cast<size_t>(domain.devices[0])], device);
    });
    if (same == domains->end()) {
      domains->push_back({.node = node_index, .kind = device.kind, .devices = {static_cast<int>(d)}, .memory = memory});
      if (!kind.gpu) share_cores(ranks_of_cores(request, node.devices.size()), node.devices.size(), &domains->back());
    } else if (kind.gpu) {
      same->devices.push_back(static_cast<int>(d));
      same->memory = std::min(same->memory, memory);
      if (device.nvlink_domain >= 0 || relaxed.group_over_pcie) same->group_max = same->size();
    }
  }
}

}  // namespace

int ranks_of_cores(const PlanRequest& request, size_t cores) {
  const Cluster& cluster = *request.cluster;
  const auto may_be_used = [&](const Node& node) {
    return !node.devices.empty() && !kind_of(cluster, node.devices[0]).gpu && may_use(request.nodes, node.name, 0);
  };
  const auto nodes = std::max<int64_t>(std::ranges::count_if(cluster.nodes, may_be_used), 1);
  int64_t ranks = 1;
  for (const ModelDemand& demand : request.models) {
    const int64_t stages = ceil_div(std::max<int64_t>(demand.pipeline_parallel_size, 1), nodes);
    ranks = std::max(ranks, stages * std::max(demand.tensor_parallel_size, 1));
  }
  return static_cast<int>(std::min(ranks, static_cast<int64_t>(cores)));
}

int64_t usable_memory(const Cluster& cluster, DeviceId id, double memory_share) {
  const Node& node = cluster.nodes[static_cast<size_t>(id.node)];
  const Device& device = node.devices[static_cast<size_t>(id.device)];
  const DeviceKind& kind = kind_of(cluster, device);
  if (!kind.gpu) return (node.memory_free > 0 ? node.memory_free : node.memory_bytes) - kSystemReserve;
  const int64_t taken = device.memory_free > 0 ? kind.memory_bytes - device.memory_free : 0;
  return static_cast<int64_t>(memory_share * static_cast<double>(kind.memory_bytes)) - taken;
}

bool backend_runs_on(const DeviceKind& kind) {
  const int compute = compute_capability(kind.name);
  return !kind.gpu || compute == 0 || compute / 10 == 9;
}

std::string path_key(const Path& path) {
  return std::to_string(static_cast<int>(path.link)) + "," + std::to_string(path.bytes_per_s) + "," +
         std::to_string(path.latency_us);
}

std::vector<Domain> domains_of(const PlanRequest& request, const std::vector<DeviceId>& taken, const Relaxed& relaxed) {
  const Cluster& cluster = *request.cluster;
  std::vector<std::vector<int>> taken_of(cluster.nodes.size());
  for (const DeviceId& id : taken) taken_of[static_cast<size_t>(id.node)].push_back(id.device);
  std::vector<Domain> domains;
  for (size_t n = 0; n < cluster.nodes.size(); ++n) {
    const Node& node = cluster.nodes[n];
    for (int device = 0; !request.nodes.empty() && device < std::ssize(node.devices); ++device) {
      if (!may_use(request.nodes, node.name, device)) taken_of[n].push_back(device);
    }
    add_domains(request, static_cast<int>(n), taken_of[n], relaxed, &domains);
  }
  for (size_t i = 0; i < domains.size(); ++i) {
    Domain& domain = domains[i];
    const bool gpu = cluster.kinds[static_cast<size_t>(domain.kind)].gpu;
    const size_t cores = cluster.nodes[static_cast<size_t>(domain.node)].devices.size();
    domain.whole = static_cast<int>(i);
    domain.inside = worst_path(cluster, domain);
    domain.joined = joined(cluster, domain);
    domain.compute = std::to_string(domain.kind);
    if (!gpu) domain.compute += "," + std::to_string(cores) + "/" + std::to_string(domain.size());
    domain.site = domain.compute + "," + std::to_string(domain.memory);
    domain.layout = std::to_string(domain.kind) + "," + layout_of(cluster, domain);
    domain.key = domain.site + "," + std::to_string(domain.group_max > 1) + "," + domain.layout;
  }
  return domains;
}

Path worst_path(const Cluster& cluster, const Domain& domain) {
  Path worst;
  for (const int from : domain.devices) {
    for (const int to : domain.devices) {
      if (from >= to) continue;
      const auto path = path_between(cluster, {domain.node, from}, {domain.node, to});
      if (path) worst = slower(worst, *path);
    }
  }
  return worst;
}

std::optional<std::vector<StageWays>> ways_of(const Cluster& cluster, int tp, const std::vector<DeviceId>& devices) {
  const auto ranks = static_cast<size_t>(tp);
  std::vector<StageWays> ways(devices.size() / ranks);
  for (size_t stage = 0; stage < ways.size(); ++stage) {
    const DeviceId* here = &devices[stage * ranks];
    for (size_t a = 0; a < ranks; ++a) {
      for (size_t b = a + 1; b < ranks; ++b) {
        const auto path = path_between(cluster, here[a], here[b]);
        if (!path) return std::nullopt;
        ways[stage].group = slower(ways[stage].group, *path);
      }
      if (stage + 1 == ways.size()) continue;
      const auto path = path_between(cluster, here[a], here[a + ranks]);
      if (!path) return std::nullopt;
      ways[stage].next = slower(ways[stage].next, *path);
    }
  }
  if (ways.size() > 1) ways.back().next = ways[ways.size() - 2].next;
  return ways;
}

}  // namespace skein
