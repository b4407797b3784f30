#include "topology/search.h"

#include <algorithm>

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

std::vector<const Shape*> kept_shapes(const Search& search, ShapeBook& book) {
  std::vector<const Shape*> shapes;
  if (search.kept.empty()) return shapes;
  const std::vector<Domain> all = domains_of_placed(search.request);
  for (const PlacedReplica& replica : search.kept) shapes.push_back(shape_of(search.request, all, book, replica));
  std::erase(shapes, nullptr);
  return shapes;
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
    for (const Shape* shape : kept_shapes(search, book)) goal.request_rate -= shape->best.request_rate;
    if (goal.request_rate <= wanted * kNoise) return nothing;
  }
  return Packer(cluster, book, std::move(nothing.domains)).best(goal);
}

Packing with_kept(const Search& search, Packing packing, ShapeBook& book) {
  for (const Shape* shape : kept_shapes(search, book)) {
    packing.replicas.push_back({.shape = shape, .domains = {}});
    packing.request_rate += shape->best.request_rate;
    packing.devices += shape->devices();
  }
  return packing;
}

}  // namespace skein
