#include "topology/cluster_text.h"

#include <algorithm>
#include <climits>
#include <map>
#include <tuple>

#include "topology/memory.h"
#include "topology/node_types.h"

namespace skein {
namespace {

std::string padded(const std::string& text, size_t width) {
  return text.size() < width ? text + std::string(width - text.size(), ' ') : text;
}

std::string right(const std::string& text, size_t width) {
  return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

std::string counted(size_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

std::string device_name(const Cluster& cluster, const Device& device, size_t index) {
  return (kind_of(cluster, device).gpu ? "gpu" : "core") + std::to_string(index);
}

std::string figures_of(const DeviceKind& kind) {
  std::string text;
  if (kind.memory_bytes > 0) text += readable_bytes(kind.memory_bytes) + ", ";
  if (kind.read_bytes_per_s <= 0) return text + "no figures known";
  text += "reads " + readable_rate(kind.read_bytes_per_s) + (kind.gpu ? "" : " with all cores of a node");
  text += ", " + readable_flops(kind.bf16_flops) + (kind.gpu ? " bf16" : " a core");
  if (kind.fp8_flops > 0) text += ", " + readable_flops(kind.fp8_flops) + " fp8";
  if (kind.nvlink_bytes_per_s > 0) text += ", NVLink " + readable_rate(kind.nvlink_bytes_per_s);
  if (kind.pcie_bytes_per_s > 0) text += ", PCIe " + readable_rate(kind.pcie_bytes_per_s);
  return text + (kind.source.empty() ? "" : " (" + kind.source + ")");
}

std::string describe_nic(const Nic& nic) {
  std::string text = nic.name + "  " + name(nic.network) + " " + readable_gbit(nic.bytes_per_s);
  if (nic.rate_assumed) text += " (assumed: it does not tell)";
  if (nic.rail >= 0) text += ", rail " + std::to_string(nic.rail);
  return nic.up ? text : text + ", DOWN";
}

// The tree of one node below its title: sockets, their devices, and the NICs beside these or else by themselves.
class Tree {
 public:
  Tree(const Cluster& cluster, const Node& node) : cluster_(cluster), node_(node) {}

  std::string text() {
    Sockets sockets;
    add_devices(&sockets);
    for (const Nic& nic : node_.nics) {
      const bool beside = nic.devices.size() == 1 && nic.network != NetworkKind::kTcp;
      if (!beside) sockets[place_of(nic.numa)].push_back(describe_nic(nic));
    }
    std::string out;
    for (auto socket = sockets.begin(); socket != sockets.end(); ++socket) {
      const bool last = std::next(socket) == sockets.end();
      const bool known = socket->first != kNowhere;
      out += std::string(last ? "└─ " : "├─ ") + (known ? "NUMA " + std::to_string(socket->first) : "no NUMA node told") +
             "\n";
      for (size_t i = 0; i < socket->second.size(); ++i) {
        out += std::string(last ? "   " : "│  ") + (i + 1 == socket->second.size() ? "└─ " : "├─ ");
        out += socket->second[i] + "\n";
      }
    }
    return out;
  }

 private:
  using Sockets = std::map<unsigned, std::vector<std::string>>;  // by NUMA node
  static constexpr unsigned kNowhere = UINT_MAX;                 // where none is told: comes last
  static unsigned place_of(int numa) { return numa < 0 ? kNowhere : static_cast<unsigned>(numa); }

  void add_devices(Sockets* sockets) {
    for (size_t i = 0; i < node_.devices.size();) {
      const Device& device = node_.devices[i];
      const size_t first = i++;
      if (kind_of(cluster_, device).gpu) {
        (*sockets)[place_of(device.numa)].push_back(describe_gpu(device, first));
        continue;
      }
      const auto alike = [&](const Device& next) { return next.kind == device.kind && next.numa == device.numa; };
      while (i < node_.devices.size() && alike(node_.devices[i])) ++i;
      (*sockets)[place_of(device.numa)].push_back((i - first == 1 ? "core" : "core" + std::to_string(first) + " .. core") +
                                        std::to_string(i - 1) + "  " + kind_of(cluster_, device).name);
    }
  }

  std::string describe_gpu(const Device& device, size_t index) const {
    const DeviceKind& kind = kind_of(cluster_, device);
    std::string text = padded(device_name(cluster_, device, index), 5) + "  " + kind.name;
    if (device.nvlink_domain >= 0) text += "  NVLink domain " + std::to_string(device.nvlink_domain);
    if (device.nvlinks_up >= 0 && device.nvlinks_up < kind.nvlinks) {
      text += " (" + std::to_string(device.nvlinks_up) + " of " + std::to_string(kind.nvlinks) + " links up)";
    }
    if (!device.pci.empty()) text += "  " + device.pci;
    if (device.memory_free > 0) text += "  " + readable_bytes(device.memory_free) + " free";
    for (const Nic& nic : node_.nics) {
      if (nic.network == NetworkKind::kTcp || nic.devices.size() != 1) continue;
      if (nic.devices.front() == static_cast<int>(index)) text += "  beside " + describe_nic(nic);
    }
    return text;
  }

  const Cluster& cluster_;
  const Node& node_;
};

const char* mark_of(LinkKind link) {
  switch (link) {
    case LinkKind::kNvlink: return "NV";
    case LinkKind::kPcie: return "PCI";
    case LinkKind::kSocket: return "SOC";
    default: return "";
  }
}

// How a device and a NIC lie to each other.
std::string nic_cell(const Node& node, size_t device, size_t nic) {
  const Nic& card = node.nics[nic];
  if (!card.up) return "down";
  const int numa = node.devices[device].numa;
  std::string cell = "-";
  if (std::ranges::find(card.devices, static_cast<int>(device)) != card.devices.end()) cell = "next";
  else if (numa >= 0 && card.numa >= 0) cell = numa == card.numa ? "near" : "far";
  const auto& taken = node.devices[device].nics;
  return std::ranges::find(taken, static_cast<int>(nic)) != taken.end() ? cell + "*" : cell;
}

std::string matrix_of(const Cluster& cluster, int index) {
  const Node& node = cluster.nodes[static_cast<size_t>(index)];
  const size_t count = node.devices.size();
  std::vector<std::vector<std::string>> rows(count + 1);
  rows[0].push_back("");
  for (size_t i = 0; i < count; ++i) rows[0].push_back(device_name(cluster, node.devices[i], i));
  for (const Nic& nic : node.nics) rows[0].push_back(nic.name);
  for (size_t i = 0; i < count; ++i) {
    rows[i + 1].push_back(rows[0][i + 1]);
    for (size_t j = 0; j < count; ++j) {
      const auto path = path_between(cluster, {index, static_cast<int>(i)}, {index, static_cast<int>(j)});
      rows[i + 1].push_back(i == j ? "·" : mark_of(path->link) + (" " + short_number(path->bytes_per_s / 1e9)));
    }
    for (size_t nic = 0; nic < node.nics.size(); ++nic) rows[i + 1].push_back(nic_cell(node, i, nic));
  }
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i] == "·" ? 1 : row[i].size());
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line = "  ";
    for (size_t i = 0; i < row.size(); ++i) {
      if (i == 0) line += padded(row[i], widths[i]);
      else line += "  " + (row[i] == "·" ? std::string(widths[i] - 1, ' ') + "·" : right(row[i], widths[i]));
    }
    out += line + "\n";
  }
  return out;
}

std::string describe_type(const Cluster& cluster, const NodeType& type) {
  const int first = type.nodes.front();
  const Node& node = cluster.nodes[static_cast<size_t>(first)];
  std::string out = "\nnode type " + type.label + ": " + names_of(cluster, type.nodes) + "\n" +
                    counted(static_cast<size_t>(node.cores), "core") + ", " + readable_bytes(node.memory_bytes) + "\n" +
                    Tree(cluster, node).text();
  const bool gpus = std::ranges::any_of(node.devices, [&](const Device& d) { return kind_of(cluster, d).gpu; });
  if (!gpus || node.devices.size() < 2) return out;
  return out + "\n" + matrix_of(cluster, first);
}

// Two different nodes of these types in one rack, or in two; nothing if there are none.
std::optional<std::pair<int, int>> example(const Cluster& cluster, const NodeType& a, const NodeType& b,
                                           bool one_rack) {
  std::map<std::string, std::vector<int>> racks;  // of b, two nodes at most
  for (const int node : b.nodes) {
    std::vector<int>& nodes = racks[cluster.nodes[static_cast<size_t>(node)].rack];
    if (nodes.size() < 2) nodes.push_back(node);
  }
  for (const int node : a.nodes) {
    const std::string& mine = cluster.nodes[static_cast<size_t>(node)].rack;
    for (const auto& [rack, others] : racks) {
      if ((rack == mine) != one_rack) continue;
      const auto other = std::ranges::find_if(others, [&](int candidate) { return candidate != node; });
      if (other != others.end()) return std::pair(node, *other);
    }
  }
  return std::nullopt;
}

// Each way between nodes once, with the types that it joins.
std::string describe_network(const Cluster& cluster, const std::vector<NodeType>& types) {
  std::vector<std::pair<std::string, std::string>> ways;  // figures, pairs of types
  const auto add = [&](const std::string& figures, const std::string& pair) {
    const auto way = std::ranges::find(ways, figures, &std::pair<std::string, std::string>::first);
    if (way == ways.end()) ways.emplace_back(figures, pair);
    else if (way->second.find(pair) == std::string::npos) way->second += ", " + pair;
  };
  for (size_t a = 0; a < types.size(); ++a) {
    for (size_t b = a; b < types.size(); ++b) {
      for (const bool one_rack : {true, false}) {
        const auto nodes = example(cluster, types[a], types[b], one_rack);
        const std::string pair = types[a].label + "-" + types[b].label;
        const size_t devices = nodes ? cluster.nodes[static_cast<size_t>(nodes->second)].devices.size() : 0;
        if (devices == 0 || cluster.nodes[static_cast<size_t>(nodes->first)].devices.empty()) continue;
        for (size_t device = 0; device < devices; ++device) {
          const auto path = path_between(cluster, {nodes->first, 0}, {nodes->second, static_cast<int>(device)});
          const std::string where = padded(std::string(path && path->same_rack ? "same rack" : "other rack") +
                                               (path && !path->same_rail ? ", other rail" : ""), 24);
          if (!path) add(padded("", 24) + "nothing", pair);
          else add(where + padded(name(path->link), 12) + right(short_number(path->bytes_per_s / 1e9), 5) + " GB/s  " +
                       right(short_number(path->latency_us), 4) + " us", pair);
        }
      }
    }
  }
  std::string out = ways.empty() ? "" : "\nbetween nodes, one way\n";
  for (const auto& [figures, pairs] : ways) out += "  " + padded(figures, 55) + "  " + pairs + "\n";
  return out;
}

std::string describe_racks(const Cluster& cluster, const std::vector<NodeType>& types) {
  std::string out;
  for (const RackGroup& group : rack_groups(cluster, types)) {
    std::string line = padded(group.racks.front().empty() ? "no rack" : "rack " + range_of(group.racks), 32);
    for (const RackGroup::Share& share : group.shares) {
      line += "  " + std::to_string(share.nodes.size()) + " x " + types[static_cast<size_t>(share.type)].label;
      if (group.racks.size() == 1) line += " " + names_of(cluster, share.nodes);
    }
    out += "  " + line + (group.racks.size() > 1 ? " each" : "") + "\n";
  }
  return out;
}

}  // namespace

std::string describe(const Cluster& cluster) {
  const std::vector<NodeType> types = node_types(cluster);
  std::map<int, size_t> devices;  // by kind
  for (const Node& node : cluster.nodes) {
    for (const Device& device : node.devices) ++devices[device.kind];
  }
  std::string out = (cluster.name.empty() ? "cluster" : cluster.name) + ": " + counted(cluster.nodes.size(), "node") + "\n";
  for (const auto& [index, count] : devices) {
    const DeviceKind& kind = cluster.kinds[static_cast<size_t>(index)];
    out += "  " + std::to_string(count) + " x " + kind.name + ": " + figures_of(kind) + "\n";
  }
  if (cluster.nodes.size() > 1) {
    out += describe_racks(cluster, types);
    if (cluster.fabric.oversubscription > 1) {
      out += "  the spine is oversubscribed " + short_number(cluster.fabric.oversubscription) + " to 1\n";
    }
  }
  bool matrices = false;
  for (const NodeType& type : types) {
    const std::string text = describe_type(cluster, type);
    matrices |= text.find("·") != std::string::npos;
    out += text;
  }
  out += describe_network(cluster, types);
  if (matrices) {
    out += "\nGB/s one way. NV: NVLink, PCI: PCIe, SOC: PCIe across sockets. NICs: next to the device (same PCIe switch), "
           "near (same\nsocket), far (across sockets); *: its traffic to other nodes takes this one\n";
  }
  return out;
}

}  // namespace skein
