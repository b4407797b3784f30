#include "topology/seating.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "base/check.h"
#include "topology/rank_order.h"

namespace skein {
namespace {

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
      places_.push_back({.node = node,
                         .rack = rack_of[node],
                         .kind = index_of(&kinds, domain.site + ";" + path_key(domain.inside)),
                         .free = domain.size()});
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

  // By world rank.
  void take(const std::vector<int>& domains) {
    for (size_t rank = 0; rank < domains.size(); ++rank) {
      Place& place = places_[static_cast<size_t>(domains[rank])];
      --place.free;
      if (rank > 0 && domains[rank] == domains[rank - 1]) continue;
      ++on_node_[place.node];
      ++in_rack_[place.rack];
    }
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

bool spans(const Packed& replica) {
  return std::ranges::any_of(replica.domains, [&](int domain) { return domain != replica.domains[0]; });
}

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
      const int domain = spread.least_used(replica.domains[0], replica.shape->devices());
      if (domain < 0) return packing.replicas;
      std::ranges::fill(replica.domains, domain);
    }
    spread.take(replica.domains);
  }
  return replicas;
}

// Stages in one domain after each other.
std::vector<StageRun> runs_of(const Packed& replica) {
  std::vector<StageRun> runs;
  for (size_t rank = 0; rank < replica.domains.size(); rank += static_cast<size_t>(replica.shape->tp)) {
    const int domain = replica.domains[rank];
    if (runs.empty() || runs.back().domain != domain) runs.push_back({.domain = domain, .stages = 0});
    ++runs.back().stages;
  }
  return runs;
}

DeviceId take_first(std::vector<DeviceId>* pool) {
  CHECK(!pool->empty());
  const DeviceId first = pool->front();
  pool->erase(pool->begin());
  return first;
}

}  // namespace

std::vector<std::vector<DeviceId>> seat(const Cluster& cluster, const Packing& packing,
                                        const std::vector<PlacedReplica>& kept) {
  const std::vector<size_t> order = seating_order(packing);
  const std::vector<Packed> replicas = spread_out(cluster, packing, order, kept);
  std::vector<std::vector<DeviceId>> pools;
  for (const Domain& domain : packing.domains) {
    std::vector<DeviceId>& pool = pools.emplace_back();
    for (const int device : domain.devices) pool.push_back({.node = domain.node, .device = device});
  }
  std::vector<std::vector<DeviceId>> seats(replicas.size());
  for (const size_t i : order) {
    if (!packing.alike) {
      seats[i] = take_ranks(cluster, &pools, replicas[i].shape->tp, runs_of(replicas[i]));
      continue;
    }
    for (const int domain : replicas[i].domains) seats[i].push_back(take_first(&pools[static_cast<size_t>(domain)]));
  }
  return seats;
}

}  // namespace skein
