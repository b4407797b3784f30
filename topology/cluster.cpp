#include "topology/cluster.h"

#include <algorithm>

namespace skein {
namespace {

LinkKind link_of(NetworkKind network) {
  switch (network) {
    case NetworkKind::kInfiniBand: return LinkKind::kInfiniBand;
    case NetworkKind::kRoce: return LinkKind::kRoce;
    case NetworkKind::kTcp: return LinkKind::kTcp;
  }
  return LinkKind::kTcp;
}

}  // namespace

std::optional<Path> path_between(const Cluster& cluster, DeviceId from, DeviceId to) {
  if (from == to) return Path{};
  const Node& a = cluster.nodes[static_cast<size_t>(from.node)];
  const Node& b = cluster.nodes[static_cast<size_t>(to.node)];
  const Device& x = a.devices[static_cast<size_t>(from.device)];
  const Device& y = b.devices[static_cast<size_t>(to.device)];
  const DeviceKind& kind = cluster.kinds[static_cast<size_t>(x.kind)];
  if (from.node == to.node) {
    if (!kind.gpu) return Path{.link = LinkKind::kMemory, .bytes_per_s = kind.read_bytes_per_s / 2, .latency_us = 5};
    if (x.nvlink_domain >= 0 && x.nvlink_domain == y.nvlink_domain) {
      return Path{.link = LinkKind::kNvlink, .bytes_per_s = kind.nvlink_bytes_per_s, .latency_us = 2};
    }
    return Path{.link = x.numa == y.numa ? LinkKind::kPcie : LinkKind::kSocket, .bytes_per_s = kind.pcie_bytes_per_s,
                .latency_us = 8};
  }
  std::optional<Path> best;
  for (const Nic& out : a.nics) {
    for (const Nic& in : b.nics) {
      if (!out.up || !in.up || out.network != in.network) continue;
      const Path path{.link = link_of(out.network), .bytes_per_s = std::min(out.bytes_per_s, in.bytes_per_s),
                      .latency_us = cluster.fabric.latency_us, .same_rail = out.rail == in.rail,
                      .same_rack = a.rack == b.rack};
      if (!best || path.bytes_per_s > best->bytes_per_s) best = path;
    }
  }
  return best;
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

}  // namespace skein
