#include "topology/explain.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "base/check.h"

namespace skein {
namespace {

constexpr size_t kAlternativesMax = 5;
constexpr int kDegrees[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32};
constexpr int kDevicesTriedMax = 512;  // to find out how many would do
constexpr double kNoticeable = 0.005;  // gains below that are called none

const ModelDemand& demand_of(const Search& search) { return search.request.models[static_cast<size_t>(search.model)]; }

Packing pack(const Search& search, const Relaxed& rules, const PackingGoal& goal, ShapeBook& book) {
  return Packer(*search.request.cluster, book, domains_of(search.request, search.taken, rules)).best(goal);
}

std::vector<const Shape*> shapes_of(const Packing& packing) {
  std::vector<const Shape*> shapes;
  for (const Packed& replica : packing.replicas) shapes.push_back(replica.shape);
  return shapes;
}

double worst_latency_ms(const Packing& packing, const Load& load) {
  double worst = 0;
  for (const Packed& replica : packing.replicas) worst = std::max(worst, replica.shape->lone.latency_ms(load));
  return worst;
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
    case Objective::kLatency: return 1 / worst_latency_ms(packing, demand_of(search).load);
  }
  return 0;
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value < 10 ? "%.2g" : "%.0f", value);
  return text;
}

// The least devices of a kind that hold the model and a request, side by side in one domain; 0: no number does.
int devices_needed(const Search& search, ShapeBook& book, const Domain& like) {
  for (int devices = 1; devices <= kDevicesTriedMax; ++devices) {
    for (const int tp : kDegrees) {
      if (devices % tp != 0 || (tp > 1 && like.group_max == 1) || tp > std::max(8, like.group_max)) continue;
      if (search.goal.tp != 0 && search.goal.tp != tp) continue;
      const int stages = devices / tp;
      if (stages > book.layers() || (search.goal.pp != 0 && search.goal.pp != stages)) continue;
      const StageWays ways{.group = like.inside, .next = like.inside};
      const auto many = static_cast<size_t>(stages);
      if (book.find(std::vector(many, &like), tp, std::vector(many, ways)) != nullptr) return devices;
    }
  }
  return 0;
}

struct Missing {
  int needed = 0;
  int there = 0;
  std::string kind;
};

// Of the kind that lacks the fewest.
std::optional<Missing> missing_devices(const Search& search, const Relaxed& rules) {
  const Cluster& cluster = *search.request.cluster;
  ShapeBook book(search.request, search.model, rules);
  std::map<int, int> there;
  const std::vector<Domain> domains = domains_of(search.request, search.taken, rules);
  for (const Domain& domain : domains) there[domain.kind] += domain.size();
  std::optional<Missing> least;
  for (const auto& [kind, count] : there) {
    const auto widest = std::ranges::max_element(domains, {}, [kind = kind](const Domain& domain) {
      return domain.kind == kind ? domain.group_max : 0;
    });
    const int needed = devices_needed(search, book, *widest);
    if (needed == 0 || (least && needed - count >= least->needed - least->there)) continue;
    least = {.needed = needed, .there = count, .kind = cluster.kinds[static_cast<size_t>(kind)].name};
  }
  return least;
}

std::string asked_degrees(const Search& search) {
  std::string text;
  if (search.goal.tp != 0) text += "tensor-parallel-size " + std::to_string(search.goal.tp);
  if (search.goal.pp != 0) {
    text += (text.empty() ? "" : " and ") + std::string("pipeline-parallel-size ") + std::to_string(search.goal.pp);
  }
  return text;
}

std::string asked_shape(const Search& search) {
  const std::string degrees = asked_degrees(search);
  return degrees.empty() ? degrees : " with " + degrees;
}

// One that holds, and what is asked for without it.
struct Constraint {
  std::string what;
  Relaxed rules;
  PlanRequest request;
  PackingGoal goal;
};

std::vector<Constraint> constraints_of(const Search& search, const Relaxed& rules) {
  const PlanRequest& request = search.request;
  const ModelDemand& demand = demand_of(search);
  const Cluster& cluster = *request.cluster;
  std::vector<Constraint> constraints;
  const auto add = [&](std::string what) -> Constraint& {
    return constraints.emplace_back(
        Constraint{.what = std::move(what), .rules = rules, .request = request, .goal = search.goal});
  };
  if (demand.level.ttft_ms > 0) add("first token within " + number_text(demand.level.ttft_ms) + " ms").rules.ttft = true;
  if (demand.level.itl_ms > 0) add("a token every " + number_text(demand.level.itl_ms) + " ms").rules.itl = true;
  add("memory of the devices").rules.memory = true;
  add("max-num-seqs " + std::to_string(demand.memory.slots)).rules.sequences = true;
  const auto is_apart = [&](const Domain& domain) {
    return domain.size() > 1 && domain.group_max == 1 && cluster.kinds[static_cast<size_t>(domain.kind)].gpu;
  };
  if (std::ranges::any_of(domains_of(request, search.taken, rules), is_apart)) {
    add("tensor parallelism over NVLink only").rules.group_over_pcie = true;
  }
  if (search.goal.tp != 0 || search.goal.pp != 0) {
    Constraint& any = add(asked_degrees(search));
    any.goal.tp = any.goal.pp = 0;
    ModelDemand& free = any.request.models[static_cast<size_t>(search.model)];
    free.tensor_parallel_size = free.pipeline_parallel_size = 0;
  }
  if (!request.nodes.empty() && request.nodes.size() < cluster.nodes.size()) {
    add(std::to_string(request.nodes.size()) + " of " + std::to_string(cluster.nodes.size()) + " nodes").request.nodes.clear();
  }
  if (request.even_layers) add("layers dealt out evenly").request.even_layers = false;
  return constraints;
}

Status level_does_not_hold(const Search& search, const Packing& without_level) {
  const ModelDemand& demand = demand_of(search);
  double ttft = 1e300;
  double itl = 1e300;
  for (const Packed& replica : without_level.replicas) {
    ttft = std::min(ttft, replica.shape->lone.ttft_ms);
    itl = std::min(itl, replica.shape->lone.itl_ms);
  }
  std::string remedy;
  if (demand.level.ttft_ms > 0 && demand.level.ttft_ms < ttft) {
    remedy = "ttft-ms to " + std::to_string(static_cast<int>(std::ceil(ttft)));
  }
  if (demand.level.itl_ms > 0 && demand.level.itl_ms < itl) {
    remedy += (remedy.empty() ? "" : " and ") + std::string("itl-ms to ") + std::to_string(static_cast<int>(std::ceil(itl)));
  }
  if (remedy.empty()) remedy = "either";  // each can be had, but not both on one shape
  return resource_exhausted("the service level does not hold here even for one request at a time: its first token takes " +
                            number_text(ttft) + " ms and each further one " + number_text(itl) + " ms" +
                            asked_shape(search) + "; raise " + remedy + ", or use shorter requests");
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
      const Packing full = packer->in_cells(goal);
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

std::vector<Alternative> alternatives_to(const Search& search, const Packing& packing, ShapeBook& book) {
  const double chosen = figure(search, packing);
  std::vector<Alternative> all;
  Packer packer(*search.request.cluster, book, packing.domains);
  for (const PackingGoal& goal : promising_shapes(search, packing.domains, book, &packer)) {
    const Packing other = packer.best(goal);
    if (other.replicas.empty() || shapes_text(other) == shapes_text(packing)) continue;
    all.push_back({.what = "TP " + std::to_string(goal.tp) + " x PP " + std::to_string(goal.pp),
                   .replicas = static_cast<int>(other.replicas.size()),
                   .outcome = outcome_of(shapes_of(other), demand_of(search).load, goal.objective),
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
                       .taken = search.taken};
    ShapeBook shapes(freer.request, freer.model, constraint.rules, book);
    const Packing other = pack(freer, constraint.rules, freer.goal, shapes);
    const double gain = figure(search, other) / chosen - 1;
    costs.push_back({.constraint = constraint.what,
                     .gain = gain < kNoticeable ? 0 : gain,
                     .without = shapes_text(other)});
  }
  return costs;
}

Status too_little(const Search& search, const Packing& packing) {
  const double per_device = packing.request_rate / packing.devices;
  const double lacking = search.goal.request_rate - packing.request_rate;
  const auto devices = static_cast<int>(std::ceil(lacking / per_device));
  const auto largest = std::ranges::max_element(packing.domains, {}, &Domain::size);
  const std::string& kind = search.request.cluster->kinds[static_cast<size_t>(largest->kind)].name;
  return resource_exhausted("these devices give " + number_text(packing.request_rate) + " requests/s of the " +
                            number_text(search.goal.request_rate) + " asked for (" + shapes_text(packing) +
                            "); add about " + std::to_string(devices) + " x " + kind +
                            ", lower request-rate, or allow higher latencies");
}

Status nothing_fits(const Search& search) {
  const Relaxed anywhere{.group_over_pcie = true};
  Relaxed any_level = anywhere;
  any_level.ttft = any_level.itl = true;
  ShapeBook book(search.request, search.model, any_level);
  PackingGoal goal = search.goal;
  goal.objective = Objective::kGoodput;
  const Packing without_level = pack(search, any_level, goal, book);
  if (!without_level.replicas.empty()) return level_does_not_hold(search, without_level);
  const std::string tokens =
      std::to_string(demand_of(search).load.input_tokens + demand_of(search).load.output_tokens);
  if (domains_of(search.request, search.taken, any_level).empty()) {
    return resource_exhausted("the models placed before it leave no device free; add nodes, or plan it apart from them");
  }
  const std::optional<Missing> missing = missing_devices(search, any_level);
  if (!missing) {
    return resource_exhausted("the model and one request of " + tokens + " tokens do not fit on any number of these devices" +
                              asked_shape(search) + "; use devices with more memory or shorter requests");
  }
  const std::string needed = std::to_string(missing->needed) + " x " + missing->kind;
  if (missing->needed <= missing->there) {
    return resource_exhausted("the model and one request of " + tokens + " tokens need " + needed + asked_shape(search) +
                              ", side by side or joined by a network, and they are not; describe the links between nodes");
  }
  return resource_exhausted("the model and one request of " + tokens + " tokens need " + needed + asked_shape(search) +
                            " and " + std::to_string(missing->there) + " are free; add " +
                            std::to_string(missing->needed - missing->there) + " or use a smaller model");
}

}  // namespace skein
