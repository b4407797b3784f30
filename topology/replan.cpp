// Planning again: what is there stays where it can.

#include <algorithm>
#include <map>
#include <numeric>

#include "base/check.h"
#include "topology/contradictions.h"
#include "topology/like_nodes.h"
#include "topology/placing.h"

namespace skein {
namespace {

// Sets of replicas to move that are tried: less of them on large clusters, as each takes longer there.
constexpr int64_t kTriesMax = 1000;
constexpr int64_t kTriesMin = 30;
constexpr int64_t kDevicesTriedMax = 100'000;  // devices times tries

// A device of the old cluster in the new one; nullopt: it is gone.
std::optional<DeviceId> still_there(const DeviceId& id, const Cluster& old_cluster, const Cluster& cluster) {
  const int node = find_node(cluster, old_cluster.nodes[static_cast<size_t>(id.node)].name);
  if (node < 0 || static_cast<size_t>(id.device) >= cluster.nodes[static_cast<size_t>(node)].devices.size()) {
    return std::nullopt;
  }
  const DeviceId now{.node = node, .device = id.device};
  if (kind_of(old_cluster, id).name != kind_of(cluster, now).name) return std::nullopt;
  return now;
}

// Replicas whose devices are all there, by their places now.
std::vector<PlacedReplica> survivors(const PlanRequest& request, const Cluster& old_cluster,
                                     const PlacementPlan& previous) {
  std::vector<PlacedReplica> whole;
  for (PlacedReplica replica : previous.replicas) {
    const auto is_there = [&](DeviceId& id) {
      const std::optional<DeviceId> now = still_there(id, old_cluster, *request.cluster);
      if (now) id = *now;
      return now.has_value();
    };
    if (std::ranges::all_of(replica.devices, is_there)) whole.push_back(std::move(replica));
  }
  return whole;
}

// Those that can serve where they are, with what they do there.
std::vector<PlacedReplica> able(const PlanRequest& request, const std::vector<PlacedReplica>& replicas, Books* books) {
  const std::vector<Domain> domains = domains_of_placed(request);
  std::vector<PlacedReplica> serving;
  for (const PlacedReplica& replica : replicas) {
    const Shape* shape = shape_of(request, domains, books->of(replica.model, {}), replica);
    if (shape == nullptr) continue;
    serving.push_back(placed(request, *shape, replica.model, replica.devices));
  }
  return serving;
}

// Finds the fewest replicas that have to move for the loads to hold. Single-owner.
class Moves {
 public:
  Moves(const PlanRequest& request, const std::vector<PlacedReplica>& replicas, Books* books)
      : request_(request), replicas_(replicas), books_(books) {
    int64_t devices = 0;
    for (const Node& node : request.cluster->nodes) devices += std::ssize(node.devices);
    CHECK(devices > 0);
    tries_left_ = std::clamp(kDevicesTriedMax / devices, kTriesMin, kTriesMax);
  }

  // By index. Requires: the loads do not hold while all stay, and do when all move.
  std::vector<size_t> fewest() {
    std::vector<size_t> moving = none_to_spare();
    for (size_t count = 1; count < moving.size(); ++count) {
      if (!may_try(replicas_.size(), count)) break;
      if (const std::optional<std::vector<size_t>> fewer = any_of(count)) return *fewer;
    }
    return moving;
  }

  std::vector<PlacedReplica> without(const std::vector<size_t>& moving) const {
    std::vector<bool> stays(replicas_.size(), true);
    for (const size_t i : moving) stays[i] = false;
    std::vector<PlacedReplica> rest;
    for (size_t i = 0; i < replicas_.size(); ++i) {
      if (stays[i]) rest.push_back(replicas_[i]);
    }
    return rest;
  }

 private:
  bool hold_without(const std::vector<size_t>& moving) {
    --tries_left_;
    return holds_beside(request_, without(moving), books_);
  }

  // Those first whose nodes have most devices free: with them the largest places appear.
  std::vector<size_t> by_room() const {
    std::vector<int64_t> free;
    for (const Node& node : request_.cluster->nodes) free.push_back(std::ssize(node.devices));
    for (const DeviceId& id : devices_of(replicas_)) --free[static_cast<size_t>(id.node)];
    std::vector<size_t> order(replicas_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, {}, [&](size_t i) {
      const int node = replicas_[i].devices.front().node;
      return std::pair(-free[static_cast<size_t>(node)], node);
    });
    return order;
  }

  // A set of which none could stay if the others move, unless tries run out: from the front of the order as many as
  // will do, of which the last one has to; then as many of those before it beside it, and so on.
  std::vector<size_t> none_to_spare() {
    std::vector<size_t> needed;
    std::vector<size_t> others = by_room();
    const auto with_first = [&](size_t count) {
      std::vector<size_t> moving = needed;
      moving.insert(moving.end(), others.begin(), others.begin() + static_cast<ptrdiff_t>(count));
      return moving;
    };
    while (needed.empty() || !hold_without(needed)) {
      size_t low = 1;
      size_t high = others.size();
      while (low < high && tries_left_ > 0) {
        const size_t middle = (low + high) / 2;
        if (hold_without(with_first(middle))) {
          high = middle;
        } else {
          low = middle + 1;
        }
      }
      if (low < high) return with_first(high);
      needed.push_back(others[high - 1]);
      others.resize(high - 1);
      if (others.empty()) break;
    }
    return needed;
  }

  // Whether all sets of `count` of `all` can be tried.
  bool may_try(size_t all, size_t count) const {
    int64_t sets = 1;
    for (size_t i = 0; i < count && sets <= tries_left_; ++i) {
      sets = sets * static_cast<int64_t>(all - i) / static_cast<int64_t>(i + 1);
    }
    return sets <= tries_left_;
  }

  std::optional<std::vector<size_t>> any_of(size_t count) {
    std::vector<size_t> set(count);
    std::iota(set.begin(), set.end(), size_t{0});
    for (;;) {
      if (hold_without(set)) return set;
      // The rightmost that can go up does, and those behind it follow close.
      size_t i = count;
      while (i > 0 && set[i - 1] == replicas_.size() - count + i - 1) --i;
      if (i == 0) return std::nullopt;
      std::iota(set.begin() + static_cast<ptrdiff_t>(i) - 1, set.end(), set[i - 1] + 1);
    }
  }

  const PlanRequest& request_;
  const std::vector<PlacedReplica>& replicas_;
  Books* const books_;
  int64_t tries_left_ = 0;
};

Result<PlacementPlan> plan_around(const PlanRequest& request, const std::vector<PlacedReplica>& serving, Books* books) {
  if (holds_beside(request, serving, books)) return plan_beside(request, serving, books);
  ASSIGN_OR_RETURN(PlacementPlan anew, plan_beside(request, {}, books));
  if (serving.empty()) return anew;
  Moves moves(request, serving, books);
  const std::vector<PlacedReplica> rest = moves.without(moves.fewest());
  return holds_beside(request, rest, books) ? plan_beside(request, rest, books) : anew;
}

int count_moved(const std::vector<PlacedReplica>& before, const std::vector<PlacedReplica>& now) {
  std::map<DeviceId, const PlacedReplica*> by_first;
  for (const PlacedReplica& replica : now) by_first[replica.devices.front()] = &replica;
  return static_cast<int>(std::ranges::count_if(before, [&](const PlacedReplica& replica) {
    const auto at = by_first.find(replica.devices.front());
    return at == by_first.end() || at->second->model != replica.model || at->second->devices != replica.devices ||
           !std::ranges::equal(at->second->stages, replica.stages, {}, &PlannedStage::layers, &PlannedStage::layers);
  }));
}

}  // namespace

Result<PlacementPlan> replan(const PlanRequest& request, const Cluster& old_cluster, const PlacementPlan& previous) {
  RETURN_IF_ERROR(check_request(request));
  const std::optional<Cluster> alike = with_like_nodes(request);
  PlanRequest now = request;
  if (alike) now.cluster = &*alike;
  Books books(now);
  const std::vector<PlacedReplica> there = survivors(now, old_cluster, previous);
  const std::vector<PlacedReplica> serving = able(now, there, &books);
  ASSIGN_OR_RETURN(PlacementPlan plan, plan_around(now, serving, &books));
  plan.moved = count_moved(there, plan.replicas);
  if (const size_t unable = there.size() - serving.size(); unable > 0) {
    plan.notes.push_back(std::to_string(unable) + (unable == 1 ? " replica" : " replicas") +
                         " could not stay: where they are, the service level, the degrees or the memory that are asked for "
                         "now cannot be had");
  }
  return plan;
}

}  // namespace skein
