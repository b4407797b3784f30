#include <algorithm>
#include <map>
#include <set>

#include "base/node_name.h"
#include "topology/cluster.h"

namespace skein {
namespace {

constexpr size_t kDevicesMax = 1024;  // of a node
constexpr size_t kNicsMax = 64;
constexpr int kNumaMax = 255;

Status wrong(int line, const std::string& what) {
  return invalid_argument((line > 0 ? "line " + std::to_string(line) + ": " : "") + what);
}

std::string quoted(const std::string& name) { return "\"" + name + "\""; }

std::string at_line(int line) { return line > 0 ? " at line " + std::to_string(line) : ""; }

Status check_kind(const DeviceKind& kind) {
  const std::string what = "the device kind " + quoted(kind.name);
  if (kind.name.empty()) return wrong(kind.line, "a device kind has no name");
  if (kind.gpu && kind.memory_bytes <= 0) return wrong(kind.line, what + " needs memory_gib above 0");
  if (kind.read_bytes_per_s <= 0) return wrong(kind.line, what + " needs read_gb_per_s above 0");
  if (kind.bf16_flops <= 0) return wrong(kind.line, what + " needs tflops above 0");
  if (kind.gpu && kind.pcie_bytes_per_s <= 0) return wrong(kind.line, what + " needs pcie_gb_per_s above 0");
  if (kind.fp8_flops < 0 || kind.nvlink_bytes_per_s < 0 || kind.nvlinks < 0) {
    return wrong(kind.line, what + " has a negative figure; leave out what it does not have");
  }
  return {};
}

Status check_kinds(const Cluster& cluster) {
  std::map<std::string, int> lines;
  for (const DeviceKind& kind : cluster.kinds) {
    RETURN_IF_ERROR(check_kind(kind));
    const auto [other, fresh] = lines.emplace(kind.name, kind.line);
    if (!fresh) {
      return wrong(kind.line, "the device kind " + quoted(kind.name) + " is described twice" +
                                  (other->second > 0 ? ", first" + at_line(other->second) : "") + "; remove one");
    }
  }
  return {};
}

Status check_device(const Cluster& cluster, const Node& node, const Device& device, size_t index) {
  const std::string what = "device " + std::to_string(index) + " of node " + quoted(node.name);
  if (device.kind < 0 || device.kind >= static_cast<int>(cluster.kinds.size())) {
    return wrong(device.line, what + " has no kind; name one");
  }
  const DeviceKind& kind = kind_of(cluster, device);
  if (device.numa < -1 || device.numa > kNumaMax) {
    return wrong(device.line, what + " is on NUMA node " + std::to_string(device.numa) + "; give one from 0 to 255");
  }
  if (device.nvlink_domain >= 0 && kind.nvlink_bytes_per_s <= 0) {
    return wrong(device.line, what + " is in an NVLink domain, but a " + kind.name +
                                  " has no NVLink; remove nvlink_domain, or give the kind nvlink_gb_per_s");
  }
  if (device.nvlinks_up > kind.nvlinks) {
    return wrong(device.line, what + " has " + std::to_string(device.nvlinks_up) + " NVLinks up of " +
                                  std::to_string(kind.nvlinks) + "; lower nvlinks_up, or give the kind its nvlinks");
  }
  if (kind.gpu && device.memory_free > kind.memory_bytes) {
    return wrong(device.line, what + " has more memory free than a " + kind.name + " has; lower memory_free_gib");
  }
  return {};
}

Status check_devices(const Cluster& cluster, const Node& node) {
  std::map<int, int> domains;  // and how many devices they have
  std::set<std::string> addresses;
  int cores = 0;
  for (size_t i = 0; i < node.devices.size(); ++i) {
    const Device& device = node.devices[i];
    RETURN_IF_ERROR(check_device(cluster, node, device, i));
    if (device.nvlink_domain >= 0) ++domains[device.nvlink_domain];
    if (!device.pci.empty() && !addresses.insert(device.pci).second) {
      return wrong(device.line, "two devices of node " + quoted(node.name) + " have the PCI address " + device.pci +
                                    "; one of them is wrong");
    }
    cores += !kind_of(cluster, device).gpu;
  }
  for (const auto& [domain, count] : domains) {
    if (count > 1) continue;
    return wrong(node.line, "NVLink domain " + std::to_string(domain) + " of node " + quoted(node.name) +
                                " has one device only; a domain joins two at least");
  }
  if (cores > node.cores) {
    return wrong(node.line, "node " + quoted(node.name) + " has " + std::to_string(cores) + " cores as devices but only " +
                                std::to_string(node.cores) + " cores; raise cores or lower the count");
  }
  return {};
}

Status check_nic(const Node& node, const Nic& nic) {
  const std::string what = "the NIC " + quoted(nic.name) + " of node " + quoted(node.name);
  if (nic.name.empty()) return wrong(nic.line, "a NIC of node " + quoted(node.name) + " has no name; give it one");
  if (nic.up && nic.bytes_per_s <= 0) {
    return wrong(nic.line, what + " has no bandwidth; give gbit_per_s above 0, or up: false if its link is down");
  }
  if (nic.numa < -1 || nic.numa > kNumaMax) {
    return wrong(nic.line, what + " is on NUMA node " + std::to_string(nic.numa) + "; give one from 0 to 255");
  }
  for (const int device : nic.devices) {
    if (device >= 0 && device < static_cast<int>(node.devices.size())) continue;
    return wrong(nic.line, what + " is nearest to device " + std::to_string(device) + ", but the node's devices are " +
                               (node.devices.empty() ? "none" : "0 to " + std::to_string(node.devices.size() - 1)) +
                               "; correct its devices");
  }
  return {};
}

Status check_node(const Cluster& cluster, const Node& node) {
  const std::string what = "node " + quoted(node.name);
  if (node.name.empty()) return wrong(node.line, "a node has no name; give it one");
  if (const Status name = check_node_name(node.name); !name.ok()) return wrong(node.line, name.message());
  if (node.cores <= 0) return wrong(node.line, what + " needs cores above 0");
  if (node.memory_bytes <= 0) return wrong(node.line, what + " needs memory_gib above 0");
  if (node.memory_free > node.memory_bytes) {
    return wrong(node.line, what + " has more memory free than it has; lower memory_free_gib");
  }
  if (node.devices.size() > kDevicesMax) return wrong(node.line, what + " has more than 1,024 devices");
  if (node.nics.size() > kNicsMax) return wrong(node.line, what + " has more than 64 NICs");
  RETURN_IF_ERROR(check_devices(cluster, node));
  std::set<std::string> names;
  for (const Nic& nic : node.nics) {
    RETURN_IF_ERROR(check_nic(node, nic));
    if (!names.insert(nic.name).second) {
      return wrong(nic.line, "two NICs of " + what + " are called " + quoted(nic.name) +
                                 "; with count, put a counter such as <0> into the name");
    }
  }
  return {};
}

// Every node must share a network with another one.
Status check_joined(const Cluster& cluster) {
  const auto speaks = [](const Node& node, NetworkKind network) {
    return std::ranges::any_of(node.nics, [&](const Nic& nic) {
      return nic.up && (nic.network == network || (network == NetworkKind::kTcp && nic.network == NetworkKind::kRoce));
    });
  };
  constexpr NetworkKind kNetworks[] = {NetworkKind::kInfiniBand, NetworkKind::kRoce, NetworkKind::kTcp};
  std::map<NetworkKind, int> speakers;
  for (const Node& node : cluster.nodes) {
    for (const NetworkKind network : kNetworks) speakers[network] += speaks(node, network);
  }
  for (const Node& node : cluster.nodes) {
    const bool joined = std::ranges::any_of(
        kNetworks, [&](NetworkKind network) { return speaks(node, network) && speakers[network] > 1; });
    if (!joined) {
      return wrong(node.line, "nothing joins node " + quoted(node.name) +
                                  " to the others: give it a NIC that is up, of a network that another node has, too");
    }
  }
  return {};
}

}  // namespace

Status validate(const Cluster& cluster) {
  if (cluster.nodes.empty()) return invalid_argument("a cluster needs a node at least");
  if (cluster.nodes.size() > static_cast<size_t>(kNodesMax)) return invalid_argument("a cluster of more than 65,536 nodes");
  const Fabric& fabric = cluster.fabric;
  if (fabric.oversubscription < 1) return invalid_argument("the fabric's oversubscription must be 1 or more");
  if (fabric.latency_us < 0 || fabric.rack_latency_us < 0) {
    return invalid_argument("the fabric's latencies must not be negative");
  }
  RETURN_IF_ERROR(check_kinds(cluster));
  std::map<std::string, int> lines;
  for (const Node& node : cluster.nodes) {
    RETURN_IF_ERROR(check_node(cluster, node));
    const auto [other, fresh] = lines.emplace(node.name, node.line);
    if (fresh) continue;
    const bool counted = node.line > 0 && other->second == node.line;
    return wrong(node.line, "two nodes are called " + quoted(node.name) +
                                (counted ? "; with count, put a counter such as <0> into the name"
                                         : (other->second > 0 ? ", the other" + at_line(other->second) : "") +
                                               "; names must differ"));
  }
  return cluster.nodes.size() > 1 ? check_joined(cluster) : Status();
}

}  // namespace skein
