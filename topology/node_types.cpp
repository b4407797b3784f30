#include "topology/node_types.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "topology/cluster_file.h"
#include "topology/memory.h"

namespace skein {
namespace {

std::string label_of(size_t index) {
  std::string label(1, static_cast<char>('A' + index % 26));
  return index < 26 ? label : label + std::to_string(index / 26);
}

// "GPUs 0 1 2 3" for each domain.
std::string nvlink_text(const Cluster& cluster, const Node& node) {
  std::map<int, std::string> domains;
  for (size_t i = 0; i < node.devices.size(); ++i) {
    const Device& device = node.devices[i];
    if (device.nvlink_domain < 0) continue;
    std::string& text = domains[device.nvlink_domain];
    text += (text.empty() ? "GPUs " : " ") + std::to_string(i);
    const int links = kind_of(cluster, device).nvlinks;
    if (device.nvlinks_up < 0 || device.nvlinks_up >= links) continue;
    text += " (" + std::to_string(device.nvlinks_up) + " of " + std::to_string(links) + " links up)";
  }
  std::string all;
  for (const auto& [domain, text] : domains) all += (all.empty() ? "" : ", ") + text;
  return all;
}

std::string nic_text(const Nic& nic) {
  std::string text = std::string(name(nic.network)) + " " + readable_gbit(nic.bytes_per_s);
  if (nic.rail >= 0) text += ", rail " + std::to_string(nic.rail);
  if (!nic.devices.empty()) text += ", near GPUs";
  for (const int device : nic.devices) text += " " + std::to_string(device);
  return text + (nic.up ? "" : ", down");
}

}  // namespace

std::map<std::string, std::string> hardware_of(const Cluster& cluster, const Node& node) {
  std::map<std::string, std::string> all;
  if (!node.rack.empty()) all["rack"] = node.rack;
  for (const Device& device : node.devices) {
    const DeviceKind& kind = kind_of(cluster, device);
    if (kind.gpu) all["memory of " + kind.name] = readable_bytes(kind.memory_bytes);
    else all["host memory"] = readable_bytes(node.memory_bytes);
  }
  if (std::string nvlink = nvlink_text(cluster, node); !nvlink.empty()) all["NVLink"] = std::move(nvlink);
  for (const Nic& nic : node.nics) all["NIC " + nic.name] = nic_text(nic);
  return all;
}

std::vector<NodeType> node_types(const Cluster& cluster) {
  std::map<std::string, size_t> indices;
  std::vector<NodeType> types;
  for (size_t i = 0; i < cluster.nodes.size(); ++i) {
    Node plain = cluster.nodes[i];
    plain.memory_free = 0;
    for (Device& device : plain.devices) {
      device.pci.clear();
      device.memory_free = 0;
    }
    const auto [entry, fresh] = indices.emplace(body_json(cluster, plain).dump(), types.size());
    if (fresh) types.push_back({.label = label_of(types.size()), .nodes = {}});
    types[entry->second].nodes.push_back(static_cast<int>(i));
  }
  return types;
}

std::vector<RackGroup> rack_groups(const Cluster& cluster, const std::vector<NodeType>& types) {
  std::vector<int> type_of(cluster.nodes.size());
  for (size_t type = 0; type < types.size(); ++type) {
    for (const int node : types[type].nodes) type_of[static_cast<size_t>(node)] = static_cast<int>(type);
  }
  std::vector<std::string> racks;  // in the order of their first nodes
  std::map<std::string, std::vector<RackGroup::Share>> shares;
  for (size_t i = 0; i < cluster.nodes.size(); ++i) {
    const std::string& rack = cluster.nodes[i].rack;
    std::vector<RackGroup::Share>& of_rack = shares[rack];
    if (of_rack.empty()) racks.push_back(rack);
    if (of_rack.empty() || of_rack.back().type != type_of[i]) of_rack.push_back({.type = type_of[i], .nodes = {}});
    of_rack.back().nodes.push_back(static_cast<int>(i));
  }
  std::vector<RackGroup> groups;
  for (const std::string& rack : racks) {
    const auto alike = [&](const RackGroup& group) {
      return std::ranges::equal(group.shares, shares[rack], [](const auto& a, const auto& b) {
        return a.type == b.type && a.nodes.size() == b.nodes.size();
      });
    };
    const auto group = std::ranges::find_if(groups, alike);
    if (group != groups.end()) group->racks.push_back(rack);
    else groups.push_back({.racks = {rack}, .shares = shares[rack]});
  }
  return groups;
}

std::string range_of(const std::vector<std::string>& names) {
  if (names.size() > 2) return names.front() + " .. " + names.back() + " (" + std::to_string(names.size()) + ")";
  return names.size() == 2 ? names[0] + ", " + names[1] : names.at(0);
}

std::string names_of(const Cluster& cluster, const std::vector<int>& nodes) {
  std::vector<std::string> names;
  for (const int node : nodes) names.push_back(cluster.nodes[static_cast<size_t>(node)].name);
  return range_of(names);
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  if (value >= 1000) std::snprintf(text, sizeof text, "%.0f", value);
  return text;
}

std::string readable_rate(double bytes_per_s) {
  return bytes_per_s >= 1e12 ? short_number(bytes_per_s / 1e12) + " TB/s" : short_number(bytes_per_s / 1e9) + " GB/s";
}

std::string readable_flops(double flops) {
  return flops >= 1e12 ? short_number(flops / 1e12) + " TFLOP/s" : short_number(flops / 1e9) + " GFLOP/s";
}

std::string readable_gbit(double bytes_per_s) { return short_number(bytes_per_s * 8 / 1e9) + " Gb/s"; }

}  // namespace skein
