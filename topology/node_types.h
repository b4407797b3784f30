#pragma once

#include <map>
#include <string>
#include <vector>

#include "topology/cluster.h"

namespace skein {

// Nodes that differ in nothing but name, rack, PCI addresses and free memory: pictures and lists show one of them.
struct NodeType {
  std::string label;       // "A", "B", ... "Z", "A1", ...
  std::vector<int> nodes;  // ascending
};

// What a plan depends on beside the kinds of devices, each by a name and in words: "NVLink", "NIC mlx5_0", and
// "host memory" where cores compute.
std::map<std::string, std::string> hardware_of(const Cluster& cluster, const Node& node);

// In the order of their first nodes.
std::vector<NodeType> node_types(const Cluster& cluster);

// Racks with the same types in the same order, as many of each.
struct RackGroup {
  struct Share {
    int type = 0;
    std::vector<int> nodes;  // of the group's first rack
  };
  std::vector<std::string> racks;  // "" for nodes without one
  std::vector<Share> shares;
};

std::vector<RackGroup> rack_groups(const Cluster& cluster, const std::vector<NodeType>& types);

// "a", "a, b", "a .. z (26)"
std::string range_of(const std::vector<std::string>& names);
std::string names_of(const Cluster& cluster, const std::vector<int>& nodes);

// Short figures for people: "4.8 TB/s", "450 GB/s"; "989 TFLOP/s"; "400 Gb/s"; "140.4 GiB".
std::string readable_rate(double bytes_per_s);
std::string readable_flops(double flops);
std::string readable_gbit(double bytes_per_s);
std::string short_number(double value);

}  // namespace skein
