#include "topology/planner.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <set>

#include "base/check.h"
#include "topology/device_kinds.h"
#include "topology/explain.h"
#include "topology/like_nodes.h"
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
  if (request.models.size() > 1) {
    // They leave room for each other.
    goal.objective = Objective::kFewestDevices;
    goal.request_rate = std::max(goal.request_rate, kAnyRate);
  }
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

// How a model may be placed.
struct Terms {
  Relaxed rules = {};
  double latency_max_ms = 0;  // as PackingGoal::latency_max_ms
};

// What models are placed in.
struct Room {
  const PlanRequest& request;
  const std::vector<PlacedReplica>& kept;
  Books* books;
  std::vector<Terms> terms = {};  // by model; {}: with any latency, and groups over PCIe only where nothing else fits
};

// Beside its own of those that are kept, on what the others of these and `others` leave.
Search search_of(const Room& room, int model, const std::vector<PlacedReplica>& others) {
  Search search{.request = room.request,
                .model = model,
                .goal = goal_of(room.request, room.request.models[static_cast<size_t>(model)]),
                .taken = devices_of(others)};
  if (!room.terms.empty()) search.goal.latency_max_ms = room.terms[static_cast<size_t>(model)].latency_max_ms;
  for (const PlacedReplica& replica : room.kept) {
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

Found find_places(const Search& search, const Relaxed& rules, Books* books) {
  ShapeBook& book = books->of(search.model, rules);
  Found found{.rules = rules, .fresh = place_beside(search, rules, book)};
  found.all = with_kept(search, found.fresh, book);
  return found;
}

// Whether there are GPUs that may form a group only then.
bool group_over_pcie_counts(const Search& search) {
  return std::ranges::any_of(domains_of(search.request, search.taken, {}), [&](const Domain& domain) {
    return domain.size() > 1 && domain.group_max == 1 &&
           search.request.cluster->kinds[static_cast<size_t>(domain.kind)].gpu;
  });
}

Found find_places(const Search& search, const Room& room) {
  if (!room.terms.empty()) return find_places(search, room.terms[static_cast<size_t>(search.model)].rules, room.books);
  Found found;
  for (const Relaxed& rules : {Relaxed{}, Relaxed{.group_over_pcie = true}}) {
    if (rules.group_over_pcie && !group_over_pcie_counts(search)) break;
    found = find_places(search, rules, room.books);
    if (!found.fresh.replicas.empty() || reached(search, found.all)) break;
  }
  return found;
}

Status refusal(const Search& search, const Found& found) {
  return found.all.replicas.empty() ? nothing_fits(search) : too_little(search, found.all);
}

void append(const Search& search, const Found& found, std::vector<PlacedReplica>* all) {
  std::vector<PlacedReplica> replicas;
  for (const Packed& fresh : found.fresh.replicas) {
    replicas.push_back(placed(search.request, *fresh.shape, search.model, fresh.devices));
  }
  std::ranges::stable_sort(replicas, {}, [](const PlacedReplica& replica) { return replica.devices.front(); });
  all->insert(all->end(), replicas.begin(), replicas.end());
}

// As what the others have is theirs.
ModelPlan explained(Search search, const Found& found, ShapeBook& book) {
  const ModelDemand& demand = search.demand();
  if (search.request.objective == Objective::kLatency) {
    search.goal.objective = Objective::kLatency;
    search.goal.sparing = search.request.models.size() > 1;
    search.goal.latency_max_ms = 0;
  }
  std::vector<const Shape*> shapes;
  for (const Packed& replica : found.all.replicas) shapes.push_back(replica.shape);
  return {.outcome = outcome_of(shapes, demand.load, search.request.objective),
          .alternatives = alternatives_to(search, found.rules, found.all, book),
          .constraints = constraint_costs(search, found.rules, found.all, book)};
}

// Places models in that order, each on what those before it leave, until one does not reach its load. How many do.
size_t place_in_order(const Room& room, const std::vector<int>& order) {
  std::vector<PlacedReplica> replicas;
  for (size_t placed = 0; placed < order.size(); ++placed) {
    const Search search = search_of(room, order[placed], replicas);
    const Found found = find_places(search, room);
    if (!reached(search, found.all)) return placed;
    const bool last = placed + 1 == order.size();
    if (!last) append(search, found, &replicas);
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
Order find_order(const Room& room) {
  std::vector<int> order = placing_order(room.request);
  for (size_t tries = 0; tries < order.size(); ++tries) {
    const size_t placed = place_in_order(room, order);
    if (placed == order.size() || placed == 0) return {.models = order, .all = placed > 0};
    const auto at = order.begin() + static_cast<ptrdiff_t>(placed);
    std::rotate(order.begin(), at, at + 1);
  }
  return {.models = placing_order(room.request)};
}

// Appends them to the plan's replicas. What was found, by model.
Result<std::vector<Found>> place_models(const Room& room, const std::vector<int>& order, PlacementPlan* plan) {
  std::vector<Found> all(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const auto model = static_cast<size_t>(order[i]);
    const Search search = search_of(room, order[i], plan->replicas);
    Found found = find_places(search, room);
    if (!reached(search, found.all)) return refusal(search, found).within(room.request.models[model].name);
    append(search, found, &plan->replicas);
    all[model] = std::move(found);
  }
  return all;
}

// Of a lone request, as the only model that is placed; 0: it needs no replica beside those that are kept.
double latency_alone(const Room& room, int model, const Relaxed& rules) {
  Search alone = search_of(room, model, {});
  alone.goal.objective = Objective::kLatency;
  const Packing packing = place_beside(alone, rules, room.books->of(model, rules));
  return worst_latency_ms(packing, alone.demand().load);
}

// Sets terms with which the latencies of all are as low as they can be found beside each other, given places on any.
// First no model is slowed down more than needed against what it would have alone; then each is as fast as the others
// allow, in the order that is returned.
std::vector<int> lower_latencies(const std::vector<Found>& found, Room* room) {
  std::vector<double> alone;
  std::set<double> slowdowns;
  for (int model = 0; model < std::ssize(found); ++model) {
    const Relaxed& rules = found[static_cast<size_t>(model)].rules;
    alone.push_back(latency_alone(*room, model, rules));
    for (const double latency : room->books->of(model, rules).latencies()) {
      if (alone.back() > 0 && latency >= alone.back()) slowdowns.insert(latency / alone.back());
    }
  }
  for (const Found& of_model : found) room->terms.push_back({.rules = of_model.rules});
  const auto order_at = [&](double slowdown) {
    for (size_t i = 0; i < alone.size(); ++i) room->terms[i].latency_max_ms = slowdown * alone[i] * (1 + kNoise);
    return find_order(*room);
  };
  const std::vector<double> ascending(slowdowns.begin(), slowdowns.end());
  if (ascending.empty()) return find_order(*room).models;
  const auto least = std::ranges::partition_point(ascending, [&](double slowdown) { return !order_at(slowdown).all; });
  std::vector<int> order = order_at(least == ascending.end() ? ascending.back() : *least).models;
  for (const int model : order) {
    Terms& terms = room->terms[static_cast<size_t>(model)];
    const double highest = terms.latency_max_ms;
    std::vector<double> latencies = room->books->of(model, terms.rules).latencies();
    std::erase_if(latencies, [&](double latency) { return latency >= highest; });
    const auto lowest = std::ranges::partition_point(latencies, [&](double latency) {
      terms.latency_max_ms = latency * (1 + kNoise);
      return place_in_order(*room, order) < order.size();
    });
    terms.latency_max_ms = lowest == latencies.end() ? highest : *lowest * (1 + kNoise);
  }
  return order;
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
  std::set<std::string> guessed;
  for (const PlacedReplica& replica : replicas) {
    for (const DeviceId& id : replica.devices) {
      const DeviceKind& kind = kind_of(*request.cluster, id);
      if (is_guess(kind) && request.calibration->find_device(kind.name) == nullptr) guessed.insert(kind.name);
    }
  }
  for (const std::string& kind : guessed) {
    notes.push_back("nobody has measured \"" + kind + "\", and all figures of it are a guess: `skein topology --measure` measures it, "
                    "and --calibration takes what it wrote");
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
    if (request.models.size() > 1 && request.objective != Objective::kLatency && demand.load.request_rate <= 0) {
      return invalid_argument(demand.name + ": several models share the cluster by their request rates; give each one, or "
                              "plan with --objective latency");
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
  return find_order({.request = request, .kept = kept, .books = books}).all;
}

Result<PlacementPlan> plan_beside(const PlanRequest& request, const std::vector<PlacedReplica>& kept, Books* books) {
  Room room{.request = request, .kept = kept, .books = books};
  const bool several = request.models.size() > 1;
  std::vector<int> order = several ? find_order(room).models : placing_order(request);
  PlacementPlan plan;
  ASSIGN_OR_RETURN(std::vector<Found> found, place_models(room, order, &plan));
  if (several && request.objective == Objective::kLatency) {
    order = lower_latencies(found, &room);
    plan.replicas.clear();
    ASSIGN_OR_RETURN(found, place_models(room, order, &plan));
  }
  for (int model = 0; model < std::ssize(found); ++model) {
    std::vector<PlacedReplica> others = plan.replicas;
    std::erase_if(others, [&](const PlacedReplica& replica) { return replica.model == model; });
    const Found& own = found[static_cast<size_t>(model)];
    plan.models.push_back(explained(search_of(room, model, others), own, books->of(model, own.rules)));
  }
  plan.replicas.insert(plan.replicas.begin(), kept.begin(), kept.end());
  plan.left_over = left_over(request, plan.replicas);
  plan.notes = notes_of(request, plan.replicas);
  return plan;
}

Result<PlacementPlan> plan_placement(const PlanRequest& request) {
  RETURN_IF_ERROR(check_request(request));
  const std::optional<Cluster> alike = with_like_nodes(request);
  PlanRequest there = request;
  if (alike) there.cluster = &*alike;
  Books books(there);
  return plan_beside(there, {}, &books);
}

}  // namespace skein
