#include "topology/planner.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "base/check.h"
#include "topology/device_kinds.h"
#include "topology/explain.h"
#include "topology/memory.h"
#include "topology/placing.h"
#include "topology/refusal.h"

namespace skein {
namespace {

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

std::vector<DeviceId> left_over(const PlanRequest& request, const std::vector<PlacedReplica>& replicas) {
  std::vector<DeviceId> free;
  for (const Domain& domain : domains_of(request, devices_of(replicas), {})) {
    for (const int device : domain.devices) free.push_back({.node = domain.node, .device = device});
  }
  std::ranges::sort(free);
  return free;
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

// Beside its own of `kept`, on what the plan so far and the others of `kept` leave.
Search search_of(const PlanRequest& request, int model, const std::vector<PlacedReplica>& kept,
                 const PlacementPlan& so_far) {
  Search search{.request = request,
                .model = model,
                .goal = goal_of(request, request.models[static_cast<size_t>(model)]),
                .taken = devices_of(so_far.replicas)};
  for (const PlacedReplica& replica : kept) {
    if (replica.model == model) {
      search.kept.push_back(replica);
    } else {
      search.taken.insert(search.taken.end(), replica.devices.begin(), replica.devices.end());
    }
  }
  return search;
}

// What a model gets, on its devices: `all` with the replicas that are kept, these last.
struct Found {
  Relaxed rules = {};
  Packing fresh = {};
  Packing all = {};
};

bool reached(const Search& search, const Packing& packing) {
  return !packing.replicas.empty() && packing.request_rate * (1 + kNoise) >= search.goal.request_rate;
}

// Tensor parallelism over PCIe only where nothing else fits.
Found find_places(const Search& search, Books* books) {
  Found found;
  for (const Relaxed& rules : {Relaxed{}, Relaxed{.group_over_pcie = true}}) {
    ShapeBook& book = books->of(search.model, rules);
    found = {.rules = rules, .fresh = place_beside(search, rules, book)};
    found.all = with_kept(search, found.fresh, book);
    if (!found.fresh.replicas.empty() || reached(search, found.all)) break;
  }
  return found;
}

Status refusal(const Search& search, const Found& found) {
  return found.all.replicas.empty() ? nothing_fits(search) : too_little(search, found.all);
}

void append(const Search& search, const Found& found, PlacementPlan* plan) {
  std::vector<PlacedReplica> replicas;
  for (const Packed& fresh : found.fresh.replicas) {
    replicas.push_back(placed(search.request, *fresh.shape, search.model, fresh.devices));
  }
  std::ranges::stable_sort(replicas, {}, [](const PlacedReplica& replica) { return replica.devices.front(); });
  plan->replicas.insert(plan->replicas.end(), replicas.begin(), replicas.end());
}

ModelPlan explained(const Search& search, const Found& found, ShapeBook& book) {
  const ModelDemand& demand = search.demand();
  std::vector<const Shape*> shapes;
  for (const Packed& replica : found.all.replicas) shapes.push_back(replica.shape);
  return {.outcome = outcome_of(shapes, demand.load, search.request.objective),
          .alternatives = alternatives_to(search, found.rules, found.all, book),
          .constraints = constraint_costs(search, found.rules, found.all, book)};
}

// Places models in that order, each on what those before it leave, until one does not reach its load. How many do.
size_t place_in_order(const PlanRequest& request, const std::vector<PlacedReplica>& kept, const std::vector<int>& order,
                      Books* books) {
  PlacementPlan plan;
  for (size_t placed = 0; placed < order.size(); ++placed) {
    const Search search = search_of(request, order[placed], kept, plan);
    const Found found = find_places(search, books);
    if (!reached(search, found.all)) return placed;
    const bool last = placed + 1 == order.size();
    if (!last) append(search, found, &plan);
  }
  return order.size();
}

// An order of models in which all reach their loads; else one in which the first lacks something with all devices, or
// that by size.
struct Order {
  std::vector<int> models;
  bool all = false;
};

// Where those before leave too little to a model, it goes first.
Order find_order(const PlanRequest& request, const std::vector<PlacedReplica>& kept, Books* books) {
  std::vector<int> order = placing_order(request);
  for (size_t tries = 0; tries < request.models.size(); ++tries) {
    const size_t placed = place_in_order(request, kept, order, books);
    if (placed == order.size() || placed == 0) return {.models = order, .all = placed > 0};
    const auto at = order.begin() + static_cast<ptrdiff_t>(placed);
    std::rotate(order.begin(), at, at + 1);
  }
  return {.models = placing_order(request)};
}

Status check_part(const Cluster& cluster, const NodePart& part) {
  const auto node = std::ranges::find(cluster.nodes, part.node, &Node::name);
  if (node == cluster.nodes.end()) {
    return invalid_argument("the cluster \"" + cluster.name + "\" has no node \"" + part.node + "\"; leave it out of --nodes");
  }
  if (part.first == 0 && part.last == INT32_MAX) return {};
  const auto count = static_cast<int>(node->devices.size());
  if (count > 0 && !kind_of(cluster, node->devices[0]).gpu) {
    return invalid_argument("--nodes names a part of \"" + part.node + "\", which computes on its cores, and these are used "
                            "all together: name the node alone");
  }
  if (part.first <= part.last && part.last < count) return {};
  return invalid_argument("--nodes names devices " + std::to_string(part.first) + " to " + std::to_string(part.last) +
                          " of \"" + part.node + "\", which has " + std::to_string(count) +
                          ", counted from 0: give NODE:FIRST-LAST, or the node alone for all");
}

std::vector<std::string> notes_of(const PlanRequest& request, const std::vector<PlacedReplica>& replicas) {
  std::vector<std::string> notes = unusable(request);
  const bool assumed = std::ranges::any_of(replicas, [](const PlacedReplica& replica) {
    return std::ranges::any_of(replica.stages, &PlannedStage::runtime_assumed);
  });
  if (assumed) {
    notes.push_back("what communicators take of a GPU's memory was not measured over all of these links: there, the most that "
                    "was measured over others is assumed (`skein topology --measure` measures it)");
  }
  return notes;
}

}  // namespace

Status check_request(const PlanRequest& request) {
  CHECK(!request.models.empty());
  const Cluster& cluster = *request.cluster;
  for (const NodePart& part : request.nodes) RETURN_IF_ERROR(check_part(cluster, part));
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
    const Status context = check_context(model, demand.memory);
    if (!context.ok()) return context.within(demand.name);
    if (demand.load.input_tokens + demand.load.output_tokens > model.context_max) {
      return invalid_argument(demand.name + ": input-len and output-len are more than the " +
                              std::to_string(model.context_max) + " tokens that the model was made for; lower them");
    }
    if (demand.load.input_tokens + demand.load.output_tokens > demand.memory.context_max.value_or(INT32_MAX)) {
      return invalid_argument(demand.name + ": input-len and output-len are more than max-model-len " +
                              std::to_string(*demand.memory.context_max) + ": raise it, or give the lengths that requests have");
    }
    if (request.models.size() > 1 && demand.load.request_rate <= 0) {
      return invalid_argument(demand.name + ": several models share the cluster by their request rates; give each one");
    }
  }
  return {};
}

bool may_use(const std::vector<NodePart>& parts, const std::string& node, int device) {
  return parts.empty() || std::ranges::any_of(parts, [&](const NodePart& part) {
    return part.node == node && part.first <= device && device <= part.last;
  });
}

ShapeBook& Books::of(int model, const Relaxed& rules) {
  const auto other = books_.find({model, !rules.group_over_pcie});
  const std::pair key = {model, rules.group_over_pcie};
  const auto [at, fresh] = other == books_.end() ? books_.try_emplace(key, request_, model, rules)
                                                 : books_.try_emplace(key, request_, model, rules, other->second);
  return at->second;
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

bool holds_beside(const PlanRequest& request, const std::vector<PlacedReplica>& kept, Books* books) {
  return find_order(request, kept, books).all;
}

Result<PlacementPlan> plan_beside(const PlanRequest& request, const std::vector<PlacedReplica>& kept, Books* books) {
  PlacementPlan plan;
  plan.models.resize(request.models.size());
  const bool several = request.models.size() > 1;
  for (const int model : several ? find_order(request, kept, books).models : placing_order(request)) {
    const auto at = static_cast<size_t>(model);
    const Search search = search_of(request, model, kept, plan);
    const Found found = find_places(search, books);
    if (!reached(search, found.all)) return refusal(search, found).within(request.models[at].name);
    append(search, found, &plan);
    plan.models[at] = explained(search, found, books->of(model, found.rules));
  }
  plan.replicas.insert(plan.replicas.begin(), kept.begin(), kept.end());
  plan.left_over = left_over(request, plan.replicas);
  plan.notes = notes_of(request, plan.replicas);
  return plan;
}

Result<PlacementPlan> plan_placement(const PlanRequest& request) {
  RETURN_IF_ERROR(check_request(request));
  Books books(request);
  return plan_beside(request, {}, &books);
}

}  // namespace skein
