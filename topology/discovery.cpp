#include "topology/discovery.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/node_name.h"
#include "topology/device_kinds.h"
#include "topology/machine.h"
#include "topology/nics.h"

namespace skein {
namespace {

std::string host_name() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  const std::string_view full(name);
  const std::string first(full.substr(0, full.find('.')));
  return check_node_name(first).ok() ? first : "here";
}

// Cores of a list such as "0-55,112-167".
int count_of(const std::string& list) {
  int count = 0;
  const char* at = list.data();
  const char* const end = at + list.size();
  while (at < end) {
    int first = 0;
    int last = 0;
    auto parsed = std::from_chars(at, end, first);
    if (parsed.ec != std::errc()) return 0;
    last = first;
    if (parsed.ptr < end && *parsed.ptr == '-') parsed = std::from_chars(parsed.ptr + 1, end, last);
    if (parsed.ec != std::errc() || last < first) return 0;
    count += last - first + 1;
    at = parsed.ptr < end ? parsed.ptr + 1 : end;
  }
  return count;
}

// By core, its NUMA node, where the process may use all of the machine's; else nothing is known.
std::vector<int> numa_of_cores(const Sysfs& sysfs, int cores) {
  std::vector<int> numa;
  for (const std::string& name : sysfs.names("devices/system/node")) {
    int node = 0;
    const char* const end = name.data() + name.size();
    if (!name.starts_with("node") || std::from_chars(name.data() + 4, end, node).ptr != end || name.size() == 4) continue;
    const int count = count_of(sysfs.text("devices/system/node/" + name + "/cpulist"));
    numa.insert(numa.end(), static_cast<size_t>(count), node);
  }
  if (static_cast<int>(numa.size()) != cores) numa.assign(static_cast<size_t>(cores), -1);
  return numa;
}

// GPUs that reach each other over NVLink, directly or over another one, get the number of the first of them.
std::vector<int> nvlink_domains(const std::vector<Gpu>& gpus) {
  std::vector<int> first(gpus.size());
  std::iota(first.begin(), first.end(), 0);
  const auto root = [&](int gpu) {
    while (first[static_cast<size_t>(gpu)] != gpu) gpu = first[static_cast<size_t>(gpu)];
    return gpu;
  };
  std::vector<bool> joined(gpus.size());
  for (size_t i = 0; i < gpus.size(); ++i) {
    for (const int peer : gpus[i].nvlink_peers) {
      const int a = root(static_cast<int>(i));
      const int b = root(peer);
      first[static_cast<size_t>(std::max(a, b))] = std::min(a, b);
      joined[i] = joined[static_cast<size_t>(peer)] = true;
    }
  }
  std::vector<int> domains(gpus.size(), -1);
  for (size_t i = 0; i < gpus.size(); ++i) {
    if (joined[i]) domains[i] = root(static_cast<int>(i));
  }
  return domains;
}

// Bytes a second of one lane, one direction.
double lane_rate(int generation) {
  constexpr double kRates[] = {0, 0.25e9, 0.5e9, 0.985e9, 1.97e9, 3.94e9, 7.56e9};
  return generation > 0 && generation < static_cast<int>(std::size(kRates)) ? kRates[generation] : 0;
}

constexpr double kSlotShare = 0.5;
constexpr double kCoherentRate = 200e9;  // beyond: the host is joined by NVLink-C2C, not by a slot

class Discoverer {
 public:
  Discoverer(const std::vector<DeviceKind>& kinds, const DiscoveryRoots& roots)
      : described_(kinds), roots_(roots), sysfs_(roots.sysfs), dev_(roots.dev) {}

  Discovery run() {
    const Machine machine = discover_machine(roots_.nvml.c_str());
    node_.name = host_name();
    node_.cores = machine.cores;
    node_.memory_bytes = machine.memory_total_bytes;
    discovery_.notes = machine.gpu_faults;
    if (machine.gpus.empty()) add_cores(machine);
    else add_gpus(machine.gpus);
    std::vector<std::string> pci;
    for (const Device& device : node_.devices) pci.push_back(device.pci);
    node_.nics = discover_nics(sysfs_, pci);
    note_rdma();
    discovery_.cluster.name = node_.name;
    discovery_.cluster.nodes.push_back(std::move(node_));
    assign_nics(&discovery_.cluster);
    return std::move(discovery_);
  }

 private:
  void add_cores(const Machine& machine) {
    const auto described = std::ranges::find(described_, machine.processor, &DeviceKind::name);
    discovery_.cluster.kinds.push_back(described != described_.end() ? *described : guessed_cores(machine.processor));
    for (const int numa : numa_of_cores(sysfs_, machine.cores)) node_.devices.push_back({.numa = numa, .pci = {}});
  }

  void add_gpus(const std::vector<Gpu>& gpus) {
    const std::vector<int> domains = nvlink_domains(gpus);
    for (size_t i = 0; i < gpus.size(); ++i) {
      const Gpu& gpu = gpus[i];
      Device device;
      device.kind = kind_index(gpu);
      device.numa = numa_of(sysfs_, gpu.pci);
      device.pci = gpu.pci;
      device.nvlink_domain = domains[i];
      device.memory_free = gpu.memory_free;
      if (gpu.nvlinks > 0) device.nvlinks_up = gpu.nvlinks_up;
      node_.devices.push_back(std::move(device));
      note_gpu(gpus, i);
    }
  }

  int kind_index(const Gpu& gpu) {
    std::vector<DeviceKind>& kinds = discovery_.cluster.kinds;
    const auto there = std::ranges::find(kinds, gpu.name, &DeviceKind::name);
    if (there != kinds.end()) return static_cast<int>(there - kinds.begin());
    const auto described = std::ranges::find(described_, gpu.name, &DeviceKind::name);
    const DeviceKind* known = described != described_.end() ? &*described : find_known_gpu(gpu.name);
    DeviceKind kind;
    if (known != nullptr) kind = *known;
    else discovery_.notes.push_back(unknown_gpu(gpu.name));
    kind.name = gpu.name;
    kind.memory_bytes = gpu.memory_total;
    kind.nvlinks = std::max(kind.nvlinks, gpu.nvlinks);
    kinds.push_back(std::move(kind));
    return static_cast<int>(kinds.size()) - 1;
  }

  void note_gpu(const std::vector<Gpu>& gpus, size_t index) {
    const Gpu& gpu = gpus[index];
    const std::string what = gpu_name(gpus, index, nullptr);
    const double slot = lane_rate(gpu.pcie_generation) * gpu.pcie_lanes;
    const double card = kind_of(discovery_.cluster, node_.devices[index]).pcie_bytes_per_s;
    if (slot > 0 && slot < kSlotShare * card && card < kCoherentRate) {
      discovery_.notes.push_back("the slot of " + what + " has " + std::to_string(gpu.pcie_lanes) + " lanes of PCIe " +
                                 std::to_string(gpu.pcie_generation) +
                                 ", less than half of what the card takes: move it to a wider one if it should load fast");
    }
    if (gpu.fabric == NvSwitchFabric::kStarting || gpu.fabric == NvSwitchFabric::kFailed) {
      discovery_.notes.push_back(what + " is not part of the NVSwitch fabric (Fabric Manager says " +
                                 (gpu.fabric == NvSwitchFabric::kStarting ? "not yet" : "failed") +
                                 "): start nvidia-fabricmanager, or CUDA will refuse to run on it");
    }
    if (gpu.memory_peers.size() + 1 < gpus.size()) {
      discovery_.notes.push_back(what + " can address the memory of " + std::to_string(gpu.memory_peers.size()) + " of " +
                                 std::to_string(gpus.size() - 1) + " other GPUs: sums with the rest go through the host's "
                                 "memory; look at IOMMU and ACS settings");
    }
  }

  // NCCL needs the verbs' device files, and falls back to TCP without a word where they are missing.
  void note_rdma() {
    const auto is_rdma = [](const Nic& nic) { return nic.network != NetworkKind::kTcp; };
    const auto is_verbs = [](const std::string& name) { return name.starts_with("uverbs"); };
    if (std::ranges::any_of(node_.nics, is_rdma) && std::ranges::none_of(dev_.names("infiniband"), is_verbs)) {
      discovery_.notes.push_back("there are InfiniBand or RoCE ports but no " + roots_.dev +
                                 "/infiniband/uverbs*: NCCL would use TCP without saying so; give this container the "
                                 "device files, or load ib_uverbs");
    }
  }

  const std::vector<DeviceKind>& described_;
  const DiscoveryRoots& roots_;
  const Sysfs sysfs_;
  const Sysfs dev_;
  Node node_;
  Discovery discovery_;
};

}  // namespace

Discovery discover(const std::vector<DeviceKind>& kinds, const DiscoveryRoots& roots) {
  return Discoverer(kinds, roots).run();
}

}  // namespace skein
