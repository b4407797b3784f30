#include "topology/search.h"

#include <algorithm>

#include "topology/placing.h"
#include "topology/seating.h"

namespace skein {
namespace {

// nullptr: it is of none.
const Domain* domain_of(const std::vector<Domain>& all, DeviceId id) {
  auto at = std::ranges::lower_bound(all, id.node, {}, &Domain::node);
  for (; at != all.end() && at->node == id.node; ++at) {
    if (std::ranges::find(at->devices, id.device) != at->devices.end()) return &*at;
  }
  return nullptr;
}

std::vector<Packed> kept_replicas(const Search& search, ShapeBook& book) {
  std::vector<Packed> kept;
  if (search.kept.empty()) return kept;
  const std::vector<Domain> all = domains_of_placed(search.request);
  for (const PlacedReplica& replica : search.kept) {
    const Shape* shape = shape_of(search.request, all, book, replica);
    if (shape != nullptr) kept.push_back({.shape = shape, .devices = replica.devices});
  }
  return kept;
}

void add(Packed replica, Packing* packing) {
  packing->request_rate += replica.shape->best.request_rate;
  packing->devices += replica.shape->devices();
  packing->replicas.push_back(std::move(replica));
}

}  // namespace

std::vector<Domain> domains_of_placed(const PlanRequest& request) {
  return domains_of(request, {}, {.group_over_pcie = true});
}

std::vector<DeviceId> devices_of(const std::vector<PlacedReplica>& replicas) {
  std::vector<DeviceId> devices;
  for (const PlacedReplica& replica : replicas) {
    devices.insert(devices.end(), replica.devices.begin(), replica.devices.end());
  }
  return devices;
}

const Shape* shape_on(const PlanRequest& request, const std::vector<Domain>& all, ShapeBook& book, int tp,
                      const std::vector<DeviceId>& devices, const std::vector<int>& layers) {
  std::vector<const Domain*> stages;
  for (size_t rank = 0; rank < devices.size(); ++rank) {
    const Domain* domain = domain_of(all, devices[rank]);
    if (domain == nullptr) return nullptr;
    if (rank % static_cast<size_t>(tp) == 0) stages.push_back(domain);
    if (domain->whole != stages.back()->whole) return nullptr;
  }
  const auto ways = ways_of(*request.cluster, tp, devices);
  return ways ? book.find(stages, tp, *ways, layers) : nullptr;
}

const Shape* shape_of(const PlanRequest& request, const std::vector<Domain>& all, ShapeBook& book,
                      const PlacedReplica& replica) {
  const auto asked = [](int degree, int has) { return degree == 0 || degree == has; };
  const ModelDemand& demand = request.models[static_cast<size_t>(replica.model)];
  if (!asked(demand.tensor_parallel_size, replica.tensor_parallel_size) ||
      !asked(demand.pipeline_parallel_size, replica.pipeline_parallel_size)) {
    return nullptr;
  }
  std::vector<int> layers;
  for (const PlannedStage& stage : replica.stages) layers.push_back(stage.layers);
  return shape_on(request, all, book, replica.tensor_parallel_size, replica.devices, layers);
}

Packing pack_beside(const Search& search, const Relaxed& rules, ShapeBook& book) {
  std::vector<DeviceId> taken = devices_of(search.kept);
  taken.insert(taken.end(), search.taken.begin(), search.taken.end());
  const Cluster& cluster = *search.request.cluster;
  Packing nothing{.domains = domains_of(search.request, taken, rules), .replicas = {}};
  PackingGoal goal = search.goal;
  if (goal.request_rate > 0) {
    const double wanted = goal.request_rate;
    for (const Packed& replica : kept_replicas(search, book)) goal.request_rate -= replica.shape->best.request_rate;
    if (goal.request_rate <= wanted * kNoise) return nothing;
  }
  return Packer(cluster, book, std::move(nothing.domains)).best(goal);
}

Packing seated(const Search& search, const Packing& packing, ShapeBook& book) {
  const Load& load = search.demand().load;
  double latency_max_ms = search.goal.latency_max_ms;
  for (const Packed& replica : packing.replicas) {
    if (search.goal.objective != Objective::kLatency) break;
    latency_max_ms = std::max(latency_max_ms, replica.shape->lone.latency_ms(load) * (1 + kNoise));
  }
  std::vector<const Shape*> shapes(packing.replicas.size(), nullptr);
  const auto serves = [&](size_t i, const std::vector<DeviceId>& devices) {
    shapes[i] = shape_on(search.request, packing.domains, book, packing.replicas[i].shape->tp, devices);
    return shapes[i] != nullptr && (latency_max_ms == 0 || shapes[i]->lone.latency_ms(load) <= latency_max_ms);
  };
  std::vector<std::vector<DeviceId>> seats = seat(*search.request.cluster, packing, search.kept, serves);
  Packing there;
  for (size_t i = 0; i < seats.size(); ++i) {
    if (!seats[i].empty()) add({.shape = shapes[i], .devices = std::move(seats[i])}, &there);
  }
  return there;
}

Packing place_beside(Search search, const Relaxed& rules, ShapeBook& book) {
  const bool one_will_do = search.goal.objective == Objective::kLatency && search.goal.request_rate == 0;
  Packing all;
  for (;;) {
    const Packing packing = pack_beside(search, rules, book);
    const Packing there = seated(search, packing, book);
    for (const Packed& replica : there.replicas) add(replica, &all);
    const bool as_packed = there.request_rate >= packing.request_rate * (1 - kNoise);
    if (as_packed || there.replicas.empty() || one_will_do) return all;
    for (const Packed& replica : there.replicas) {
      search.kept.push_back(placed(search.request, *replica.shape, search.model, replica.devices));
    }
  }
}

Packing with_kept(const Search& search, Packing packing, ShapeBook& book) {
  for (Packed& replica : kept_replicas(search, book)) add(std::move(replica), &packing);
  return packing;
}

}  // namespace skein
