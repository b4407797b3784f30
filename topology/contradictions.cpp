#include "topology/contradictions.h"

#include <algorithm>
#include <cstdio>
#include <map>

namespace skein {
namespace {

constexpr double kMemoryShare = 0.9;  // less than so much of what a file says is a difference: firmware keeps some
constexpr double kRateShare = 0.95;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

std::string gbit(double bytes_per_s) { return number(bytes_per_s * 8 / 1e9) + " Gb/s"; }
std::string gib(int64_t bytes) { return number(static_cast<double>(bytes) / (1 << 30)) + " GiB"; }

// Cards whose NVLink is a bridge that may or may not have been bought.
bool bridged(const DeviceKind& kind) {
  return kind.name.find("PCI") != std::string::npos || kind.name.find("NVL") != std::string::npos;
}

std::string list_of(const std::vector<int>& numbers) {
  std::string text;
  for (const int value : numbers) text += (text.empty() ? "" : ", ") + std::to_string(value);
  return text;
}

void doubt_nvlink(const Cluster& cluster, const Node& node, std::vector<std::string>* doubts) {
  std::map<int, std::map<int, std::vector<int>>> domains;  // by kind and domain, the devices
  for (size_t i = 0; i < node.devices.size(); ++i) {
    const Device& device = node.devices[i];
    const DeviceKind& kind = kind_of(cluster, device);
    if (kind.nvlink_bytes_per_s <= 0) continue;
    domains[device.kind][device.nvlink_domain].push_back(static_cast<int>(i));
    if (device.nvlink_domain >= 0 && device.nvlinks_up >= 0 && device.nvlinks_up < kind.nvlinks) {
      doubts->push_back("device " + std::to_string(i) + " has " + std::to_string(device.nvlinks_up) + " of " +
                        std::to_string(kind.nvlinks) + " NVLinks up: sums with it are slower by as much; look at "
                        "`nvidia-smi nvlink -s` and the kernel's log for its errors");
    }
  }
  for (const auto& [kind, of_kind] : domains) {
    const DeviceKind& described = cluster.kinds[static_cast<size_t>(kind)];
    size_t devices = 0;
    for (const auto& [domain, members] : of_kind) devices += members.size();
    if (bridged(described) || devices < 2) continue;
    if (const auto alone = of_kind.find(-1); alone != of_kind.end()) {
      doubts->push_back("NVLink is missing: of " + std::to_string(devices) + " x " + described.name + " " +
                        (alone->second.size() == 1 ? "device " : "devices ") + list_of(alone->second) +
                        (alone->second.size() == 1 ? " reaches" : " reach") +
                        " no other over it; is Fabric Manager running, and are all GPUs of the board visible?");
    } else if (of_kind.size() > 1) {
      doubts->push_back("the " + described.name + " of this node are in " + std::to_string(of_kind.size()) +
                        " NVLink domains that only PCIe joins: keep tensor parallelism within one");
    }
  }
}

void doubt_nics(const Cluster& cluster, const Node& node, std::vector<std::string>* doubts) {
  const auto is_rdma = [](const Nic& nic) { return nic.network != NetworkKind::kTcp; };
  for (const Nic& nic : node.nics) {
    if (!nic.up && is_rdma(nic)) {
      doubts->push_back("the " + std::string(name(nic.network)) + " port " + nic.name +
                        " is down: traffic of the GPUs beside it takes another one; look at its cable and switch port");
    }
  }
  const bool gpus = std::ranges::any_of(node.devices, [&](const Device& d) { return kind_of(cluster, d).gpu; });
  if (!gpus) return;
  const bool rdma = std::ranges::any_of(node.nics, [&](const Nic& nic) { return nic.up && is_rdma(nic); });
  if (!rdma && (cluster.nodes.size() > 1 || std::ranges::any_of(node.nics, is_rdma))) {
    doubts->push_back("no InfiniBand or RoCE port is up: NCCL would use TCP to other nodes without saying so");
    return;
  }
  std::map<std::string, std::vector<int>> across;  // by NIC, the devices that reach it over the other socket
  for (size_t i = 0; i < node.devices.size(); ++i) {
    const Device& device = node.devices[i];
    for (const NetworkKind network : {NetworkKind::kInfiniBand, NetworkKind::kRoce}) {
      const int index = device.nics[static_cast<size_t>(network)];
      if (index < 0) continue;
      const Nic& nic = node.nics[static_cast<size_t>(index)];
      if (device.numa >= 0 && nic.numa >= 0 && device.numa != nic.numa) across[nic.name].push_back(static_cast<int>(i));
      break;
    }
  }
  for (const auto& [nic, devices] : across) {
    doubts->push_back((devices.size() == 1 ? "device " : "devices ") + list_of(devices) + " reach" +
                      (devices.size() == 1 ? "es " : " ") + nic +
                      " across sockets: no port that is up is on their side; move the card, or keep pipeline stages "
                      "that end here off these devices");
  }
}

class Comparison {
 public:
  Comparison(const Cluster& described, int node, const Cluster& found)
      : described_(described),
        said_(described.nodes[static_cast<size_t>(node)]),
        found_(found),
        seen_(found.nodes.front()) {}

  std::vector<std::string> run() {
    if (said_.cores != seen_.cores) {
      differ("says " + std::to_string(said_.cores) + " cores; this process may use " + std::to_string(seen_.cores));
    }
    if (static_cast<double>(seen_.memory_bytes) < kMemoryShare * static_cast<double>(said_.memory_bytes)) {
      differ("says " + gib(said_.memory_bytes) + " of memory; there are " + gib(seen_.memory_bytes));
    }
    compare_devices();
    compare_domains();
    for (const Nic& nic : said_.nics) compare_nic(nic);
    for (const Nic& nic : seen_.nics) {
      const bool said = std::ranges::find(said_.nics, nic.name, &Nic::name) != said_.nics.end();
      if (nic.up && nic.network != NetworkKind::kTcp && !said) {
        differ("does not have " + nic.name + " (" + name(nic.network) + ", " + gbit(nic.bytes_per_s) + ")");
      }
    }
    return std::move(found_differences_);
  }

 private:
  void differ(const std::string& what, int line = 0) {
    if (line == 0) line = said_.line;
    found_differences_.push_back((line > 0 ? "line " + std::to_string(line) + " " : "the description ") + what);
  }

  void compare_devices() {
    if (said_.devices.size() != seen_.devices.size()) {
      differ("says " + std::to_string(said_.devices.size()) + (said_.devices.size() == 1 ? " device" : " devices") + "; there are " +
             std::to_string(seen_.devices.size()));
    }
    const size_t count = std::min(said_.devices.size(), seen_.devices.size());
    for (size_t i = 0; i < count; ++i) compare_device(static_cast<int>(i), said_.devices[i], seen_.devices[i]);
    for (const auto& [what, devices] : of_devices_) {
      differ("says that " + std::string(devices.size() == 1 ? "device " : "devices ") + list_of(devices) + " " +
                 what.second,
             what.first);
    }
  }

  void compare_device(int index, const Device& said, const Device& seen) {
    const auto tell = [&](const std::string& what) { of_devices_[{said.line, what}].push_back(index); };
    const DeviceKind& kind = kind_of(described_, said);
    const DeviceKind& there = kind_of(found_, seen);
    const double memory = static_cast<double>(kind.memory_bytes);
    if (kind.name != there.name) {
      tell("should be " + kind.name + "; found " + there.name);
    } else if (kind.gpu && static_cast<double>(there.memory_bytes) < kMemoryShare * memory) {
      tell("should have " + gib(kind.memory_bytes) + "; found " + gib(there.memory_bytes));
    }
    if (said.numa >= 0 && seen.numa >= 0 && said.numa != seen.numa) {
      tell("should be on NUMA node " + std::to_string(said.numa) + "; found on " + std::to_string(seen.numa));
    }
    if (!said.pci.empty() && !seen.pci.empty() && said.pci != seen.pci) {
      tell("should be at " + said.pci + "; found at " + seen.pci);
    }
  }

  // By who is joined to whom: the numbers of domains mean nothing by themselves.
  void compare_domains() {
    std::map<int, std::vector<int>> said;  // by domain
    for (size_t i = 0; i < std::min(said_.devices.size(), seen_.devices.size()); ++i) {
      const int domain = said_.devices[i].nvlink_domain;
      const bool same = kind_of(described_, said_.devices[i]).name == kind_of(found_, seen_.devices[i]).name;
      if (same && domain >= 0) said[domain].push_back(static_cast<int>(i));
    }
    for (const auto& [domain, members] : said) {
      std::map<int, std::vector<int>> parts;
      for (const int device : members) {
        const int seen = seen_.devices[static_cast<size_t>(device)].nvlink_domain;
        parts[seen >= 0 ? seen : -1 - device].push_back(device);  // one that is joined to none is a part by itself
      }
      if (parts.size() == 1) continue;
      std::string text;
      for (const auto& [seen, part] : parts) text += (text.empty() ? "[" : " [") + list_of(part) + "]";
      const bool none = parts.size() == members.size();
      differ("says that NVLink joins devices " + list_of(members) +
                 (none ? "; it joins none of them" : "; it joins them as " + text),
             said_.devices[static_cast<size_t>(members.front())].line);
    }
  }

  void compare_nic(const Nic& said) {
    const auto seen = std::ranges::find(seen_.nics, said.name, &Nic::name);
    const std::string what = "says that " + said.name + " is ";
    if (seen == seen_.nics.end()) {
      if (said.up) differ(what + name(said.network) + " at " + gbit(said.bytes_per_s) + "; there is no " + said.name, said.line);
      return;
    }
    if (said.up && !seen->up) {
      differ(what + "up; its link is down", said.line);
      return;
    }
    if (said.network != seen->network) {
      differ(what + name(said.network) + "; it is " + name(seen->network), said.line);
    }
    if (seen->up && !seen->rate_assumed && seen->bytes_per_s < kRateShare * said.bytes_per_s) {
      differ(what + "at " + gbit(said.bytes_per_s) + "; its link runs at " + gbit(seen->bytes_per_s), said.line);
    }
    if (said.numa >= 0 && seen->numa >= 0 && said.numa != seen->numa) {
      differ(what + "on NUMA node " + std::to_string(said.numa) + "; it is on " + std::to_string(seen->numa), said.line);
    }
    const auto far = [&](int device) { return std::ranges::find(seen->devices, device) == seen->devices.end(); };
    if (!said.devices.empty() && !seen->devices.empty() && std::ranges::any_of(said.devices, far)) {
      differ(what + "nearest to device " + list_of(said.devices) + "; it is nearest to " + list_of(seen->devices), said.line);
    }
  }

  const Cluster& described_;
  const Node& said_;
  const Cluster& found_;
  const Node& seen_;
  std::map<std::pair<int, std::string>, std::vector<int>> of_devices_;  // by line and what is wrong
  std::vector<std::string> found_differences_;
};

}  // namespace

std::vector<std::string> doubts(const Cluster& cluster, int node) {
  std::vector<std::string> all;
  const Node& there = cluster.nodes[static_cast<size_t>(node)];
  doubt_nvlink(cluster, there, &all);
  doubt_nics(cluster, there, &all);
  return all;
}

std::vector<std::string> differences(const Cluster& described, int node, const Cluster& found) {
  return Comparison(described, node, found).run();
}

int find_node(const Cluster& cluster, const std::string& name) {
  const auto found = std::ranges::find(cluster.nodes, name, &Node::name);
  return found == cluster.nodes.end() ? -1 : static_cast<int>(found - cluster.nodes.begin());
}

}  // namespace skein
