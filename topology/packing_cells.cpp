// How domains are cut into cells: those of like nodes, and those of what these leave over.

#include <algorithm>
#include <numeric>

#include "topology/packing_table.h"

namespace skein {
namespace {

constexpr int64_t kApartStatesMax = 300;  // of all domains, of which no exchange of like nodes makes two the same
constexpr int64_t kLeftOverStatesMax = 2000;
// Of replicas' nodes, where these are not alike: three nodes of eight devices, or six of one; and of all such cells.
constexpr int64_t kLeftOverOrdersMax = 4000;
constexpr int64_t kLeftOverOrdersSum = 16'000;

}  // namespace

std::vector<Packer::Cell> Packer::cells_of(const PackingGoal& goal, size_t classes_max) {
  Cell all(domains_.size());
  std::iota(all.begin(), all.end(), 0);
  const int64_t count = states(all);
  if (alike_ || (count <= kStatesMax && states_apart(all) <= kApartStatesMax)) return {all};
  if (classes_.empty()) find_classes();
  std::vector<const std::vector<Cell>*> classes;
  for (const auto& [key, nodes] : classes_) classes.push_back(&nodes);
  if (classes.size() > classes_max) {
    std::ranges::stable_sort(classes, std::greater<>(), [](const std::vector<Cell>* nodes) { return nodes->size(); });
    classes.resize(classes_max);
  }
  std::vector<Cell> cells;
  for (const std::vector<Cell>* nodes : classes) cut_into_cells(*nodes, goal, &cells);
  return cells;
}

// Nodes alike, by rack and in their order.
void Packer::find_classes() {
  for (size_t i = 0; i < domains_.size();) {
    Cell node;
    const int of = domains_[i].node;
    for (; i < domains_.size() && domains_[i].node == of; ++i) node.push_back(static_cast<int>(i));
    classes_[signature(node)].push_back(node);
  }
  for (auto& [key, nodes] : classes_) {
    std::ranges::stable_sort(nodes, {}, [&](const Cell& node) -> const std::string& {
      return cluster_.nodes[static_cast<size_t>(domains_[static_cast<size_t>(node[0])].node)].rack;
    });
  }
}

// Whether a cell that holds no replica may with more nodes: not if there is room for all stages that are asked for, nor
// if it is the service level that the widest groups miss, as stages on more nodes take turns, too.
bool Packer::more_help(const Cell& cell, const PackingGoal& goal) {
  int stages = 0;
  int widest = 1;
  for (size_t i = 0; i < cell.size(); ++i) {
    const Domain& domain = domain_of(cell, static_cast<int>(i));
    widest = std::max(widest, domain.group_max);
    if (goal.tp > 0) stages += domain.size() / goal.tp;
  }
  if (goal.tp > 0 && goal.pp > 0) return stages < goal.pp;
  const auto first = fitting_.lower_bound({cell_number(cell), goal.tp > 0 ? goal.tp : widest, 0});
  return first == fitting_.end() || (*first)[0] != cell_number(cell) || (goal.tp > 0 && (*first)[1] != goal.tp) ||
         goal.pp > 0;
}

// As many nodes to a cell as a replica needs at any latency: on more no request is faster, as stages take turns.
void Packer::cut_into_cells(const std::vector<Cell>& nodes, const PackingGoal& goal, std::vector<Cell>* cells) {
  PackingGoal any_latency = goal;
  any_latency.latency_max_ms = 0;
  Cell cell;
  size_t of_nodes = 0;
  while (of_nodes < nodes.size()) {
    cell.insert(cell.end(), nodes[of_nodes].begin(), nodes[of_nodes].end());
    ++of_nodes;
    if (states(cell) > kStatesMax) return;
    if (solve(cell, any_latency).size() > 1) break;
    if (!more_help(cell, goal)) return;
  }
  for (size_t first = 0; first + of_nodes <= nodes.size(); first += of_nodes) {
    cell.clear();
    for (size_t i = first; i < first + of_nodes; ++i) cell.insert(cell.end(), nodes[i].begin(), nodes[i].end());
    cells->push_back(cell);
  }
}

// Ways to take devices from some of a cell's domains, in any order of these: sums over subsets grow one domain by one.
// 0: all are alike, and no order is another.
int64_t Packer::orders_of(const Cell& cell) const {
  const auto what = [&](int domain) {
    return std::pair(key_numbers_[static_cast<size_t>(domain)], domains_[static_cast<size_t>(domain)].size());
  };
  if (std::ranges::all_of(cell, [&](int domain) { return what(domain) == what(cell[0]); })) return 0;
  std::vector<int64_t> ways = {1};  // by domains that are taken from
  for (const int domain : cell) {
    ways.push_back(0);
    for (size_t k = ways.size() - 1; k > 0; --k) {
      const int64_t more = ways[k - 1] * domains_[static_cast<size_t>(domain)].size() * static_cast<int64_t>(k);
      ways[k] = std::min(ways[k] + more, kLeftOverOrdersSum);
    }
  }
  return std::accumulate(ways.begin() + 1, ways.end(), int64_t{0});
}

// Without nodes that hold a replica by themselves, but none as fast as the goal asks: among themselves none would be,
// as stages take turns; with what faster nodes leave over one might, which is not looked for.
void Packer::pack_left_over(const PackingGoal& goal, Packing* packing) {
  std::vector<int> free;
  for (const Domain& domain : domains_) free.push_back(domain.size());
  for (const Packed& replica : packing->replicas) {
    for (const int domain : replica.domains) --free[static_cast<size_t>(domain)];
  }
  std::vector<Domain> whole = domains_;
  Cell left;
  for (size_t i = 0; i < domains_.size(); ++i) {
    domains_[i].devices.resize(static_cast<size_t>(free[i]));
    if (domains_[i].group_max > 1) domains_[i].group_max = free[i];
    if (free[i] > 0 && !too_slow_[i]) left.push_back(static_cast<int>(i));
  }
  Cell cell;
  int64_t orders = 0;
  for (size_t i = 0; i < left.size(); ++i) {
    cell.push_back(left[i]);
    Cell more = cell;
    if (i + 1 < left.size()) more.push_back(left[i + 1]);
    const bool full = more.size() == cell.size() || states(more) > kLeftOverStatesMax ||
                      orders_of(more) > kLeftOverOrdersMax;
    if (!full) continue;
    if (cell.size() > 1) {
      if (!solved(cell, goal)) orders += orders_of(cell);
      if (orders <= kLeftOverOrdersSum) add(cell, solve(cell, goal).back(), packing);
    }
    cell.clear();
  }
  domains_ = std::move(whole);
}

}  // namespace skein
