#include "topology/planner.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "base/check.h"
#include "topology/device_kinds.h"
#include "topology/explain.h"
#include "topology/packing.h"
#include "topology/seating.h"

namespace skein {
namespace {

constexpr double kNoise = 1e-9;

// Devices that no backend runs on.
std::vector<std::string> unusable(const PlanRequest& request) {
  const Cluster& cluster = *request.cluster;
  std::vector<std::string> notes;
  for (size_t kind = 0; kind < cluster.kinds.size(); ++kind) {
    if (backend_runs_on(cluster.kinds[kind])) continue;
    int count = 0;
    for (const Node& node : cluster.nodes) {
      count += static_cast<int>(std::ranges::count(node.devices, static_cast<int>(kind), &Device::kind));
    }
    const int compute = compute_capability(cluster.kinds[kind].name);
    notes.push_back(std::to_string(count) + " x " + cluster.kinds[kind].name + " stay unused, as they have compute capability " +
                    std::to_string(compute / 10) + "." + std::to_string(compute % 10) +
                    " and the CUDA backend needs 9.0 (H100, H200, GH200)");
  }
  return notes;
}

Status check_request(const PlanRequest& request) {
  CHECK(!request.models.empty());
  const Cluster& cluster = *request.cluster;
  for (const std::string& name : request.nodes) {
    if (std::ranges::find(cluster.nodes, name, &Node::name) == cluster.nodes.end()) {
      return invalid_argument("the cluster \"" + cluster.name + "\" has no node \"" + name + "\"; leave it out of --nodes");
    }
  }
  for (const DeviceKind& kind : cluster.kinds) {
    if (calibration_of(kind, *request.calibration)) continue;
    return invalid_argument("nobody has measured \"" + kind.name +
                            "\": give its read rate and FLOPs in the cluster file, or a calibration of it");
  }
  if (domains_of(request, {}, {}).empty()) {
    const std::vector<std::string> notes = unusable(request);
    return resource_exhausted("there is no device to plan for" + (notes.empty() ? std::string() : ": " + notes.front()));
  }
  for (const ModelDemand& demand : request.models) {
    const ModelDescription& model = demand.checkpoint->description();
    const int tp = std::max(demand.tensor_parallel_size, 1);
    const auto shards = plan_shards(model, tp, std::max(demand.pipeline_parallel_size, 1));
    if (!shards.ok()) return shards.status().within(demand.name);
    const Status formats = check_shard_formats(*demand.checkpoint, *shards);
    if (!formats.ok()) return formats.within(demand.name);
    if (demand.load.input_tokens + demand.load.output_tokens > model.context_max) {
      return invalid_argument(demand.name + ": input-len and output-len are more than the " +
                              std::to_string(model.context_max) + " tokens that the model was made for; lower them");
    }
    if (request.models.size() > 1 && demand.load.request_rate <= 0) {
      return invalid_argument(demand.name + ": several models share the cluster by their request rates; give each one");
    }
  }
  return {};
}

PlacedReplica placed(const PlanRequest& request, const Shape& shape, int model, std::vector<DeviceId> devices) {
  PlacedReplica replica{.model = model,
          .tensor_parallel_size = shape.tp,
          .pipeline_parallel_size = static_cast<int>(shape.stages.size()),
          .devices = std::move(devices),
          .stages = shape.stages,
          .group_link = shape.group_link,
          .kv_blocks = shape.kv_blocks,
          .best = shape.best,
          .lone = shape.lone};
  const Load& load = request.models[static_cast<size_t>(model)].load;
  if (request.burst_prompts > 0) replica.burst = burst(*shape.cost, shape.limits, request.burst_prompts, load);
  return replica;
}

std::vector<DeviceId> taken_by(const std::vector<PlacedReplica>& replicas) {
  std::vector<DeviceId> taken;
  for (const PlacedReplica& replica : replicas) {
    taken.insert(taken.end(), replica.devices.begin(), replica.devices.end());
  }
  return taken;
}

std::vector<DeviceId> left_over(const PlanRequest& request, const std::vector<PlacedReplica>& replicas) {
  std::vector<DeviceId> free;
  for (const Domain& domain : domains_of(request, taken_by(replicas), {})) {
    for (const int device : domain.devices) free.push_back({.node = domain.node, .device = device});
  }
  std::ranges::sort(free);
  return free;
}

// A replica on those devices, as the book sees it; nullptr: its level does not hold there.
const Shape* shape_of(const PlanRequest& request, const std::vector<Domain>& domains, ShapeBook& book, int tp,
                      const std::vector<DeviceId>& devices) {
  std::vector<const Domain*> stages;
  for (size_t rank = 0; rank < devices.size(); rank += static_cast<size_t>(tp)) {
    auto at = std::ranges::lower_bound(domains, devices[rank].node, {}, &Domain::node);
    const auto has_it = [&](const Domain& domain) {
      return std::ranges::find(domain.devices, devices[rank].device) != domain.devices.end();
    };
    while (at != domains.end() && at->node == devices[rank].node && !has_it(*at)) ++at;
    if (at == domains.end() || at->node != devices[rank].node) return nullptr;
    stages.push_back(&*at);
  }
  const auto ways = ways_of(*request.cluster, tp, devices);
  return ways ? book.find(stages, tp, *ways) : nullptr;
}

// One model onto what `taken` leaves. Its replicas are appended to the plan.
Status place_model(const PlanRequest& request, int model, const PackingGoal& goal,
                   const std::vector<PlacedReplica>& kept, PlacementPlan* plan, bool explained = true) {
  std::vector<PlacedReplica> there = plan->replicas;
  there.insert(there.end(), kept.begin(), kept.end());
  const std::vector<DeviceId> taken = taken_by(there);
  const Search search{.request = request, .model = model, .goal = goal, .taken = taken};
  const Relaxed strict;
  // Tensor parallelism over PCIe only where nothing else fits.
  for (const Relaxed& rules : {strict, Relaxed{.group_over_pcie = true}}) {
    ShapeBook book(request, model, rules);
    Packer packer(*request.cluster, book, domains_of(request, taken, rules));
    const Packing packing = packer.best(goal);
    if (packing.replicas.empty()) continue;
    if (packing.request_rate * (1 + kNoise) < goal.request_rate) return too_little(search, packing);
    const std::vector<std::vector<DeviceId>> seats = seat(*request.cluster, packing);
    std::vector<const Shape*> shapes;
    for (size_t i = 0; i < seats.size(); ++i) {
      // Replicas that compete for the devices beside a NIC may get others than they were packed for.
      const Shape* packed = packing.replicas[i].shape;
      const Shape* seated = shape_of(request, packing.domains, book, packed->tp, seats[i]);
      shapes.push_back(seated != nullptr ? seated : packed);
    }
    std::vector<PlacedReplica> replicas;
    for (size_t i = 0; i < seats.size(); ++i) replicas.push_back(placed(request, *shapes[i], model, seats[i]));
    std::ranges::stable_sort(replicas, {}, [](const PlacedReplica& replica) { return replica.devices.front(); });
    plan->replicas.insert(plan->replicas.end(), replicas.begin(), replicas.end());
    if (!explained) return {};
    ModelPlan& why = plan->models[static_cast<size_t>(model)];
    why.outcome = outcome_of(shapes, request.models[static_cast<size_t>(model)].load, request.objective);
    why.alternatives = alternatives_to(search, packing, book);
    why.constraints = constraint_costs(search, rules, packing, book);
    return {};
  }
  return nothing_fits(search);
}

PackingGoal goal_of(const PlanRequest& request, const ModelDemand& demand) {
  PackingGoal goal{.objective = request.objective, .request_rate = demand.load.request_rate,
                   .tp = demand.tensor_parallel_size, .pp = demand.pipeline_parallel_size};
  // Several models leave room for each other.
  if (request.models.size() > 1 && goal.objective == Objective::kGoodput) goal.objective = Objective::kFewestDevices;
  if (goal.objective == Objective::kGoodput) goal.request_rate = 0;
  return goal;
}

// The heaviest first: it has the fewest places to go.
std::vector<int> placing_order(const PlanRequest& request) {
  std::vector<int> order(request.models.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](int model) {
    return request.models[static_cast<size_t>(model)].checkpoint->description().parameters();
  });
  return order;
}

// Models in that order, each on what those before leave. `placed`: how many found a place.
Result<PlacementPlan> place_in_order(const PlanRequest& request, const std::vector<int>& order, bool explained,
                                     size_t* placed) {
  PlacementPlan plan;
  plan.models.resize(request.models.size());
  for (*placed = 0; *placed < order.size(); ++*placed) {
    const int model = order[*placed];
    const ModelDemand& demand = request.models[static_cast<size_t>(model)];
    RETURN_IF_ERROR(place_model(request, model, goal_of(request, demand), {}, &plan, explained).within(demand.name));
  }
  return plan;
}

// An order in which all find a place: where those before leave none to a model, it goes first. If there is none, what a
// model lacks with all devices, or else what was lacking at first.
Status find_order(const PlanRequest& request, std::vector<int>* order) {
  Status refused;
  for (size_t tries = 0; tries < order->size(); ++tries) {
    size_t placed = 0;
    const auto plan = place_in_order(request, *order, false, &placed);
    if (plan.ok()) return {};
    if (placed == 0) return plan.status();
    if (refused.ok()) refused = plan.status();
    const auto at = order->begin() + static_cast<ptrdiff_t>(placed);
    std::rotate(order->begin(), at, at + 1);
  }
  return refused;
}

// A device of the old cluster in the new one; nullopt: it is gone.
std::optional<DeviceId> still_there(const DeviceId& id, const Cluster& old_cluster, const Cluster& cluster) {
  const Node& old_node = old_cluster.nodes[static_cast<size_t>(id.node)];
  const auto node = std::ranges::find(cluster.nodes, old_node.name, &Node::name);
  if (node == cluster.nodes.end() || static_cast<size_t>(id.device) >= node->devices.size()) return std::nullopt;
  const DeviceId now{.node = static_cast<int>(node - cluster.nodes.begin()), .device = id.device};
  if (kind_of(old_cluster, id).name != kind_of(cluster, now).name) return std::nullopt;
  return now;
}

std::vector<PlacedReplica> survivors(const PlanRequest& request, const Cluster& old_cluster,
                                     const PlacementPlan& previous) {
  std::vector<PlacedReplica> kept;
  for (PlacedReplica replica : previous.replicas) {
    bool whole = true;
    for (DeviceId& id : replica.devices) {
      const std::optional<DeviceId> now = still_there(id, old_cluster, *request.cluster);
      whole = whole && now.has_value();
      if (now) id = *now;
    }
    if (whole) kept.push_back(std::move(replica));
  }
  return kept;
}

// Plans what `kept` leaves open. nullopt: the loads are not reached beside it.
std::optional<PlacementPlan> plan_beside(const PlanRequest& request, const std::vector<PlacedReplica>& kept) {
  PlacementPlan plan;
  plan.models.resize(request.models.size());
  std::vector<ShapeBook> books;
  std::vector<std::vector<const Shape*>> shapes(request.models.size());
  books.reserve(request.models.size());
  const std::vector<Domain> domains = domains_of(request, {}, {.group_over_pcie = true});
  for (size_t model = 0; model < request.models.size(); ++model) {
    books.emplace_back(request, static_cast<int>(model), Relaxed{.group_over_pcie = true});
  }
  std::vector<PlacedReplica> stay(kept);
  for (PlacedReplica& replica : stay) {
    const auto model = static_cast<size_t>(replica.model);
    const Shape* shape = shape_of(request, domains, books[model], replica.tensor_parallel_size, replica.devices);
    if (shape == nullptr) continue;
    shapes[model].push_back(shape);
    // Plan files keep no figures. Those of other layers than the planner's own are close.
    replica.best = shape->best;
    replica.lone = shape->lone;
    replica.group_link = shape->group_link;
    for (size_t stage = 0; stage < replica.stages.size(); ++stage) {
      const int layers = replica.stages[stage].layers;
      replica.stages[stage] = shape->stages[stage];
      replica.stages[stage].layers = layers;
    }
  }
  for (const int model : placing_order(request)) {
    const auto at = static_cast<size_t>(model);
    PackingGoal goal = goal_of(request, request.models[at]);
    double there = 0;
    for (const Shape* shape : shapes[at]) there += shape->best.request_rate;
    const bool wanted = goal.request_rate > 0 || there == 0;
    if (goal.request_rate > 0) goal.request_rate = std::max(0.0, goal.request_rate - there);
    const bool held = wanted && there > 0 && goal.request_rate <= request.models[at].load.request_rate * kNoise;
    const size_t before = plan.replicas.size();
    if (!held) {
      const Status placed_rest = place_model(request, model, goal, kept, &plan);
      if (!placed_rest.ok() && (goal.request_rate > 0 || there == 0)) return std::nullopt;
    }
    for (size_t i = before; i < plan.replicas.size(); ++i) {
      const PlacedReplica& replica = plan.replicas[i];
      shapes[at].push_back(shape_of(request, domains, books[at], replica.tensor_parallel_size, replica.devices));
    }
    std::erase(shapes[at], nullptr);
    plan.models[at].outcome = outcome_of(shapes[at], request.models[at].load, request.objective);
  }
  plan.replicas.insert(plan.replicas.begin(), stay.begin(), stay.end());
  plan.left_over = left_over(request, plan.replicas);
  plan.notes = unusable(request);
  return plan;
}

}  // namespace

Result<PlacementPlan> plan_placement(const PlanRequest& request) {
  RETURN_IF_ERROR(check_request(request));
  std::vector<int> order = placing_order(request);
  if (order.size() > 1) RETURN_IF_ERROR(find_order(request, &order));
  size_t placed = 0;
  ASSIGN_OR_RETURN(PlacementPlan plan, place_in_order(request, order, true, &placed));
  plan.left_over = left_over(request, plan.replicas);
  plan.notes = unusable(request);
  return plan;
}

Result<PlacementPlan> replan(const PlanRequest& request, const Cluster& old_cluster, const PlacementPlan& previous) {
  RETURN_IF_ERROR(check_request(request));
  const std::vector<PlacedReplica> kept = survivors(request, old_cluster, previous);
  if (std::optional<PlacementPlan> plan = plan_beside(request, kept)) return std::move(*plan);
  // One survivor gives up its place, then any two next to each other, and so on: the fewest that let the load hold.
  for (size_t moved = 1; moved < kept.size(); ++moved) {
    for (size_t first = 0; first + moved <= kept.size(); ++first) {
      std::vector<PlacedReplica> rest(kept);
      rest.erase(rest.begin() + static_cast<ptrdiff_t>(first), rest.begin() + static_cast<ptrdiff_t>(first + moved));
      std::optional<PlacementPlan> plan = plan_beside(request, rest);
      if (!plan) continue;
      plan->moved = static_cast<int>(moved);
      return std::move(*plan);
    }
  }
  ASSIGN_OR_RETURN(PlacementPlan plan, plan_placement(request));
  plan.moved = static_cast<int>(kept.size());
  return plan;
}

}  // namespace skein
