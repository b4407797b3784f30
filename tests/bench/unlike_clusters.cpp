#include "tests/bench/unlike_clusters.h"

#include <algorithm>
#include <random>

namespace skein::bench {
namespace {

using Random = std::mt19937;
constexpr unsigned kSeed = 20261127;

int pick(Random& random, int least, int most) { return std::uniform_int_distribution<int>(least, most)(random); }

// The node without a device: NICs go on naming those behind it.
void remove_device(int device, Node* node) {
  node->devices.erase(node->devices.begin() + device);
  for (Nic& nic : node->nics) {
    std::erase(nic.devices, device);
    for (int& beside : nic.devices) beside -= beside > device ? 1 : 0;
  }
}

}  // namespace

Cluster with_free_memory(Cluster cluster, int least_mib, int most_mib) {
  Random random(kSeed);
  for (Node& node : cluster.nodes) {
    for (Device& device : node.devices) device.memory_free = int64_t{pick(random, least_mib, most_mib)} << 20;
  }
  return cluster;
}

Cluster with_nic_rates(Cluster cluster) {
  Random random(kSeed);
  for (Node& node : cluster.nodes) {
    const double share = pick(random, 9500, 10'000) * 1e-4;
    for (Nic& nic : node.nics) nic.bytes_per_s *= share;
  }
  return cluster;
}

Cluster with_some_devices(Cluster cluster) {
  Random random(kSeed);
  for (Node& node : cluster.nodes) {
    const int count = pick(random, 1, static_cast<int>(node.devices.size()));
    while (std::ssize(node.devices) > count) {
      remove_device(pick(random, 0, static_cast<int>(node.devices.size()) - 1), &node);
    }
  }
  assign_nics(&cluster);
  return cluster;
}

Cluster with_node_types(Cluster cluster, int types) {
  Random random(kSeed);
  const DeviceKind kind = cluster.kinds[0];
  std::vector<Node> nodes;
  for (int type = 0; type < types; ++type) {
    Node node = cluster.nodes[0];
    if (type % 8 == 0 && type > 0) {
      cluster.kinds.push_back(kind);
      cluster.kinds.back().name = kind.name + " of batch " + std::to_string(type / 8);
      cluster.kinds.back().read_bytes_per_s = kind.read_bytes_per_s * pick(random, 80, 100) / 100;
      cluster.kinds.back().bf16_flops = kind.bf16_flops * pick(random, 80, 100) / 100;
      cluster.kinds.back().memory_bytes = kind.memory_bytes - (int64_t{pick(random, 0, 2000)} << 20);
    }
    const int sockets = pick(random, 1, 4);
    for (size_t i = 0; i < node.devices.size(); ++i) {
      node.devices[i].kind = static_cast<int>(cluster.kinds.size()) - 1;
      node.devices[i].numa = static_cast<int>(i) * sockets / static_cast<int>(node.devices.size());
    }
    if (pick(random, 0, 3) == 0) node.devices[static_cast<size_t>(pick(random, 0, 7))].nvlinks_up = pick(random, 9, 17);
    if (pick(random, 0, 1) == 0) node.nics[static_cast<size_t>(pick(random, 0, 7))].up = false;
    const double rate = pick(random, 1, 4) * 12.5e9;
    for (Nic& nic : node.nics) nic.bytes_per_s = nic.network == NetworkKind::kTcp ? nic.bytes_per_s : rate;
    nodes.push_back(node);
  }
  for (Node& node : cluster.nodes) {
    const Node& type = nodes[static_cast<size_t>(pick(random, 0, types - 1))];
    node.devices = type.devices;
    node.nics = type.nics;
  }
  assign_nics(&cluster);
  return cluster;
}

}  // namespace skein::bench
