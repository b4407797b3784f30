#include "topology/cluster.h"

#include <algorithm>
#include <tuple>

namespace skein {
namespace {

// From one device to the other for a short message, in microseconds, where nothing was measured: a hop of NCCL's LL
// protocol with its software (NCCL src/graph/tuning.cc), a futex between processes, a kernel's TCP stack.
constexpr double kNvlinkLatency = 2;
constexpr double kPcieLatency = 4;
constexpr double kSocketLatency = 6;
constexpr double kMemoryLatency = 5;
constexpr double kNetworkLatency[] = {5, 7, 30};  // by NetworkKind
constexpr double kRackLatency = 1;                // two more switches
constexpr double kSocketBytesPerS = 22e9;  // peer traffic between sockets (NCCL src/graph/topo.h, SPR_QPI_BW)

constexpr NetworkKind kNetworks[] = {NetworkKind::kInfiniBand, NetworkKind::kRoce, NetworkKind::kTcp};

LinkKind link_of(NetworkKind network) {
  switch (network) {
    case NetworkKind::kInfiniBand: return LinkKind::kInfiniBand;
    case NetworkKind::kRoce: return LinkKind::kRoce;
    case NetworkKind::kTcp: return LinkKind::kTcp;
  }
  return LinkKind::kTcp;
}

bool speaks(const Nic& nic, NetworkKind network) {
  return nic.network == network || (network == NetworkKind::kTcp && nic.network == NetworkKind::kRoce);
}

bool apart(int numa, int other) { return numa >= 0 && other >= 0 && numa != other; }

// As Path::nearness.
int nearness(const Nic& nic, const Device& device, int index) {
  if (std::ranges::find(nic.devices, index) != nic.devices.end()) return 3;
  if (apart(nic.numa, device.numa)) return 0;
  return nic.numa >= 0 && device.numa >= 0 ? 2 : 1;
}

// Native NICs before those that speak it, too; then near ones, then fast ones; equal ones are dealt out in turn.
int nearest_nic(const Node& node, int device, NetworkKind network) {
  using Rank = std::tuple<bool, int, double>;
  const auto rank = [&](const Nic& nic) {
    return Rank{nic.network == network, nearness(nic, node.devices[static_cast<size_t>(device)], device),
                nic.bytes_per_s};
  };
  std::vector<int> best;
  Rank best_rank;
  for (size_t i = 0; i < node.nics.size(); ++i) {
    const Nic& nic = node.nics[i];
    if (!nic.up || !speaks(nic, network)) continue;
    const Rank mine = rank(nic);
    if (!best.empty() && mine < best_rank) continue;
    if (!best.empty() && mine > best_rank) best.clear();
    best_rank = mine;
    best.push_back(static_cast<int>(i));
  }
  return best.empty() ? -1 : best[static_cast<size_t>(device) % best.size()];
}

int nic_of(const Node& node, int device, NetworkKind network) {
  if (!node.nics_assigned) return nearest_nic(node, device, network);
  return node.devices[static_cast<size_t>(device)].nics[static_cast<size_t>(network)];
}

double nvlink_rate(const DeviceKind& kind, const Device& device) {
  if (device.nvlinks_up < 0 || kind.nvlinks == 0) return kind.nvlink_bytes_per_s;
  return kind.nvlink_bytes_per_s * device.nvlinks_up / kind.nvlinks;
}

Path path_within(const Cluster& cluster, const Device& x, const Device& y) {
  const DeviceKind& from = kind_of(cluster, x);
  const DeviceKind& to = kind_of(cluster, y);
  if (!from.gpu && !to.gpu) {
    // What one writes the other reads: both pass through the same memory.
    return {.link = LinkKind::kMemory, .bytes_per_s = from.read_bytes_per_s / 2, .latency_us = kMemoryLatency};
  }
  const double nvlink = std::min(nvlink_rate(from, x), nvlink_rate(to, y));
  if (x.nvlink_domain >= 0 && x.nvlink_domain == y.nvlink_domain && nvlink > 0) {
    return {.link = LinkKind::kNvlink, .bytes_per_s = nvlink, .latency_us = kNvlinkLatency};
  }
  double pcie = from.gpu ? from.pcie_bytes_per_s : to.pcie_bytes_per_s;
  if (from.gpu && to.gpu) pcie = std::min(from.pcie_bytes_per_s, to.pcie_bytes_per_s);
  if (!apart(x.numa, y.numa)) return {.link = LinkKind::kPcie, .bytes_per_s = pcie, .latency_us = kPcieLatency};
  return {.link = LinkKind::kSocket, .bytes_per_s = std::min(pcie, kSocketBytesPerS), .latency_us = kSocketLatency};
}

// What one end of a way through the network lets pass.
double end_rate(const Cluster& cluster, const Device& device, const Nic& nic) {
  const DeviceKind& kind = kind_of(cluster, device);
  double rate = nic.bytes_per_s;
  if (kind.gpu && kind.pcie_bytes_per_s > 0) rate = std::min(rate, kind.pcie_bytes_per_s);
  return apart(nic.numa, device.numa) ? std::min(rate, kSocketBytesPerS) : rate;
}

}  // namespace

std::optional<Path> path_between(const Cluster& cluster, DeviceId from, DeviceId to) {
  const Node& a = cluster.nodes[static_cast<size_t>(from.node)];
  const Node& b = cluster.nodes[static_cast<size_t>(to.node)];
  const Device& x = a.devices[static_cast<size_t>(from.device)];
  const Device& y = b.devices[static_cast<size_t>(to.device)];
  if (from == to) return Path{.bytes_per_s = kind_of(cluster, x).read_bytes_per_s};
  if (from.node == to.node) return path_within(cluster, x, y);
  for (const NetworkKind network : kNetworks) {
    const int out = nic_of(a, from.device, network);
    const int in = nic_of(b, to.device, network);
    if (out < 0 || in < 0) continue;
    const Nic& near = a.nics[static_cast<size_t>(out)];
    const Nic& far = b.nics[static_cast<size_t>(in)];
    const Fabric& fabric = cluster.fabric;
    const bool measured = fabric.latency_us > 0 && network != NetworkKind::kTcp;
    Path path{.link = link_of(network),
              .bytes_per_s = std::min(end_rate(cluster, x, near), end_rate(cluster, y, far)),
              .latency_us = measured ? fabric.latency_us : kNetworkLatency[static_cast<size_t>(network)],
              .same_rail = near.rail == far.rail,
              .same_rack = a.rack == b.rack,
              .nearness = std::min(nearness(near, x, from.device), nearness(far, y, to.device))};
    if (!path.same_rack || !path.same_rail) {  // over the spine
      path.latency_us += fabric.rack_latency_us > 0 ? fabric.rack_latency_us : kRackLatency;
      path.bytes_per_s /= fabric.oversubscription;
    }
    return path;
  }
  return std::nullopt;
}

void assign_nics(Cluster* cluster) {
  for (Node& node : cluster->nodes) {
    for (size_t i = 0; i < node.devices.size(); ++i) {
      for (const NetworkKind network : kNetworks) {
        node.devices[i].nics[static_cast<size_t>(network)] = nearest_nic(node, static_cast<int>(i), network);
      }
    }
    node.nics_assigned = true;
  }
}

const char* name(LinkKind link) {
  switch (link) {
    case LinkKind::kSelf: return "itself";
    case LinkKind::kNvlink: return "NVLink";
    case LinkKind::kPcie: return "PCIe";
    case LinkKind::kSocket: return "PCIe across sockets";
    case LinkKind::kMemory: return "memory";
    case LinkKind::kInfiniBand: return "InfiniBand";
    case LinkKind::kRoce: return "RoCE";
    case LinkKind::kTcp: return "TCP";
  }
  return "";
}

const char* name(NetworkKind network) { return name(link_of(network)); }

}  // namespace skein
