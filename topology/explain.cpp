#include "topology/explain.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>

#include "base/check.h"

namespace skein {
namespace {

constexpr size_t kAlternativesMax = 5;
constexpr size_t kClassesRanked = 8;   // of nodes alike, by which shapes are ranked
constexpr double kNoticeable = 0.005;  // gains below that are called none

std::vector<const Shape*> shapes_of(const Packing& packing) {
  std::vector<const Shape*> shapes;
  for (const Packed& replica : packing.replicas) shapes.push_back(replica.shape);
  return shapes;
}

// What the objective makes large.
double figure(const Search& search, const Packing& packing) {
  if (packing.replicas.empty()) return 0;
  switch (search.goal.objective) {
    case Objective::kGoodput: return packing.request_rate;
    case Objective::kFewestDevices: {
      // What does not reach the load counts by how far it gets.
      const double reached = std::min(1.0, packing.request_rate / search.goal.request_rate);
      return reached / packing.devices;
    }
    case Objective::kLatency: return 1 / worst_latency_ms(packing, search.demand().load);
  }
  return 0;
}

// "2 of 4 nodes", "12 of 16 devices" where some are left out of a node; empty: none is left out.
std::string used_part(const PlanRequest& request) {
  const Cluster& cluster = *request.cluster;
  size_t devices = 0;
  size_t used = 0;
  size_t nodes = 0;
  bool whole = true;
  for (const Node& node : cluster.nodes) {
    size_t here = 0;
    for (int device = 0; device < std::ssize(node.devices); ++device) {
      if (may_use(request.nodes, node.name, device)) ++here;
    }
    devices += node.devices.size();
    used += here;
    if (here > 0) ++nodes;
    whole = whole && (here == 0 || here == node.devices.size());
  }
  if (used == devices) return {};
  const auto text = [](size_t count, size_t all, const char* what) {
    return std::to_string(count) + " of " + std::to_string(all) + " " + what;
  };
  return whole ? text(nodes, cluster.nodes.size(), "nodes") : text(used, devices, "devices");
}

// One that holds, and what is asked for without it.
struct Constraint {
  std::string what;
  Relaxed rules;
  PlanRequest request;
  PackingGoal goal;
  std::vector<DeviceId> taken;
  std::vector<PlacedReplica> kept;
  bool other_memory = false;      // ranks hold other activations: nothing that was worked out is the same
  bool only_if_it_costs = false;  // is it said

  ModelDemand& demand(int model) { return request.models[static_cast<size_t>(model)]; }
};

// What was asked of a rank's memory and of its steps, where that is not what would be without.
void add_memory(const Search& search, const std::function<Constraint&(std::string)>& add_constraint) {
  const MemoryRequest& asked = search.demand().memory;
  const auto add = [&](std::string what) -> Constraint& {
    Constraint& constraint = add_constraint(std::move(what));
    constraint.only_if_it_costs = true;
    return constraint;
  };
  if (asked.step_tokens_max != default_step_tokens(asked.gpu)) {
    Constraint& usual = add("max-num-batched-tokens " + std::to_string(asked.step_tokens_max));
    usual.demand(search.model).memory.step_tokens_max = default_step_tokens(asked.gpu);
    usual.other_memory = true;
  }
  if (asked.context_max) {
    Constraint& any = add("max-model-len " + std::to_string(*asked.context_max));
    any.demand(search.model).memory.context_max.reset();
    any.other_memory = true;
  }
  if (asked.kv_bytes_per_rank) {
    Constraint& any = add("kv-cache-memory-bytes " + readable_bytes(*asked.kv_bytes_per_rank));
    any.demand(search.model).memory.kv_bytes_per_rank.reset();
  }
  const double share = search.request.memory_share;
  const double usual = PlanRequest().memory_share;
  if (asked.gpu && share < usual) add("gpu-memory-utilization " + number_text(share)).request.memory_share = usual;
}

std::vector<Constraint> constraints_of(const Search& search, const Relaxed& rules) {
  const PlanRequest& request = search.request;
  const ModelDemand& demand = search.demand();
  const Cluster& cluster = *request.cluster;
  std::vector<Constraint> constraints;
  const auto add = [&](std::string what) -> Constraint& {
    return constraints.emplace_back(Constraint{.what = std::move(what),
                                               .rules = rules,
                                               .request = request,
                                               .goal = search.goal,
                                               .taken = search.taken,
                                               .kept = search.kept});
  };
  if (demand.level.ttft_ms > 0) add("first token within " + number_text(demand.level.ttft_ms) + " ms").rules.ttft = true;
  if (demand.level.itl_ms > 0) add("a token every " + number_text(demand.level.itl_ms) + " ms").rules.itl = true;
  add("memory of the devices").rules.memory = true;
  add("max-num-seqs " + std::to_string(demand.memory.slots)).rules.sequences = true;
  add_memory(search, add);
  const auto is_apart = [&](const Domain& domain) {
    return domain.size() > 1 && domain.group_max == 1 && cluster.kinds[static_cast<size_t>(domain.kind)].gpu;
  };
  if (std::ranges::any_of(domains_of(request, search.taken, rules), is_apart)) {
    add("tensor parallelism over NVLink only").rules.group_over_pcie = true;
  }
  if (search.goal.tp != 0 || search.goal.pp != 0) {
    Constraint& any = add(degrees_text(search.goal));
    any.goal.tp = any.goal.pp = 0;
    ModelDemand& free = any.demand(search.model);
    free.tensor_parallel_size = free.pipeline_parallel_size = 0;
  }
  if (const std::string part = used_part(request); !part.empty()) add(part).request.nodes.clear();
  if (!search.taken.empty()) add("room for the other models").taken.clear();
  if (request.even_layers) add("layers dealt out evenly").request.even_layers = false;
  if (const size_t kept = search.kept.size(); kept > 0) {
    add(std::to_string(kept) + (kept == 1 ? " replica stays where it is" : " replicas stay where they are")).kept.clear();
  }
  return constraints;
}

// Goals that allow one shape each, of any degrees: those that give the most per device when the devices are filled with
// them, or the lowest latency where that is what counts.
std::vector<PackingGoal> promising_shapes(const Search& search, const std::vector<Domain>& domains, ShapeBook& book,
                                          Packer* packer) {
  int devices = 0;
  int tp_max = 1;
  for (const Domain& domain : domains) {
    devices += domain.size();
    tp_max = std::max(tp_max, domain.group_max);
  }
  // A node of cores has as many ranks as the degrees asked for need; GPUs can have others.
  const bool on_cores = !search.request.cluster->kinds[static_cast<size_t>(domains[0].kind)].gpu;
  std::vector<std::pair<double, PackingGoal>> ranked;
  for (const int tp : kDegrees) {
    for (const int pp : kDegrees) {
      if (tp > tp_max || tp * pp > devices || pp > book.layers()) continue;
      const bool other = (search.goal.tp != 0 && search.goal.tp != tp) || (search.goal.pp != 0 && search.goal.pp != pp);
      if (on_cores && other) continue;
      PackingGoal goal = search.goal;
      goal.tp = tp;
      goal.pp = pp;
      const Packing full = packer->in_cells(goal, kClassesRanked);
      if (full.replicas.empty()) continue;
      const bool latency = search.goal.objective == Objective::kLatency;
      const double worth = latency ? figure(search, full) : full.request_rate / full.devices;
      ranked.emplace_back(worth, goal);
    }
  }
  std::ranges::stable_sort(ranked, std::greater<>(), &std::pair<double, PackingGoal>::first);
  if (ranked.size() > kAlternativesMax + 2) ranked.resize(kAlternativesMax + 2);
  std::vector<PackingGoal> goals;
  for (const auto& [worth, goal] : ranked) goals.push_back(goal);
  return goals;
}

}  // namespace

double worst_latency_ms(const Packing& packing, const Load& load) {
  double worst = 0;
  for (const Packed& replica : packing.replicas) worst = std::max(worst, replica.shape->lone.latency_ms(load));
  return worst;
}

std::string shape_text(const Shape& shape) {
  return "TP " + std::to_string(shape.tp) + " x PP " + std::to_string(shape.stages.size());
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value < 10 ? "%.2g" : "%.0f", value);
  return text;
}

std::string degrees_text(const PackingGoal& goal) {
  std::string text;
  if (goal.tp != 0) text += "tensor-parallel-size " + std::to_string(goal.tp);
  if (goal.pp != 0) text += (text.empty() ? "" : " and ") + std::string("pipeline-parallel-size ") + std::to_string(goal.pp);
  return text;
}

std::string shapes_text(const Packing& packing) {
  using Degrees = std::pair<int, size_t>;
  std::vector<std::pair<Degrees, int>> counts;
  for (const Packed& replica : packing.replicas) {
    const Degrees degrees = {replica.shape->tp, replica.shape->stages.size()};
    auto at = std::ranges::find(counts, degrees, &std::pair<Degrees, int>::first);
    if (at == counts.end()) at = counts.insert(at, {degrees, 0});
    ++at->second;
  }
  std::string text;
  for (const auto& [degrees, count] : counts) {
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " x (TP " + std::to_string(degrees.first) + " x PP " +
            std::to_string(degrees.second) + ")";
  }
  return text.empty() ? "nothing" : text;
}

ModelOutcome outcome_of(const std::vector<const Shape*>& shapes, const Load& load, Objective objective) {
  ModelOutcome outcome;
  for (const Shape* shape : shapes) {
    outcome.request_rate_max += shape->best.request_rate;
    outcome.devices += shape->devices();
  }
  const double wanted = std::min(load.request_rate, outcome.request_rate_max);
  std::map<const Shape*, Operation> operations;
  for (const Shape* shape : shapes) {
    const Operation& usual = objective == Objective::kLatency ? shape->lone : shape->best;
    const auto [at, fresh] = operations.try_emplace(shape, usual);
    if (fresh && wanted > 0) {
      Load part = load;
      part.request_rate = wanted * shape->best.request_rate / outcome.request_rate_max;
      at->second = operation_at(*shape->cost, part, shape->limits);
    }
    outcome.request_rate += at->second.request_rate;
    outcome.ttft_ms = std::max(outcome.ttft_ms, at->second.ttft_ms);
    outcome.itl_ms = std::max(outcome.itl_ms, at->second.itl_ms);
    outcome.output_rate += at->second.output_rate;
  }
  return outcome;
}

std::vector<Alternative> alternatives_to(const Search& search, const Relaxed& rules, const Packing& packing,
                                         ShapeBook& book) {
  const double chosen = figure(search, packing);
  const std::vector<Domain> domains = domains_of(search.request, search.taken, rules);
  std::vector<Alternative> all;
  Packer packer(*search.request.cluster, book, domains);
  for (const PackingGoal& goal : promising_shapes(search, domains, book, &packer)) {
    const Packing other = seated(search, packer.best(goal), book);
    if (other.replicas.empty() || shapes_text(other) == shapes_text(packing)) continue;
    all.push_back({.what = "TP " + std::to_string(goal.tp) + " x PP " + std::to_string(goal.pp),
                   .replicas = static_cast<int>(other.replicas.size()),
                   .outcome = outcome_of(shapes_of(other), search.demand().load, goal.objective),
                   .change = figure(search, other) / chosen - 1});
  }
  std::ranges::stable_sort(all, std::greater<>(), &Alternative::change);
  if (all.size() > kAlternativesMax) all.resize(kAlternativesMax);
  return all;
}

std::vector<ConstraintCost> constraint_costs(const Search& search, const Relaxed& rules, const Packing& packing,
                                             const ShapeBook& book) {
  const double chosen = figure(search, packing);
  std::vector<ConstraintCost> costs;
  for (const Constraint& constraint : constraints_of(search, rules)) {
    const Search freer{.request = constraint.request,
                       .model = search.model,
                       .goal = constraint.goal,
                       .taken = constraint.taken,
                       .kept = constraint.kept};
    ShapeBook shapes = constraint.other_memory ? ShapeBook(freer.request, freer.model, constraint.rules)
                                               : ShapeBook(freer.request, freer.model, constraint.rules, book);
    const Packing other = with_kept(freer, place_beside(freer, constraint.rules, shapes), shapes);
    const double gain = figure(search, other) / chosen - 1;
    if (gain < kNoticeable && constraint.only_if_it_costs) continue;
    costs.push_back({.constraint = constraint.what,
                     .gain = gain < kNoticeable ? 0 : gain,
                     .without = shapes_text(other)});
  }
  return costs;
}

}  // namespace skein
