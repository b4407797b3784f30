#include "topology/network_links.h"

#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "topology/node_types.h"
#include "topology/shapes.h"

namespace skein {
namespace {

class LinkSearch {
 public:
  explicit LinkSearch(const Cluster& cluster) : cluster_(cluster), type_of_(cluster.nodes.size()) {
    const std::vector<NodeType> types = node_types(cluster);
    for (size_t type = 0; type < types.size(); ++type) {
      for (const int node : types[type].nodes) type_of_[static_cast<size_t>(node)] = type;
    }
  }

  std::vector<NetworkLink> run() {
    const auto nodes = static_cast<int>(cluster_.nodes.size());
    for (int from = 0; from < nodes; ++from) {
      for (int to = 0; to < nodes; ++to) {
        if (from != to && pairs_.insert(kind_of_pair(from, to)).second) look_between(from, to);
      }
    }
    return std::move(links_);
  }

 private:
  // All pairs of nodes for which it is equal have the same ways between their devices.
  std::tuple<size_t, size_t, bool> kind_of_pair(int from, int to) const {
    return {type_of_[static_cast<size_t>(from)], type_of_[static_cast<size_t>(to)], node(from).rack == node(to).rack};
  }

  void look_between(int from, int to) {
    for (const int a : ends_of(from)) {
      for (const int b : ends_of(to)) add({.node = from, .device = a}, {.node = to, .device = b});
    }
  }

  void add(DeviceId from, DeviceId to) {
    const DeviceKind& sender = kind_of(cluster_, from);
    if (sender.gpu != kind_of(cluster_, to).gpu) return;
    const std::optional<Path> path = path_between(cluster_, from, to);
    if (!path || !ways_.emplace(sender.name, path_key(*path)).second) return;
    links_.push_back({.from = from, .to = to, .path = *path});
  }

  std::vector<int> ends_of(int index) const {
    std::vector<int> ends;
    const std::vector<Device>& devices = node(index).devices;
    for (size_t i = 0; i < devices.size(); ++i) {
      const DeviceKind& kind = kind_of(cluster_, devices[i]);
      if (backend_runs_on(kind) && (kind.gpu || i == 0)) ends.push_back(static_cast<int>(i));
    }
    return ends;
  }

  const Node& node(int index) const { return cluster_.nodes[static_cast<size_t>(index)]; }

  const Cluster& cluster_;
  std::vector<size_t> type_of_;                        // by node
  std::set<std::tuple<size_t, size_t, bool>> pairs_;   // of nodes that were looked at
  std::set<std::pair<std::string, std::string>> ways_;  // by sender
  std::vector<NetworkLink> links_;
};

}  // namespace

std::vector<NetworkLink> links_between_nodes(const Cluster& cluster) { return LinkSearch(cluster).run(); }

}  // namespace skein
