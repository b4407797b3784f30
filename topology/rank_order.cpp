#include "topology/rank_order.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "base/check.h"

namespace skein {
namespace {

// What is better of a way between two devices, first things first; {}: there is none.
using Goodness = std::tuple<bool, double, int, double>;

Goodness goodness(const Cluster& cluster, DeviceId from, DeviceId to) {
  const auto path = path_between(cluster, from, to);
  if (!path) return {};
  return {path->same_rail, path->bytes_per_s, path->nearness, -path->latency_us};
}

// How fast a device reaches the best of others, over any rail.
std::pair<double, int> reach(const Cluster& cluster, DeviceId from, const std::vector<DeviceId>& others) {
  std::pair<double, int> best;
  for (const DeviceId& to : others) {
    const auto path = path_between(cluster, from, to);
    if (path) best = std::max(best, {path->bytes_per_s, path->nearness});
  }
  return best;
}

int socket_of(const Cluster& cluster, DeviceId id) {
  return cluster.nodes[static_cast<size_t>(id.node)].devices[static_cast<size_t>(id.device)].numa;
}

void remove(const std::vector<DeviceId>& taken, std::vector<DeviceId>* pool) {
  for (const DeviceId& id : taken) std::erase(*pool, id);
}

// Those with the best ways from the ranks before.
std::vector<DeviceId> take_entry(const Cluster& cluster, const std::vector<DeviceId>& before,
                                 std::vector<DeviceId>* pool) {
  std::vector<DeviceId> stage;
  for (const DeviceId& from : before) {
    CHECK(!pool->empty());
    const auto from_here = [&](const DeviceId& to) { return goodness(cluster, from, to); };
    const auto best = std::ranges::max_element(*pool, {}, from_here);
    stage.push_back(*best);
    pool->erase(best);
  }
  return stage;
}

// Those with the fastest ways to others; of equal ones the last.
std::vector<DeviceId> take_exit(const Cluster& cluster, size_t tp, const std::vector<DeviceId>& others,
                                std::vector<DeviceId>* pool) {
  CHECK_GE(pool->size(), tp);
  std::vector<std::pair<std::pair<double, int>, DeviceId>> reaches;
  for (auto id = pool->rbegin(); id != pool->rend(); ++id) reaches.emplace_back(reach(cluster, *id, others), *id);
  std::ranges::stable_sort(reaches, std::greater<>(), [](const auto& of_device) { return of_device.first; });
  std::vector<DeviceId> stage;
  for (size_t rank = 0; rank < tp; ++rank) stage.push_back(reaches[rank].second);
  std::ranges::sort(stage);
  remove(stage, pool);
  return stage;
}

// Whether two devices of a node have the same ways to all others.
bool alike(const Cluster& cluster, DeviceId a, DeviceId b, const std::vector<DeviceId>& all) {
  return std::ranges::all_of(all, [&](const DeviceId& other) {
    if (other == a || other == b) return true;
    const auto from_a = path_between(cluster, a, other);
    const auto from_b = path_between(cluster, b, other);
    if (!from_a || !from_b) return !from_a && !from_b;
    return as_fast(*from_a, *from_b) && from_a->nearness == from_b->nearness;
  });
}

// Those beside a NIC first.
std::vector<Domain> parts_of(const Cluster& cluster, const Domain& domain, const std::vector<DeviceId>& all) {
  std::vector<Domain> parts;
  for (const int device : domain.devices) {
    const DeviceId id{.node = domain.node, .device = device};
    const auto same = std::ranges::find_if(parts, [&](const Domain& part) {
      return alike(cluster, {.node = domain.node, .device = part.devices[0]}, id, all);
    });
    if (same != parts.end()) {
      same->devices.push_back(device);
      continue;
    }
    parts.push_back(domain);
    parts.back().devices = {device};
  }
  for (Domain& part : parts) part.inside = worst_path(cluster, part);
  std::vector<DeviceId> elsewhere;
  std::ranges::copy_if(all, std::back_inserter(elsewhere), [&](const DeviceId& id) { return id.node != domain.node; });
  std::ranges::stable_sort(parts, std::greater<>(), [&](const Domain& part) {
    return reach(cluster, {.node = part.node, .device = part.devices[0]}, elsewhere);
  });
  return parts;
}

}  // namespace

void order_ranks(const Cluster& cluster, const std::vector<DeviceId>& before, std::vector<DeviceId>* stage) {
  if (stage->size() > 1) *stage = take_entry(cluster, before, stage);
}

std::vector<DeviceId> take_ranks(const Cluster& cluster, std::vector<std::vector<DeviceId>>* pools, int tp,
                                 const std::vector<StageRun>& runs) {
  const auto ranks = static_cast<size_t>(tp);
  std::vector<DeviceId> devices;
  std::vector<DeviceId> before;
  const auto add = [&](std::vector<DeviceId> stage) {
    if (!before.empty()) order_ranks(cluster, before, &stage);
    devices.insert(devices.end(), stage.begin(), stage.end());
    before = std::move(stage);
  };
  for (size_t i = 0; i < runs.size(); ++i) {
    std::vector<DeviceId>& pool = (*pools)[static_cast<size_t>(runs[i].domain)];
    int stages = runs[i].stages;
    const bool enters = i > 0;
    const bool leaves = i + 1 < runs.size() && (stages > 1 || !enters);
    if (enters) add(take_entry(cluster, before, &pool));
    std::vector<DeviceId> exit;
    if (leaves) exit = take_exit(cluster, ranks, (*pools)[static_cast<size_t>(runs[i + 1].domain)], &pool);
    stages -= static_cast<int>(enters) + static_cast<int>(leaves);
    std::ranges::stable_sort(pool, {}, [&](const DeviceId& id) {
      const int socket = socket_of(cluster, id);
      const bool as_exit = leaves && socket == socket_of(cluster, exit.front());
      const bool as_entry = enters && socket == socket_of(cluster, before.front());
      return std::tuple(as_entry ? 0 : as_exit ? 2 : 1, socket);
    });
    for (; stages > 0; --stages) {
      CHECK_GE(pool.size(), ranks);
      std::vector<DeviceId> stage(pool.begin(), pool.begin() + tp);
      pool.erase(pool.begin(), pool.begin() + tp);
      add(std::move(stage));
    }
    if (leaves) add(std::move(exit));
  }
  return devices;
}

std::optional<std::vector<Domain>> cut_into_alike(const Cluster& cluster, const std::vector<Domain>& domains,
                                                  int64_t states_max) {
  std::vector<DeviceId> all;
  int64_t states = 1;
  for (const Domain& domain : domains) {
    states *= domain.size() + 1;
    if (states > states_max) return std::nullopt;
    for (const int device : domain.devices) all.push_back({.node = domain.node, .device = device});
  }
  states = 1;
  std::vector<Domain> parts;
  for (const Domain& domain : domains) {
    for (Domain& part : parts_of(cluster, domain, all)) {
      states *= part.size() + 1;
      parts.push_back(std::move(part));
    }
    if (states > states_max) return std::nullopt;
  }
  return parts;
}

}  // namespace skein
