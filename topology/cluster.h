#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace skein {

// The hardware graph: every node of a cluster, its devices, and what joins them. Filled by discovery or from a cluster
// file; the cost model and the planner read nothing else about hardware.

inline constexpr int kNodesMax = 1 << 16;  // of a cluster

// What one kind of device can do, sustained. Zero: not known or none.
struct DeviceKind {
  std::string name;            // as the driver says it: "NVIDIA H200"; of a CPU core, the processor's name
  bool gpu = true;             // false: a core of a CPU; a node's cores share its memory and its read rate
  int64_t memory_bytes = 0;    // of one GPU
  double read_bytes_per_s = 0; // one GPU; of cores, the whole node
  double bf16_flops = 0;       // one GPU; of cores, one core in float32
  double fp8_flops = 0;
  double nvlink_bytes_per_s = 0;  // one direction, to all peers together
  double pcie_bytes_per_s = 0;    // one direction, to the host
  int nvlinks = 0;                // that nvlink_bytes_per_s is the sum of
  std::string source;             // where the figures come from
  int line = 0;                   // of the file that describes it; 0: none
};

struct Device {
  int kind = 0;            // index into Cluster::kinds
  int numa = -1;           // -1: not known
  std::string pci;         // "0000:1b:00.0"; empty: not known
  int nvlink_domain = -1;  // devices of a node with the same number reach each other over NVLink or NVSwitch; -1: none
  int64_t memory_free = 0; // GPUs; 0: not known, all of it is meant
  int nvlinks_up = -1;     // of the kind's nvlinks; -1: all
  int line = 0;            // of the file that describes it; 0: none
  std::array<int, 3> nics = {-1, -1, -1};  // assign_nics(): by NetworkKind, the NIC that its traffic takes; -1: none
};

enum class NetworkKind : uint8_t { kInfiniBand, kRoce, kTcp };

struct Nic {
  std::string name;               // "mlx5_0", "eth0"
  NetworkKind network = NetworkKind::kTcp;
  double bytes_per_s = 0;         // one direction
  int numa = -1;
  int rail = -1;                  // NICs of different nodes with the same rail meet in one switch; -1: no rails
  std::vector<int> devices;       // that it is nearest to (same PCIe switch or socket)
  bool up = true;
  bool rate_assumed = false;      // by discovery, where the interface does not tell
  int line = 0;                   // of the file that describes it; 0: none
};

struct Node {
  std::string name;
  std::string rack;      // failure domain; nodes of a rack meet in one leaf switch
  int cores = 0;
  int64_t memory_bytes = 0;
  int64_t memory_free = 0;  // of the host; 0: not known, all of it is meant
  std::vector<Device> devices;
  std::vector<Nic> nics;
  int line = 0;          // of the file that describes it; 0: none
  bool nics_assigned = false;  // Device::nics holds
};

// What lies between nodes.
struct Fabric {
  double latency_us = 0;         // one way between InfiniBand or RoCE NICs of a rack; 0: not known
  double rack_latency_us = 0;    // added between racks
  double oversubscription = 1;   // bandwidth within a rack over bandwidth per node between racks
};

struct Cluster {
  std::string name;
  std::vector<DeviceKind> kinds;
  std::vector<Node> nodes;
  Fabric fabric;
};

struct DeviceId {
  int node = 0;
  int device = 0;
  bool operator==(const DeviceId&) const = default;
  auto operator<=>(const DeviceId&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14 sees a literal 0
};

inline const DeviceKind& kind_of(const Cluster& cluster, const Device& device) {
  return cluster.kinds[static_cast<size_t>(device.kind)];
}
inline const DeviceKind& kind_of(const Cluster& cluster, DeviceId id) {
  return kind_of(cluster, cluster.nodes[static_cast<size_t>(id.node)].devices[static_cast<size_t>(id.device)]);
}

enum class LinkKind : uint8_t { kSelf, kNvlink, kPcie, kSocket, kMemory, kInfiniBand, kRoce, kTcp };

// The best way from one device to another.
struct Path {
  LinkKind link = LinkKind::kSelf;  // its slowest part; kSocket: PCIe across sockets; kMemory: cores of one node
  double bytes_per_s = 0;
  double latency_us = 0;
  bool same_rail = true;
  bool same_rack = true;
  // Of device and NIC, at the end where they are farther apart. 3: named as nearest; 2: on one socket; 1: not known;
  // 0: across sockets.
  int nearness = 3;
};

// Whether it takes as long on both.
inline bool as_fast(const Path& a, const Path& b) {
  return a.link == b.link && a.bytes_per_s == b.bytes_per_s && a.latency_us == b.latency_us;
}

// nullopt: nothing joins them. A few loads where assign_nics() has run; else the NICs of both nodes are searched.
std::optional<Path> path_between(const Cluster& cluster, DeviceId from, DeviceId to);

// Notes for every device the NIC of each network that is nearest, for path_between(). Call it again when NICs change.
void assign_nics(Cluster* cluster);

// What makes no sense: names given twice, figures that are missing or not positive, indices out of range, a device
// that nothing joins to the others. kInvalidArgument names the node or kind, its line where it has one, and the remedy.
Status validate(const Cluster& cluster);

const char* name(LinkKind link);  // "NVLink", "PCIe", ...
const char* name(NetworkKind network);

}  // namespace skein
