#include "topology/explain.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "base/check.h"

namespace skein {
namespace {

constexpr size_t kAlternativesMax = 5;
constexpr double kNoticeable = 0.005;  // gains below that are called none

const ModelDemand& demand_of(const Search& search) { return search.request.models[static_cast<size_t>(search.model)]; }

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

// Goals that allow one shape each: those that give the most per device when the devices are filled with them, or the
// lowest latency where that is what counts.
std::vector<PackingGoal> promising_shapes(const Search& search, const std::vector<Domain>& domains, ShapeBook& book) {
  int devices = 0;
  int tp_max = 1;
  for (const Domain& domain : domains) {
    devices += domain.size();
    tp_max = std::max(tp_max, domain.group_max);
  }
  std::vector<std::pair<double, PackingGoal>> ranked;
  Packer packer(*search.request.cluster, book, domains);
  for (const int tp : kDegrees) {
    for (const int pp : kDegrees) {
      if (tp > tp_max || tp * pp > devices || pp > book.layers()) continue;
      if ((search.goal.tp != 0 && search.goal.tp != tp) || (search.goal.pp != 0 && search.goal.pp != pp)) continue;
      PackingGoal goal = search.goal;
      goal.tp = tp;
      goal.pp = pp;
      goal.objective = Objective::kGoodput;
      const Packing full = packer.best(goal);
      if (full.replicas.empty()) continue;
      const bool latency = search.goal.objective == Objective::kLatency;
      const double worth = latency ? figure(search, full) : full.request_rate / full.devices;
      goal.objective = search.goal.objective;
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

std::string shape_text(const Shape& shape) {
  return "TP " + std::to_string(shape.tp) + " x PP " + std::to_string(shape.stages.size());
}

std::string number_text(double value) {
  char text[32];
  std::snprintf(text, sizeof text, value < 10 ? "%.2g" : "%.0f", value);
  return text;
}

std::string shapes_text(const Packing& packing) {
  std::vector<std::pair<std::string, int>> counts;
  for (const Packed& replica : packing.replicas) {
    const std::string text = shape_text(*replica.shape);
    auto at = std::ranges::find(counts, text, &std::pair<std::string, int>::first);
    if (at == counts.end()) at = counts.insert(at, {text, 0});
    ++at->second;
  }
  std::string text;
  for (const auto& [shape, count] : counts) {
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " x (" + shape + ")";
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
  for (const PackingGoal& goal : promising_shapes(search, domains, book)) {
    const Packing other = Packer(*search.request.cluster, book, domains).best(goal);
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

std::vector<ConstraintCost> constraint_costs(const Search& search, const Relaxed& rules, const Packing& packing) {
  const ModelDemand& demand = demand_of(search);
  std::vector<std::pair<std::string, Relaxed>> constraints;
  const auto add = [&](std::string what, bool Relaxed::*lifted) {
    Relaxed without = rules;
    without.*lifted = true;
    constraints.emplace_back(std::move(what), without);
  };
  if (demand.level.ttft_ms > 0) add("first token within " + number_text(demand.level.ttft_ms) + " ms", &Relaxed::ttft);
  if (demand.level.itl_ms > 0) add("a token every " + number_text(demand.level.itl_ms) + " ms", &Relaxed::itl);
  add("memory of the devices", &Relaxed::memory);
  add("max-num-seqs " + std::to_string(demand.memory.slots), &Relaxed::sequences);
  if (!rules.group_over_pcie) add("tensor parallelism over NVLink only", &Relaxed::group_over_pcie);
  const double chosen = figure(search, packing);
  std::vector<ConstraintCost> costs;
  const auto compare = [&](const std::string& what, const Search& where, const Relaxed& without) {
    ShapeBook book(search.request, search.model, without);
    const Packing other = with_kept(where, pack_beside(where, without, book), book);
    const double gain = figure(search, other) / chosen - 1;
    costs.push_back({.constraint = what, .gain = gain < kNoticeable ? 0 : gain, .without = shapes_text(other)});
  };
  for (const auto& [what, without] : constraints) compare(what, search, without);
  if (search.kept.empty()) return costs;
  Search anew = search;
  anew.kept.clear();
  const size_t kept = search.kept.size();
  compare(std::to_string(kept) + (kept == 1 ? " replica stays where it is" : " replicas stay where they are"), anew, rules);
  return costs;
}

}  // namespace skein
