#include "topology/packing.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <string_view>

#include "base/checked.h"
#include "topology/packing_table.h"
#include "topology/rank_order.h"

namespace skein {
namespace {

constexpr int64_t kAlikeStatesMax = 2000;   // with domains cut into parts
constexpr int kStagesMax = 64;
constexpr double kNoLatency = std::numeric_limits<double>::min();  // ms, that no replica reaches
constexpr int kAnyOrderStagesMax = 6;

int devices_in(const std::vector<int>& counts) { return std::accumulate(counts.begin(), counts.end(), 0); }

}  // namespace

Packer::Packer(const Cluster& cluster, ShapeBook& book, std::vector<Domain> domains)
    : cluster_(cluster), book_(book), domains_(std::move(domains)) {
  auto parts = cut_into_alike(cluster, domains_, kAlikeStatesMax);
  alike_ = parts.has_value();
  if (alike_) domains_ = std::move(*parts);
  const auto number = [&](std::string Domain::*text, std::vector<int>* of_domains) {
    std::map<std::string_view, int> numbers;
    for (const Domain& domain : domains_) {
      of_domains->push_back(numbers.try_emplace(domain.*text, static_cast<int>(numbers.size())).first->second);
    }
  };
  number(&Domain::key, &key_numbers_);
  number(&Domain::site, &site_numbers_);
  number(&Domain::layout, &layout_numbers_);
  too_slow_.assign(domains_.size(), false);
}

const Domain& Packer::domain_of(const Cell& cell, int index) const {
  return domains_[static_cast<size_t>(cell[static_cast<size_t>(index)])];
}

std::optional<Path> Packer::path_of(const Domain& from, const Domain& to) const {
  return path_between(cluster_, {from.node, from.devices[0]}, {to.node, to.devices[0]});
}

int Packer::number_of(const std::optional<Path>& path) {
  const std::tuple what = path ? std::tuple(path->link, path->bytes_per_s, path->latency_us)
                               : std::tuple(LinkKind::kSelf, -1.0, -1.0);
  return paths_.try_emplace(what, static_cast<int>(paths_.size())).first->second;
}

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
  for (const int domain : cell) {
    count = std::min(count * (domains_[static_cast<size_t>(domain)].size() + 1), kStatesMax + 1);
  }
  return count;
}

int64_t Packer::states_apart(const Cell& cell) {
  std::vector<int> sizes;
  for (const int domain : cell) sizes.push_back(domains_[static_cast<size_t>(domain)].size());
  return symmetry_of(cell).states_apart(sizes);
}

// Cells with the same numbers have the same solutions.
std::vector<int> Packer::signature(const Cell& cell) {
  std::vector<int> numbers;
  for (size_t i = 0; i < cell.size(); ++i) {
    const Domain& domain = domains_[static_cast<size_t>(cell[i])];
    numbers.insert(numbers.end(), {key_numbers_[static_cast<size_t>(cell[i])], domain.size(), domain.group_max});
    for (size_t j = 0; j < i; ++j) {
      const Domain& other = domains_[static_cast<size_t>(cell[j])];
      numbers.push_back(number_of(path_of(other, domain)));
    }
  }
  return numbers;
}

const Packer::Front& Packer::solve(const Cell& cell, const PackingGoal& goal) {
  solved_.insert({goal.tp, goal.pp, goal.latency_max_ms, signature(cell)});
  const auto [at, fresh] = fronts_.try_emplace({goal.tp, goal.pp, goal.latency_max_ms, cell_number(cell)});
  if (fresh) at->second = solve_anew(cell, goal);
  return at->second;
}

// Fewer never hold a replica.
int Packer::least_devices(const Cell& cell, const PackingGoal& goal) const {
  int64_t memory_max = 1;
  for (const int domain : cell) memory_max = std::max(memory_max, domains_[static_cast<size_t>(domain)].memory);
  const int64_t by_memory = std::min<int64_t>(ceil_div(book_.least_bytes(), memory_max), INT32_MAX);
  return std::max({static_cast<int>(by_memory), goal.tp * std::max(goal.pp, 1), goal.pp, 1});
}

int Packer::cell_number(const Cell& cell) {
  const auto [at, fresh] = cells_.try_emplace(signature(cell));
  if (fresh) at->second = like_cells_.try_emplace(structure(cell), static_cast<int>(like_cells_.size())).first->second;
  return at->second;
}

bool Packer::solved(const Cell& cell, const PackingGoal& goal) {
  return solved_.contains({goal.tp, goal.pp, goal.latency_max_ms, signature(cell)});
}

Packer::Front Packer::solve_anew(const Cell& cell, const PackingGoal& goal) {
  std::vector<int> sizes;
  for (const int domain : cell) sizes.push_back(domains_[static_cast<size_t>(domain)].size());
  const int least = least_devices(cell, goal);
  if (least > devices_in(sizes)) return {{}};
  const Symmetry symmetry = symmetry_of(cell);
  const int number = cell_number(cell);
  Table table(symmetry, sizes);
  std::vector<int> taken(sizes.size(), 0);
  std::vector<int64_t> best_state(static_cast<size_t>(devices_in(sizes)) + 1, 0);
  for (int64_t state = 1; state < static_cast<int64_t>(table.exactly.size()); ++state) {
    for (size_t d = 0; ++taken[d] > sizes[d]; ++d) taken[d] = 0;
    const int devices = devices_in(taken);
    if (devices < least) continue;
    if (!table.copy(state, taken)) {
      table.extend(state, taken);
      Column column{.demand = taken, .replica = {}};
      try_replicas(cell, {number, state}, goal, &column);
      table.insert(state, column);
    }
    int64_t& best = best_state[static_cast<size_t>(devices)];
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
void Packer::try_replicas(const Cell& cell, const std::pair<int, int64_t>& what, const PackingGoal& goal,
                          Column* best) {
  const std::vector<int>& demand = best->demand;
  const int devices = devices_in(demand);
  if (goal.tp != 0 && (devices % goal.tp != 0 || (goal.pp != 0 && devices != goal.tp * goal.pp))) return;
  if (goal.pp != 0 && devices % goal.pp != 0) return;
  std::map<int, Lot> lots;
  int tp_max = INT32_MAX;
  int64_t memory = 0;
  for (size_t d = 0; d < cell.size(); ++d) {
    if (demand[d] == 0) continue;
    const Domain& domain = domain_of(cell, static_cast<int>(d));
    Lot& lot = lots[domain.whole];
    lot.parts.push_back({.domain = static_cast<int>(d), .devices = demand[d]});
    lot.devices += demand[d];
    tp_max = std::min(tp_max, domain.group_max);
    memory += demand[d] * std::max<int64_t>(domain.memory, 0);
  }
  if (memory < book_.least_bytes()) return;
  int common = 0;  // a degree divides what every domain gives
  for (const auto& [whole, lot] : lots) common = std::gcd(common, lot.devices);
  Draft draft{.cell = cell, .tp = 1, .lots = {}, .domains = {}, .links = 0, .left = {}, .offers = nullptr};
  for (auto& [whole, lot] : lots) draft.lots.push_back(std::move(lot));
  const std::vector<int> taken = what_is_taken(&draft, what);
  for (draft.tp = 1; draft.tp <= std::min(tp_max, common); ++draft.tp) {
    const int stages = devices / draft.tp;
    if (common % draft.tp != 0 || stages > std::min(kStagesMax, book_.layers())) continue;
    if ((goal.tp != 0 && goal.tp != draft.tp) || (goal.pp != 0 && goal.pp != stages)) continue;
    const Offers& offers = offers_of(&draft, taken);
    if (offers.fit) fitting_.insert({what.first, draft.tp, stages});
    const Packed* chosen = nullptr;
    for (const Packed& offer : offers.replicas) {
      if (!better(offer.shape->best.request_rate, best->rate)) continue;
      if (goal.latency_max_ms > 0 && offer.shape->lone.latency_ms(book_.demand().load) > goal.latency_max_ms) continue;
      best->rate = offer.shape->best.request_rate;
      chosen = &offer;
    }
    if (chosen == nullptr) continue;
    best->replica = *chosen;
    for (int& domain : best->replica.domains) domain = draft.domains[static_cast<size_t>(domain)];
  }
}

const Packer::Offers& Packer::offers_of(Draft* draft, std::vector<int> taken) {
  taken.push_back(draft->tp);
  const auto [at, fresh] = offers_.try_emplace(std::move(taken));
  if (!fresh) return at->second;
  draft->offers = &at->second;
  draft->left.clear();
  for (const Lot& lot : draft->lots) draft->left.push_back(lot.devices / draft->tp);
  draft->begun.clear();
  find_groups(draft);
  std::vector<StageRun> runs;
  try_orders(draft, &runs);
  return at->second;
}

// The stages of a node are neighbours, as mpirun deals ranks out node by node, and those of a domain, as anything else
// crosses more often; of lots that nothing tells apart the first goes first. Any order counts where kinds differ, as
// the first and the last stage have more to hold, and where a network may be faster than the way between two devices of
// a node.
void Packer::try_orders(Draft* draft, std::vector<StageRun>* runs) {
  std::vector<int>& left = draft->left;
  if (std::ranges::all_of(left, [](int stages) { return stages == 0; })) return try_runs(draft, *runs);
  const bool grouped = !draft->groups.empty();
  if (grouped && !draft->begun.insert(goes_on_as(*draft, *runs)).second) return;
  const bool any_order = any_order_counts(*draft);
  const auto node_of = [&](size_t lot) { return domain_of(draft->cell, draft->lots[lot].parts[0].domain).node; };
  const auto node_of_run = [&](const StageRun& run) { return node_of(static_cast<size_t>(run.domain)); };
  std::set<std::vector<int>> tried;
  for (size_t lot = 0; lot < left.size(); ++lot) {
    if (left[lot] == 0) continue;
    const bool again = !runs->empty() && runs->back().domain == static_cast<int>(lot);
    const bool used = std::ranges::find(*runs, static_cast<int>(lot), &StageRun::domain) != runs->end();
    const bool stays = !runs->empty() && node_of_run(runs->back()) == node_of(lot);
    if (!stays && std::ranges::find(*runs, node_of(lot), node_of_run) != runs->end()) continue;
    if (!grouped && !used && left.size() > 1 && !tried.insert(likeness(*draft, *runs, lot)).second) continue;
    const int stages = any_order ? 1 : left[lot];
    left[lot] -= stages;
    const std::vector<StageRun> before = *runs;
    if (again) {
      runs->back().stages += stages;
    } else {
      runs->push_back({.domain = static_cast<int>(lot), .stages = stages});
    }
    try_orders(draft, runs);
    *runs = before;
    left[lot] += stages;
  }
}

// Equal for lots that may change places as the next run: what they are, and their ways to those before and to the rest.
std::vector<int> Packer::likeness(const Draft& draft, const std::vector<StageRun>& runs, size_t lot) {
  const int domain = draft.cell[static_cast<size_t>(draft.lots[lot].parts[0].domain)];
  std::vector<int> text = {key_numbers_[static_cast<size_t>(domain)], draft.left[lot], way_between(draft, lot, lot)};
  for (const StageRun& run : runs) text.push_back(way_between(draft, lot, static_cast<size_t>(run.domain)));
  const auto rest = static_cast<ptrdiff_t>(text.size());
  for (size_t other = 0; other < draft.left.size(); ++other) {
    if (other != lot && draft.left[other] > 0) text.push_back(way_between(draft, lot, other));
  }
  std::sort(text.begin() + rest, text.end());
  return text;
}

// A number that is equal where nothing tells the ways apart.
int Packer::way_between(const Draft& draft, size_t lot, size_t other) {
  std::vector<int> text;
  for (const Lot::Part& from : draft.lots[lot].parts) {
    for (const Lot::Part& to : draft.lots[other].parts) {
      const Domain& a = domain_of(draft.cell, from.domain);
      const Domain& b = domain_of(draft.cell, to.domain);
      const std::optional<Path> path = &a == &b ? a.inside : path_of(a, b);
      if (alike_) text.insert(text.end(), {from.devices, to.devices});
      text.push_back(a.node == b.node ? 1 : 0);
      text.push_back(number_of(path));
    }
  }
  return ways_.try_emplace(std::move(text), static_cast<int>(ways_.size())).first->second;
}

bool Packer::any_order_counts(const Draft& draft) const {
  int stages = 0;
  bool counts = false;
  const auto of_lot = [&](size_t lot) -> const Domain& {
    return domain_of(draft.cell, draft.lots[lot].parts[0].domain);
  };
  for (size_t lot = 0; lot < draft.left.size(); ++lot) {
    if (draft.left[lot] == 0) continue;
    stages += draft.left[lot];
    counts = counts || !of_lot(lot).joined || of_lot(lot).site != of_lot(0).site;
  }
  return counts && stages <= kAnyOrderStagesMax;
}

void Packer::try_runs(Draft* draft, const std::vector<StageRun>& runs) {
  if (!alike_) {
    std::vector<int> of_rank;
    for (const StageRun& run : runs) {
      of_rank.insert(of_rank.end(), static_cast<size_t>(run.stages * draft->tp), run.domain);
    }
    return try_stages(draft, std::move(of_rank), ways_in(*draft, runs));
  }
  std::vector<size_t> lots;  // by stage
  for (const StageRun& run : runs) {
    lots.insert(lots.end(), static_cast<size_t>(run.stages), static_cast<size_t>(run.domain));
  }
  const bool choice = std::ranges::any_of(draft->lots, [](const Lot& lot) { return lot.parts.size() > 1; });
  if (choice && lots.size() <= kAnyOrderStagesMax) {
    std::vector<int> parts;
    return try_parts(draft, lots, &parts);
  }
  std::vector<std::vector<DeviceId>> pools;
  for (const Lot& lot : draft->lots) {
    std::vector<DeviceId>& pool = pools.emplace_back();
    for (const Lot::Part& part : lot.parts) {
      const Domain& domain = domain_of(draft->cell, part.domain);
      for (int i = 0; i < part.devices; ++i) pool.push_back({domain.node, domain.devices[static_cast<size_t>(i)]});
    }
    std::ranges::sort(pool);
  }
  try_ranks(draft, take_ranks(cluster_, &pools, draft->tp, runs));
}

// Every way to deal the parts' devices out to stages. `parts`: of the ranks so far.
void Packer::try_parts(Draft* draft, const std::vector<size_t>& lots, std::vector<int>* parts) {
  const auto tp = static_cast<size_t>(draft->tp);
  if (parts->size() == lots.size() * tp) {
    std::map<int, size_t> given;
    std::vector<DeviceId> devices;
    std::vector<DeviceId> before;
    for (size_t stage = 0; stage < lots.size(); ++stage) {
      std::vector<DeviceId> ranks;
      for (size_t rank = stage * tp; rank < (stage + 1) * tp; ++rank) {
        const int part = (*parts)[rank];
        const Domain& domain = domain_of(draft->cell, part);
        ranks.push_back({domain.node, domain.devices[given[part]++]});
      }
      if (stage > 0) order_ranks(cluster_, before, &ranks);
      devices.insert(devices.end(), ranks.begin(), ranks.end());
      before = std::move(ranks);
    }
    return try_ranks(draft, devices);
  }
  // Within a stage in ascending order: each set once.
  const int least = parts->size() % tp == 0 ? 0 : parts->back();
  for (const Lot::Part& part : draft->lots[lots[parts->size() / tp]].parts) {
    if (part.domain < least || std::ranges::count(*parts, part.domain) == part.devices) continue;
    parts->push_back(part.domain);
    try_parts(draft, lots, parts);
    parts->pop_back();
  }
}

void Packer::try_ranks(Draft* draft, const std::vector<DeviceId>& devices) {
  std::vector<int> of_rank;
  for (const DeviceId& id : devices) {
    const auto at = std::ranges::find_if(draft->domains, [&](int index) {
      const Domain& domain = domain_of(draft->cell, index);
      return domain.node == id.node && std::ranges::find(domain.devices, id.device) != domain.devices.end();
    });
    of_rank.push_back(static_cast<int>(at - draft->domains.begin()));
  }
  try_stages(draft, std::move(of_rank), ways_of(cluster_, draft->tp, devices));
}

// `of_rank`: index into the draft's domains.
void Packer::try_stages(Draft* draft, std::vector<int> of_rank, const Ways& ways) {
  if (!ways) return;
  std::vector<const Domain*> stages;
  for (size_t rank = 0; rank < of_rank.size(); rank += static_cast<size_t>(draft->tp)) {
    stages.push_back(&domain_of(draft->cell, draft->domains[static_cast<size_t>(of_rank[rank])]));
  }
  ++tried_;
  Offers& offers = *draft->offers;
  const Shape* shape = book_.find(stages, draft->tp, *ways);
  offers.fit = offers.fit || shape != nullptr || book_.fits(stages, draft->tp, *ways);
  if (shape == nullptr) return;
  const auto latency = [&](const Shape* of) { return of->lone.latency_ms(book_.demand().load); };
  const bool spare = std::ranges::any_of(offers.replicas, [&](const Packed& offer) {
    return !better(shape->best.request_rate, offer.shape->best.request_rate) && latency(offer.shape) <= latency(shape);
  });
  if (!spare) offers.replicas.push_back({.shape = shape, .domains = std::move(of_rank)});
}

// Nodes that nothing tells apart, neither in themselves nor in their ways to the others.
Packer::Symmetry Packer::symmetry_of(const Cell& cell) {
  Symmetry symmetry;
  std::map<int, size_t> at;
  for (size_t d = 0; d < cell.size(); ++d) {
    const auto [node, fresh] = at.try_emplace(domain_of(cell, static_cast<int>(d)).node, symmetry.nodes.size());
    if (fresh) symmetry.nodes.emplace_back();
    symmetry.nodes[node->second].push_back(static_cast<int>(d));
  }
  const auto way = [&](int from, int to) { return number_of(path_of(domain_of(cell, from), domain_of(cell, to))); };
  const auto same = [&](int a, int b) {
    const Domain& one = domain_of(cell, a);
    const Domain& other = domain_of(cell, b);
    const auto key = [&](int d) { return key_numbers_[static_cast<size_t>(cell[static_cast<size_t>(d)])]; };
    return key(a) == key(b) && one.devices == other.devices && one.group_max == other.group_max;
  };
  const auto alike = [&](const Cell& a, const Cell& b) {
    if (!std::ranges::equal(a, b, same)) return false;
    for (size_t i = 0; i < a.size(); ++i) {
      for (const Cell& node : symmetry.nodes) {
        for (size_t j = 0; j < node.size(); ++j) {
          const bool itself = &node == &a || &node == &b;
          if (itself ? way(a[i], b[j]) != way(b[i], a[j]) || way(a[i], a[j]) != way(b[i], b[j])
                     : way(a[i], node[j]) != way(b[i], node[j]) || way(node[j], a[i]) != way(node[j], b[i])) {
            return false;
          }
        }
      }
    }
    return true;
  };
  for (size_t n = 0; n < symmetry.nodes.size(); ++n) {
    size_t like = 0;
    while (like < n && !alike(symmetry.nodes[like], symmetry.nodes[n])) ++like;
    symmetry.likes.push_back(static_cast<int>(like));
  }
  return symmetry;
}

void Packer::add(const Cell& cell, const Choice& choice, Packing* packing) const {
  for (Packed replica : choice.replicas) {
    for (int& domain : replica.domains) domain = cell[static_cast<size_t>(domain)];
    packing->replicas.push_back(std::move(replica));
  }
  packing->request_rate += choice.rate;
  packing->devices += choice.devices;
}

Packing Packer::in_cells(const PackingGoal& goal, size_t classes_max) {
  Packing packing{.domains = domains_, .replicas = {}, .alike = alike_};
  std::vector<bool> in_cell(domains_.size(), false);
  too_slow_.assign(domains_.size(), false);
  PackingGoal any_latency = goal;
  any_latency.latency_max_ms = 0;
  const bool wider_elsewhere = goal.pp > 0 && goal.tp == 0;  // on more nodes as many stages are
  for (const Cell& cell : cells_of(goal, classes_max)) {
    const Choice& most = solve(cell, goal).back();
    add(cell, most, &packing);
    if (most.replicas.empty() && solve(cell, any_latency).size() == 1) continue;
    const Domain& first = domain_of(cell, 0);
    const bool alike = std::ranges::all_of(cell, [&](int index) {
      const Domain& domain = domains_[static_cast<size_t>(index)];
      return domain.kind == first.kind && domain.size() == first.size();
    });
    for (const int domain : cell) {
      in_cell[static_cast<size_t>(domain)] = true;
      too_slow_[static_cast<size_t>(domain)] = most.replicas.empty() && alike && !wider_elsewhere;
    }
  }
  // Nodes that hold none by themselves may be faster than those, and too few to hold one together: those with less
  // memory than twice the weights are taken to be, for a runtime takes some.
  int64_t memory = 0;
  for (size_t i = 0; i < domains_.size(); ++i) {
    if (!in_cell[i]) memory += domains_[i].size() * std::max<int64_t>(domains_[i].memory, 0);
  }
  if (memory > 0 && memory < 2 * book_.least_bytes()) too_slow_.assign(domains_.size(), false);
  return packing;
}

bool Packer::any_fits(const PackingGoal& goal) const {
  return std::ranges::any_of(fitting_, [&](const std::array<int, 3>& fitting) {
    return (goal.tp == 0 || goal.tp == fitting[1]) && (goal.pp == 0 || goal.pp == fitting[2]);
  });
}

Packing Packer::most(const PackingGoal& goal) {
  Packing packing = in_cells(goal);
  add_left_over(goal, &packing);
  return packing;
}

void Packer::add_left_over(const PackingGoal& goal, Packing* packing) {
  pack_left_over(goal, packing);
  Cell all(domains_.size());
  std::iota(all.begin(), all.end(), 0);
  // Where only a replica on more nodes than are put together holds the model.
  const bool more_nodes = packing->replicas.empty() && !any_fits(goal);
  if (more_nodes && states(all) <= kStatesMax) add(all, solve(all, goal).back(), packing);
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
  Packing packing{.domains = domains_, .replicas = {}, .alike = alike_};
  for (size_t i = cells.size(); i-- > 0;) {
    const Choice& choice = (*fronts[i])[chosen[i][k]];
    add(cells[i], choice, &packing);
    k -= static_cast<size_t>(choice.devices);
  }
  return packing;
}

Packing Packer::lowest_latency(const PackingGoal& goal) {
  Packing unbounded = most(goal);
  if (unbounded.replicas.empty() || better(goal.request_rate, unbounded.request_rate)) return unbounded;
  PackingGoal bounded = goal;
  bounded.latency_max_ms = kNoLatency;
  most(bounded);  // works out, for the latencies, what nodes hold together of which no cell holds a replica
  const std::vector<double> latencies = book_.latencies();
  // The lowest bound under which enough fits: what fits under one bound fits under all higher ones.
  size_t low = 0;
  size_t high = latencies.size() - 1;
  bool in_cells_alone = false;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    bounded.latency_max_ms = latencies[middle] * (1 + kNoise);
    Packing packing = in_cells(bounded);
    const auto reached = [&] { return !packing.replicas.empty() && !better(goal.request_rate, packing.request_rate); };
    const bool without = reached();
    if (!without) add_left_over(bounded, &packing);
    const bool enough = reached();
    if (enough) in_cells_alone = without;
    (enough ? high : low) = enough ? middle : middle + 1;
  }
  bounded.latency_max_ms = latencies[low] * (1 + kNoise);
  if (goal.sparing) return fewest(bounded);
  // Of what is left over a second pass gets to more, as it finds worked out what the first one did.
  if (in_cells_alone) most(bounded);
  return most(bounded);
}

}  // namespace skein
