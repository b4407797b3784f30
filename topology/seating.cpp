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
  Spread(const Cluster& cluster, const Packing& packing, const std::vector<PlacedReplica>& kept)
      : cluster_(cluster), domains_(packing.domains), alike_(packing.alike), on_node_(cluster.nodes.size(), 0) {
    std::map<std::string, int> racks;
    for (const Node& node : cluster.nodes) {
      // Without racks every node is one.
      rack_of_.push_back(static_cast<size_t>(index_of(&racks, node.rack.empty() ? "node " + node.name : node.rack)));
    }
    in_rack_.assign(racks.size(), 0);
    std::map<int, size_t> wholes;
    for (size_t i = 0; i < domains_.size(); ++i) {
      const size_t whole = wholes.try_emplace(domains_[i].whole, wholes.size()).first->second;
      if (whole == parts_.size()) parts_.emplace_back();
      order_.push_back(parts_[whole].size());
      parts_[whole].push_back(i);
      free_.push_back(domains_[i].size());
    }
    for (const PlacedReplica& replica : kept) {
      std::set<int> nodes;
      for (const DeviceId& id : replica.devices) nodes.insert(id.node);
      count(nodes);
    }
  }

  // By world rank.
  void take(const std::vector<int>& domains) {
    std::set<int> nodes;
    for (const int domain : domains) {
      --free_[static_cast<size_t>(domain)];
      nodes.insert(domains_[static_cast<size_t>(domain)].node);
    }
    count(nodes);
  }

  // Parts of the least used domain that do as well, by world rank. {}: none has enough free devices.
  // Requires: `domains` are parts of one.
  std::vector<int> least_used(const std::vector<int>& domains) const {
    std::map<size_t, int> demand;
    for (const int domain : domains) ++demand[static_cast<size_t>(domain)];
    std::map<size_t, size_t> best;
    std::pair<int, int> fewest;
    for (const std::vector<size_t>& parts : parts_) {
      const auto node = static_cast<size_t>(domains_[parts[0]].node);
      const std::pair<int, int> there = {in_rack_[rack_of_[node]], on_node_[node]};
      if (!best.empty() && there >= fewest) continue;
      std::map<size_t, size_t> instead = counterparts(demand, parts);
      if (instead.empty()) continue;
      best = std::move(instead);
      fewest = there;
    }
    std::vector<int> moved;
    if (best.empty()) return moved;
    for (const int domain : domains) moved.push_back(static_cast<int>(best.at(static_cast<size_t>(domain))));
    return moved;
  }

 private:
  void count(const std::set<int>& nodes) {
    for (const int node : nodes) {
      ++on_node_[static_cast<size_t>(node)];
      ++in_rack_[rack_of_[static_cast<size_t>(node)]];
    }
  }

  std::string way(size_t from, size_t to) const {
    const Domain& a = domains_[from];
    const Domain& b = domains_[to];
    if (from == to) return path_key(a.inside);
    const auto path = path_between(cluster_, {a.node, a.devices[0]}, {b.node, b.devices[0]});
    return path ? path_key(*path) : "";
  }

  // Whether ranks do the same in both. Between devices that were not told apart some ways may be slower in one of them.
  bool same_ranks(size_t a, size_t b) const {
    const Domain& domain = domains_[a];
    const bool any_devices = alike_ || domain.joined;
    return any_devices ? domain.site == domains_[b].site : domain.key == domains_[b].key;
  }

  // Which of `parts` may stand in for each that devices are asked of: the one at the same place, or else any, if ranks
  // do the same there and have the same ways to each other. {}: not all have one.
  std::map<size_t, size_t> counterparts(const std::map<size_t, int>& demand, const std::vector<size_t>& parts) const {
    std::map<size_t, size_t> instead;
    for (const auto& asked : demand) {
      const size_t part = asked.first;
      const int devices = asked.second;
      const auto fits = [&](size_t candidate) {
        if (free_[candidate] < devices || !same_ranks(part, candidate)) return false;
        if (devices > 1 && way(candidate, candidate) != way(part, part)) return false;
        return std::ranges::all_of(instead, [&](const auto& other) {
          return other.second != candidate && way(other.second, candidate) == way(other.first, part);
        });
      };
      for (size_t i = 0; i < parts.size() && !instead.contains(part); ++i) {
        const size_t candidate = parts[(order_[part] + i) % parts.size()];
        if (fits(candidate)) instead[part] = candidate;
      }
      if (!instead.contains(part)) return {};
    }
    return instead;
  }

  const Cluster& cluster_;
  const std::vector<Domain>& domains_;
  const bool alike_;
  std::vector<std::vector<size_t>> parts_;  // of each domain that may be cut into some: indices into domains_
  std::vector<size_t> order_;               // of each of domains_ among its domain's parts
  std::vector<int> free_;                   // devices of each
  std::vector<size_t> rack_of_;             // by node
  std::vector<int> on_node_;
  std::vector<int> in_rack_;
};

bool spans(const Packing& packing, const Packed& replica) {
  const auto whole_of = [&](int domain) { return packing.domains[static_cast<size_t>(domain)].whole; };
  const int first = whole_of(replica.domains[0]);
  return std::ranges::any_of(replica.domains, [&](int domain) { return whole_of(domain) != first; });
}

// Spanning replicas first, then large ones: what is left is easiest to fill.
std::vector<size_t> seating_order(const Packing& packing) {
  std::vector<size_t> order(packing.replicas.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    const Packed& left = packing.replicas[a];
    const Packed& right = packing.replicas[b];
    if (spans(packing, left) != spans(packing, right)) return spans(packing, left);
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
  Spread spread(cluster, packing, kept);
  for (const size_t i : order) {
    Packed& replica = replicas[i];
    if (!spans(packing, replica)) {
      replica.domains = spread.least_used(replica.domains);
      if (replica.domains.empty()) return packing.replicas;
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

using Pools = std::vector<std::vector<DeviceId>>;  // free devices by domain

DeviceId take_first(std::vector<DeviceId>* pool) {
  CHECK(!pool->empty());
  const DeviceId first = pool->front();
  pool->erase(pool->begin());
  return first;
}

// `domains`: by device, that it came from.
void give_back(const std::vector<DeviceId>& devices, const std::vector<int>& domains, Pools* pools) {
  for (size_t rank = 0; rank < devices.size(); ++rank) {
    std::vector<DeviceId>& pool = (*pools)[static_cast<size_t>(domains[rank])];
    pool.push_back(devices[rank]);
    std::ranges::sort(pool);
  }
}

}  // namespace

std::vector<std::vector<DeviceId>> seat(const Cluster& cluster, const Packing& packing,
                                        const std::vector<PlacedReplica>& kept, const Serves& serves) {
  const std::vector<size_t> order = seating_order(packing);
  const std::vector<Packed> replicas = spread_out(cluster, packing, order, kept);
  Pools pools;
  for (const Domain& domain : packing.domains) {
    std::vector<DeviceId>& pool = pools.emplace_back();
    for (const int device : domain.devices) pool.push_back({.node = domain.node, .device = device});
  }
  std::vector<std::vector<DeviceId>> seats(replicas.size());
  for (const size_t i : order) {
    if (packing.alike) {
      for (const int domain : replicas[i].domains) seats[i].push_back(take_first(&pools[static_cast<size_t>(domain)]));
    } else {
      seats[i] = take_ranks(cluster, &pools, replicas[i].shape->tp, runs_of(replicas[i]));
    }
    if (serves(i, seats[i])) continue;
    give_back(seats[i], replicas[i].domains, &pools);
    seats[i].clear();
  }
  return seats;
}

}  // namespace skein
