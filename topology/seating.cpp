#include "topology/seating.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "base/check.h"

namespace skein {
namespace {

// The rail of the NIC next to a device; -1: none.
int rail_of(const Node& node, int device) {
  for (const Nic& nic : node.nics) {
    if (nic.up && nic.rail >= 0 && std::ranges::find(nic.devices, device) != nic.devices.end()) return nic.rail;
  }
  return -1;
}

int index_of(std::map<std::string, int>* indices, const std::string& text) {
  return indices->try_emplace(text, static_cast<int>(indices->size())).first->second;
}

// Replicas by what is already there: fewest in the rack, then on the node.
class Spread {
 public:
  Spread(const Cluster& cluster, const std::vector<Domain>& domains, const std::vector<PlacedReplica>& kept)
      : on_node_(cluster.nodes.size(), 0) {
    std::map<std::string, int> racks;
    std::map<std::string, int> kinds;
    std::vector<size_t> rack_of;
    for (const Node& node : cluster.nodes) {
      // Without racks every node is one.
      rack_of.push_back(static_cast<size_t>(index_of(&racks, node.rack.empty() ? "node " + node.name : node.rack)));
    }
    in_rack_.assign(racks.size(), 0);
    for (const Domain& domain : domains) {
      const auto node = static_cast<size_t>(domain.node);
      places_.push_back(
          {.node = node, .rack = rack_of[node], .kind = index_of(&kinds, domain.key), .free = domain.size()});
    }
    for (const PlacedReplica& replica : kept) {
      std::set<int> nodes;
      for (const DeviceId& id : replica.devices) nodes.insert(id.node);
      for (const int node : nodes) {
        ++on_node_[static_cast<size_t>(node)];
        ++in_rack_[rack_of[static_cast<size_t>(node)]];
      }
    }
  }

  void take(int domain, int devices) {
    Place& place = places_[static_cast<size_t>(domain)];
    place.free -= devices;
    ++on_node_[place.node];
    ++in_rack_[place.rack];
  }

  // A domain like `domain` with that many free devices; -1: none is left.
  int least_used(int domain, int devices) const {
    const int kind = places_[static_cast<size_t>(domain)].kind;
    int best = -1;
    std::pair<int, int> fewest;
    for (size_t i = 0; i < places_.size(); ++i) {
      const Place& place = places_[i];
      if (place.free < devices || place.kind != kind) continue;
      const std::pair<int, int> there = {in_rack_[place.rack], on_node_[place.node]};
      if (best >= 0 && there >= fewest) continue;
      best = static_cast<int>(i);
      fewest = there;
    }
    return best;
  }

 private:
  struct Place {
    size_t node;
    size_t rack;
    int kind;
    int free;
  };
  std::vector<Place> places_;
  std::vector<int> on_node_;
  std::vector<int> in_rack_;
};

bool spans(const Packed& replica) { return replica.runs.size() > 1; }

// Spanning replicas first, then large ones: what is left is easiest to fill.
std::vector<size_t> seating_order(const Packing& packing) {
  std::vector<size_t> order(packing.replicas.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    const Packed& left = packing.replicas[a];
    const Packed& right = packing.replicas[b];
    if (spans(left) != spans(right)) return spans(left);
    return left.shape->devices() > right.shape->devices();
  });
  return order;
}

// The packing with replicas of one domain moved to the least used domains of the kind; as it was, if they do not all
// fit so.
std::vector<Packed> spread_out(const Cluster& cluster, const Packing& packing, const std::vector<size_t>& order,
                               const std::vector<PlacedReplica>& kept) {
  int devices = 0;
  for (const Domain& domain : packing.domains) devices += domain.size();
  if (packing.devices == devices) return packing.replicas;
  std::vector<Packed> replicas = packing.replicas;
  Spread spread(cluster, packing.domains, kept);
  for (const size_t i : order) {
    Packed& replica = replicas[i];
    if (!spans(replica)) {
      const int domain = spread.least_used(replica.runs[0].domain, replica.shape->devices());
      if (domain < 0) return packing.replicas;
      replica.runs[0].domain = domain;
    }
    for (const StageRun& run : replica.runs) spread.take(run.domain, run.stages * replica.shape->tp);
  }
  return replicas;
}

// Free devices of a domain.
struct Pool {
  const Node* node;
  int node_index;
  std::vector<int> devices;

  // One of that rail if there is one, else the first.
  DeviceId take(int rail) {
    CHECK(!devices.empty());
    auto at = std::ranges::find_if(devices, [&](int device) { return rail >= 0 && rail_of(*node, device) == rail; });
    if (at == devices.end()) at = devices.begin();
    const DeviceId id{.node = node_index, .device = *at};
    devices.erase(at);
    return id;
  }
};

std::vector<Pool> pools_of(const Cluster& cluster, const std::vector<Domain>& domains) {
  std::vector<Pool> pools;
  for (const Domain& domain : domains) {
    const Node& node = cluster.nodes[static_cast<size_t>(domain.node)];
    Pool pool{.node = &node, .node_index = domain.node, .devices = domain.devices};
    const auto socket = [&](int device) { return node.devices[static_cast<size_t>(device)].numa; };
    std::ranges::stable_sort(pool.devices, {}, socket);
    pools.push_back(std::move(pool));
  }
  return pools;
}

}  // namespace

std::vector<std::vector<DeviceId>> seat(const Cluster& cluster, const Packing& packing,
                                        const std::vector<PlacedReplica>& kept) {
  const std::vector<size_t> order = seating_order(packing);
  const std::vector<Packed> replicas = spread_out(cluster, packing, order, kept);
  std::vector<Pool> pools = pools_of(cluster, packing.domains);
  std::vector<std::vector<DeviceId>> seats(replicas.size());
  for (const size_t i : order) {
    const auto tp = static_cast<size_t>(replicas[i].shape->tp);
    std::vector<DeviceId>& devices = seats[i];
    for (const StageRun& run : replicas[i].runs) {
      for (size_t rank = 0; rank < static_cast<size_t>(run.stages) * tp; ++rank) {
        int rail = -1;
        if (devices.size() >= tp) {
          const DeviceId before = devices[devices.size() - tp];  // the same rank of the stage before
          rail = rail_of(cluster.nodes[static_cast<size_t>(before.node)], before.device);
        }
        devices.push_back(pools[static_cast<size_t>(run.domain)].take(rail));
      }
    }
  }
  return seats;
}

}  // namespace skein
