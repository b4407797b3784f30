#include "topology/packing.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "base/check.h"

namespace skein {
namespace {

constexpr int64_t kStatesMax = 7000;        // of a cell: four nodes of eight devices
constexpr int64_t kLeftOverStatesMax = 2000;
constexpr int kStagesMax = 64;
constexpr double kNoise = 1e-9;  // relative; less is no improvement
constexpr int kAnyOrderStagesMax = 6;
constexpr double kNever = -1;

bool better(double rate, double than) { return rate > than * (1 + kNoise); }

}  // namespace

// A replica in a cell, by what it takes.
struct Packer::Column {
  std::vector<int> demand;
  int64_t offset = 0;  // of a state that has so much more
  double rate = kNever;
  Packed replica;
};

// Values by state: mixed-radix numbers of devices taken from each domain.
struct Packer::Table {
  std::vector<int> sizes;
  std::vector<int64_t> strides;
  std::vector<double> exactly;  // the best rate of replicas that take just these devices
  std::vector<double> within;   // ... at most these
  std::vector<int> last;        // column that `exactly` ends with
  std::vector<Column> columns;

  explicit Table(std::vector<int> domain_sizes) : sizes(std::move(domain_sizes)) {
    int64_t count = 1;
    for (const int size : sizes) {
      strides.push_back(count);
      count *= size + 1;
    }
    exactly.assign(static_cast<size_t>(count), kNever);
    within.assign(static_cast<size_t>(count), 0);
    last.assign(static_cast<size_t>(count), -1);
    exactly[0] = 0;
  }

  void extend(int64_t state, const std::vector<int>& taken) {
    const auto at = static_cast<size_t>(state);
    for (size_t i = 0; i < columns.size(); ++i) {
      const Column& column = columns[i];
      if (!std::ranges::equal(column.demand, taken, std::less_equal<>())) continue;
      const double rest = exactly[static_cast<size_t>(state - column.offset)];
      if (rest == kNever || !better(rest + column.rate, exactly[at])) continue;
      exactly[at] = rest + column.rate;
      last[at] = static_cast<int>(i);
    }
    within[at] = std::max(exactly[at], 0.0);
    for (size_t d = 0; d < sizes.size(); ++d) {
      if (taken[d] > 0) within[at] = std::max(within[at], within[static_cast<size_t>(state - strides[d])]);
    }
  }

  void insert(int64_t state, Column column) {
    const auto at = static_cast<size_t>(state);
    if (!better(column.rate, within[at])) return;
    exactly[at] = within[at] = column.rate;
    last[at] = static_cast<int>(columns.size());
    column.offset = state;
    columns.push_back(std::move(column));
  }

  std::vector<Packed> replicas(int64_t state) const {
    std::vector<Packed> found;
    while (state > 0) {
      const Column& column = columns[static_cast<size_t>(last[static_cast<size_t>(state)])];
      found.push_back(column.replica);
      state -= column.offset;
    }
    return found;
  }
};

Packer::Packer(const Cluster& cluster, ShapeBook& book, std::vector<Domain> domains)
    : cluster_(cluster), book_(book), domains_(std::move(domains)) {}

Packing Packer::best(const PackingGoal& goal) {
  switch (goal.objective) {
    case Objective::kGoodput: return most(goal);
    case Objective::kFewestDevices: return fewest(goal);
    case Objective::kLatency: return lowest_latency(goal);
  }
  return {};
}

int64_t Packer::states(const Cell& cell) const {
  int64_t count = 1;
  for (const int domain : cell) count *= domains_[static_cast<size_t>(domain)].size() + 1;
  return count;
}

// Cells with the same text have the same solutions.
std::string Packer::signature(const Cell& cell) const {
  std::string text;
  for (size_t i = 0; i < cell.size(); ++i) {
    const Domain& domain = domains_[static_cast<size_t>(cell[i])];
    text += domain.key + "," + std::to_string(domain.size()) + "," + std::to_string(domain.group_max);
    for (size_t j = 0; j < i; ++j) {
      const Domain& other = domains_[static_cast<size_t>(cell[j])];
      const auto path = path_between(cluster_, {other.node, other.devices[0]}, {domain.node, domain.devices[0]});
      text += "<" + (path ? path_key(*path) : "none");
    }
    text += ";";
  }
  return text;
}

const Packer::Front& Packer::solve(const Cell& cell, const PackingGoal& goal) {
  const std::string key = std::to_string(goal.tp) + "x" + std::to_string(goal.pp) + "@" +
                          std::to_string(latency_max_ms_) + ":" + signature(cell);
  const auto [at, fresh] = fronts_.try_emplace(key);
  if (fresh) at->second = solve_anew(cell, goal);
  return at->second;
}

// Domains of a cell that may change places: what they are, and their ways to all others.
std::vector<std::string> Packer::likenesses(const Cell& cell) const {
  std::vector<std::string> texts;
  for (const int index : cell) {
    const Domain& domain = domains_[static_cast<size_t>(index)];
    std::vector<std::string> ways;
    for (const int other_index : cell) {
      if (other_index == index) continue;
      const Domain& other = domains_[static_cast<size_t>(other_index)];
      const auto path = path_between(cluster_, {domain.node, domain.devices[0]}, {other.node, other.devices[0]});
      ways.push_back(path ? path_key(*path) : "none");
    }
    std::ranges::sort(ways);
    std::string& text = texts.emplace_back(domain.key);
    for (const std::string& way : ways) text += "<" + way;
  }
  return texts;
}

Packer::Front Packer::solve_anew(const Cell& cell, const PackingGoal& goal) {
  likeness_ = likenesses(cell);
  std::vector<int> sizes;
  for (const int domain : cell) sizes.push_back(domains_[static_cast<size_t>(domain)].size());
  Table table(sizes);
  std::vector<int> taken(sizes.size(), 0);
  std::vector<int64_t> best_state(static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), 0)) + 1, 0);
  for (int64_t state = 1; state < static_cast<int64_t>(table.exactly.size()); ++state) {
    for (size_t d = 0; ++taken[d] > sizes[d]; ++d) taken[d] = 0;
    table.extend(state, taken);
    Column column{.demand = taken, .replica = {}};
    try_replicas(cell, taken, goal, &column);
    table.insert(state, std::move(column));
    int64_t& best = best_state[static_cast<size_t>(std::accumulate(taken.begin(), taken.end(), 0))];
    if (table.exactly[static_cast<size_t>(state)] > table.exactly[static_cast<size_t>(best)]) best = state;
  }
  Front front = {{}};
  for (size_t devices = 1; devices < best_state.size(); ++devices) {
    const double rate = table.exactly[static_cast<size_t>(best_state[devices])];
    if (!better(rate, front.back().rate)) continue;
    front.push_back({.devices = static_cast<int>(devices), .rate = rate,
                     .replicas = table.replicas(best_state[devices])});
  }
  return front;
}

// The best replica that takes just `demand`, if any does better than nothing.
void Packer::try_replicas(const Cell& cell, const std::vector<int>& demand, const PackingGoal& goal, Column* best) {
  int tp_max = INT32_MAX;
  int devices = 0;
  int common = 0;  // a degree divides what every domain gives
  for (size_t d = 0; d < cell.size(); ++d) {
    if (demand[d] == 0) continue;
    tp_max = std::min(tp_max, domains_[static_cast<size_t>(cell[d])].group_max);
    common = std::gcd(common, demand[d]);
    devices += demand[d];
  }
  for (int tp = 1; tp <= std::min(tp_max, common); ++tp) {
    const int stages = devices / tp;
    if (common % tp != 0 || stages > std::min(kStagesMax, book_.layers())) continue;
    if ((goal.tp != 0 && goal.tp != tp) || (goal.pp != 0 && goal.pp != stages)) continue;
    std::vector<StageRun> left;
    for (size_t d = 0; d < cell.size(); ++d) {
      if (demand[d] > 0) left.push_back({.domain = static_cast<int>(d), .stages = demand[d] / tp});
    }
    std::vector<StageRun> runs;
    try_orders(cell, tp, &runs, left, best);
  }
}

// The stages of a node are neighbours, as mpirun deals ranks out node by node, and those of a domain, as anything else
// crosses more often; of domains that nothing tells apart the first goes first. Any order counts where kinds differ, as
// the first and the last stage have more to hold, and where a network may be faster than the way between two devices of
// a node.
void Packer::try_orders(const Cell& cell, int tp, std::vector<StageRun>* runs, const std::vector<StageRun>& left,
                        Column* best) {
  if (std::ranges::all_of(left, [](const StageRun& run) { return run.stages == 0; })) {
    return try_runs(cell, tp, *runs, best);
  }
  const bool any_order = any_order_counts(cell, left);
  const auto node_of = [&](const StageRun& run) {
    return domains_[static_cast<size_t>(cell[static_cast<size_t>(run.domain)])].node;
  };
  std::set<std::string> tried;
  for (size_t i = 0; i < left.size(); ++i) {
    const int domain = left[i].domain;
    if (left[i].stages == 0) continue;
    const bool again = !runs->empty() && runs->back().domain == domain;
    const bool used = std::ranges::find(*runs, domain, &StageRun::domain) != runs->end();
    const int node = node_of(left[i]);
    const bool stays = !runs->empty() && node_of(runs->back()) == node;
    if (!stays && std::ranges::find(*runs, node, node_of) != runs->end()) continue;
    const std::string likeness =
        likeness_[static_cast<size_t>(domain)] + std::to_string(left[i].stages) + (stays ? " here" : "");
    if (!used && !tried.insert(likeness).second) continue;
    std::vector<StageRun> rest = left;
    const int stages = any_order ? 1 : left[i].stages;
    rest[i].stages -= stages;
    const std::vector<StageRun> before = *runs;
    if (again) {
      runs->back().stages += stages;
    } else {
      runs->push_back({.domain = domain, .stages = stages});
    }
    try_orders(cell, tp, runs, rest, best);
    *runs = before;
  }
}

bool Packer::any_order_counts(const Cell& cell, const std::vector<StageRun>& runs) const {
  int stages = 0;
  bool counts = false;
  const auto domain_of = [&](const StageRun& run) -> const Domain& {
    return domains_[static_cast<size_t>(cell[static_cast<size_t>(run.domain)])];
  };
  for (const StageRun& run : runs) {
    stages += run.stages;
    const Domain& domain = domain_of(run);
    const bool near = domain.size() == 1 || domain.inside.link == LinkKind::kNvlink;
    counts = counts || !near || domain.key != domain_of(runs.front()).key;
  }
  return counts && stages <= kAnyOrderStagesMax;
}

void Packer::try_runs(const Cell& cell, int tp, const std::vector<StageRun>& runs, Column* best) {
  std::vector<Domain> domains;
  std::vector<StageRun> in_order = runs;
  for (size_t i = 0; i < in_order.size(); ++i) {
    domains.push_back(domains_[static_cast<size_t>(cell[static_cast<size_t>(in_order[i].domain)])]);
    in_order[i].domain = static_cast<int>(i);
  }
  const Shape* shape = book_.find(domains, tp, in_order);
  if (shape == nullptr || !better(shape->best.request_rate, best->rate)) return;
  if (latency_max_ms_ > 0 && shape->lone.latency_ms(book_.demand().load) > latency_max_ms_) return;
  best->rate = shape->best.request_rate;
  best->replica = {.shape = shape, .runs = runs};
}

std::vector<Packer::Cell> Packer::cells_of(const PackingGoal& goal) {
  Cell all(domains_.size());
  std::iota(all.begin(), all.end(), 0);
  int64_t count = 1;
  for (const Domain& domain : domains_) count = std::min<int64_t>(count * (domain.size() + 1), kStatesMax + 1);
  if (count <= kStatesMax) return {all};
  // Nodes alike, by rack and in their order.
  std::map<std::string, std::vector<Cell>> classes;
  for (size_t i = 0; i < domains_.size();) {
    Cell node;
    const int of = domains_[i].node;
    for (; i < domains_.size() && domains_[i].node == of; ++i) node.push_back(static_cast<int>(i));
    classes[signature(node)].push_back(node);
  }
  std::vector<Cell> cells;
  for (auto& [key, nodes] : classes) {
    std::ranges::stable_sort(nodes, {}, [&](const Cell& node) {
      return cluster_.nodes[static_cast<size_t>(domains_[static_cast<size_t>(node[0])].node)].rack;
    });
    cut_into_cells(nodes, goal, &cells);
  }
  return cells;
}

// As many nodes to a cell as a replica needs.
void Packer::cut_into_cells(const std::vector<Cell>& nodes, const PackingGoal& goal, std::vector<Cell>* cells) {
  Cell cell;
  size_t of_nodes = 0;
  while (of_nodes < nodes.size()) {
    cell.insert(cell.end(), nodes[of_nodes].begin(), nodes[of_nodes].end());
    ++of_nodes;
    if (states(cell) > kStatesMax) return;
    if (solve(cell, goal).size() > 1) break;
  }
  for (size_t first = 0; first + of_nodes <= nodes.size(); first += of_nodes) {
    cell.clear();
    for (size_t i = first; i < first + of_nodes; ++i) cell.insert(cell.end(), nodes[i].begin(), nodes[i].end());
    cells->push_back(cell);
  }
}

void Packer::add(const Cell& cell, const Choice& choice, Packing* packing) const {
  for (Packed replica : choice.replicas) {
    for (StageRun& run : replica.runs) run.domain = cell[static_cast<size_t>(run.domain)];
    packing->replicas.push_back(std::move(replica));
  }
  packing->request_rate += choice.rate;
  packing->devices += choice.devices;
}

Packing Packer::most(const PackingGoal& goal) {
  Packing packing{.domains = domains_, .replicas = {}};
  for (const Cell& cell : cells_of(goal)) add(cell, solve(cell, goal).back(), &packing);
  pack_left_over(goal, &packing);
  return packing;
}

void Packer::pack_left_over(const PackingGoal& goal, Packing* packing) {
  std::vector<int> free;
  for (const Domain& domain : domains_) free.push_back(domain.size());
  for (const Packed& replica : packing->replicas) {
    for (const StageRun& run : replica.runs) free[static_cast<size_t>(run.domain)] -= run.stages * replica.shape->tp;
  }
  std::vector<Domain> whole = domains_;
  Cell left;
  for (size_t i = 0; i < domains_.size(); ++i) {
    domains_[i].devices.resize(static_cast<size_t>(free[i]));
    if (domains_[i].group_max > 1) domains_[i].group_max = free[i];
    if (free[i] > 0) left.push_back(static_cast<int>(i));
  }
  Cell cell;
  for (size_t i = 0; i < left.size(); ++i) {
    cell.push_back(left[i]);
    const bool full = i + 1 == left.size() ||
                      states(cell) * (domains_[static_cast<size_t>(left[i + 1])].size() + 1) > kLeftOverStatesMax;
    if (!full) continue;
    if (cell.size() > 1) add(cell, solve(cell, goal).back(), packing);
    cell.clear();
  }
  domains_ = std::move(whole);
}

// Of cells alike no more are needed than there are devices to take from them.
void Packer::drop_spare_cells(int devices, std::vector<Cell>* cells, std::vector<const Front*>* fronts) {
  std::map<const Front*, int> kept;
  size_t end = 0;
  for (size_t i = 0; i < cells->size(); ++i) {
    const Front* front = (*fronts)[i];
    if (front->size() < 2 || kept[front]++ >= devices / (*front)[1].devices) continue;
    (*cells)[end] = (*cells)[i];
    (*fronts)[end++] = front;
  }
  cells->resize(end);
  fronts->resize(end);
}

Packing Packer::fewest(const PackingGoal& goal) {
  std::vector<Cell> cells = cells_of(goal);
  std::vector<const Front*> fronts;
  double sum = 0;
  int devices = 0;
  for (const Cell& cell : cells) {
    fronts.push_back(&solve(cell, goal));
    if (!better(goal.request_rate, sum)) continue;
    sum += fronts.back()->back().rate;
    devices += fronts.back()->back().devices;
  }
  if (better(goal.request_rate, sum)) return most(goal);
  drop_spare_cells(devices, &cells, &fronts);
  // rates[k]: the best with at most k devices of the cells so far. Filled one after the other they reach it with
  // `devices`.
  std::vector<double> rates(static_cast<size_t>(devices) + 1, 0);
  std::vector<std::vector<uint16_t>> chosen;
  for (const Front* of_cell : fronts) {
    const Front& front = *of_cell;
    std::vector<uint16_t>& choice = chosen.emplace_back(rates.size(), 0);
    for (size_t k = rates.size(); k-- > 0;) {
      for (size_t i = 1; i < front.size() && front[i].devices <= static_cast<int>(k); ++i) {
        const double rate = front[i].rate + rates[k - static_cast<size_t>(front[i].devices)];
        if (!better(rate, rates[k])) continue;
        rates[k] = rate;
        choice[k] = static_cast<uint16_t>(i);
      }
    }
  }
  size_t k = 0;
  while (better(goal.request_rate, rates[k])) ++k;
  Packing packing{.domains = domains_, .replicas = {}};
  for (size_t i = cells.size(); i-- > 0;) {
    const Choice& choice = (*fronts[i])[chosen[i][k]];
    add(cells[i], choice, &packing);
    k -= static_cast<size_t>(choice.devices);
  }
  return packing;
}

Packing Packer::lowest_latency(const PackingGoal& goal) {
  latency_max_ms_ = 0;
  Packing unbounded = most(goal);
  if (unbounded.replicas.empty() || better(goal.request_rate, unbounded.request_rate)) return unbounded;
  std::vector<double> latencies = book_.latencies();
  // The lowest bound under which enough fits: what fits under one bound fits under all higher ones.
  size_t low = 0;
  size_t high = latencies.size() - 1;
  const auto packing_under = [&](double latency_ms) {
    latency_max_ms_ = latency_ms * (1 + kNoise);
    return most(goal);
  };
  while (low < high) {
    const size_t middle = (low + high) / 2;
    const Packing packing = packing_under(latencies[middle]);
    const bool enough = !packing.replicas.empty() && !better(goal.request_rate, packing.request_rate);
    (enough ? high : low) = enough ? middle : middle + 1;
  }
  Packing packing = packing_under(latencies[low]);
  latency_max_ms_ = 0;
  return packing;
}

}  // namespace skein
