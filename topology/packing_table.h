#pragma once

#include <algorithm>
#include <numeric>
#include <set>

#include "base/check.h"
#include "topology/packing.h"

// What the packer works a cell out with: for packing.cpp, packing_cells.cpp and packing_links.cpp alone.

namespace skein {

inline constexpr int64_t kStatesMax = 7000;  // of a cell: four nodes of eight devices
inline constexpr double kNever = -1;

inline bool better(double rate, double than) { return rate > than * (1 + kNoise); }

// What a replica takes from a domain, of each of its parts.
struct Packer::Lot {
  struct Part {
    int domain;  // index into the cell
    int devices;
  };
  std::vector<Part> parts;
  int devices = 0;
};

// A replica in the making.
struct Packer::Draft {
  const Cell& cell;
  int tp;
  std::vector<Lot> lots;
  std::vector<int> domains;  // indices into the cell, that offers are told by: of each lot, or all
  int links;                 // number of the paths of the lots' devices
  std::vector<int> left;     // stages of each lot that have no place in the pipeline yet
  Offers* offers;
  // Of each lot, where nothing but what they are and whether they are of one group (a rack) counts of any two; else {}.
  std::vector<int> kinds = {};
  std::vector<int> groups = {};
  std::set<std::vector<int>> begun = {};  // pipelines that can only go on as one before
};

// A replica in a cell, by what it takes.
struct Packer::Column {
  std::vector<int> demand;
  int64_t offset = 0;  // of a state that has so much more
  double rate = kNever;
  Packed replica;
};

// Nodes of a cell that may change places. States that differ by that have the same value, and are worked out once.
struct Packer::Symmetry {
  std::vector<Cell> nodes;  // indices into the cell
  std::vector<int> likes;   // of each node: the first of those that may change places with it

  int64_t states_apart(const std::vector<int>& sizes) const {
    std::map<int, int> counts;
    int64_t states = 1;
    // Sorted choices of `count` among `ways`: their number is a binomial, and stays whole when it grows one by one.
    for (size_t n = 0; n < nodes.size(); ++n) {
      int64_t ways = 1;
      for (const int d : nodes[n]) ways *= sizes[static_cast<size_t>(d)] + 1;
      const int count = ++counts[likes[n]];
      states = states * (ways + count - 1) / count;
    }
    return states;
  }

  // By place in the cell, the place that stands in for it where the nodes that are alike are sorted, the most first: of
  // all states that are the same the first.
  std::vector<int> sorted(const std::vector<int>& taken) const {
    std::vector<int> from(taken.size());
    std::iota(from.begin(), from.end(), 0);
    const auto takes_more = [&](size_t a, size_t b) {
      return std::lexicographical_compare(
          nodes[b].rbegin(), nodes[b].rend(), nodes[a].rbegin(), nodes[a].rend(),
          [&](int x, int y) { return taken[static_cast<size_t>(x)] < taken[static_cast<size_t>(y)]; });
    };
    for (size_t n = 0; n < nodes.size(); ++n) {
      if (likes[n] != static_cast<int>(n)) continue;
      std::vector<size_t> places;
      for (size_t other = n; other < nodes.size(); ++other) {
        if (likes[other] == likes[n]) places.push_back(other);
      }
      std::vector<size_t> order = places;
      std::ranges::stable_sort(order, takes_more);
      for (size_t i = 0; i < places.size(); ++i) {
        for (size_t d = 0; d < nodes[n].size(); ++d) {
          from[static_cast<size_t>(nodes[places[i]][d])] = nodes[order[i]][d];
        }
      }
    }
    return from;
  }
};

// Values by state: mixed-radix numbers of devices taken from each domain.
struct Packer::Table {
  const Symmetry& symmetry;
  std::vector<int> sizes;
  std::vector<int64_t> strides;
  std::vector<double> exactly;  // the best rate of replicas that take just these devices
  std::vector<double> within;   // ... at most these
  std::vector<int> last;        // column that `exactly` ends with; -1 where another state stands for it
  std::vector<Column> columns;

  Table(const Symmetry& of_cell, std::vector<int> domain_sizes) : symmetry(of_cell), sizes(std::move(domain_sizes)) {
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

  int64_t number_of(const std::vector<int>& taken) const {
    int64_t state = 0;
    for (size_t d = 0; d < sizes.size(); ++d) state += taken[d] * strides[d];
    return state;
  }

  std::vector<int> taken_in(int64_t state) const {
    std::vector<int> taken;
    for (size_t d = 0; d < sizes.size(); ++d) taken.push_back(static_cast<int>(state / strides[d] % (sizes[d] + 1)));
    return taken;
  }

  // Whether another state stands for this one, and came before: then it has its value, and its replica if it is one.
  bool copy(int64_t state, const std::vector<int>& taken) {
    const std::vector<int> from = symmetry.sorted(taken);
    Column column{.demand = taken, .offset = state, .replica = {}};
    std::vector<int> sorted;
    for (const int d : from) sorted.push_back(taken[static_cast<size_t>(d)]);
    const int64_t first = number_of(sorted);
    if (first == state) return false;
    CHECK_LT(first, state);
    const auto at = static_cast<size_t>(first);
    exactly[static_cast<size_t>(state)] = exactly[at];
    within[static_cast<size_t>(state)] = within[at];
    if (last[at] < 0 || columns[static_cast<size_t>(last[at])].offset != first) return true;
    column.rate = columns[static_cast<size_t>(last[at])].rate;
    column.replica = columns[static_cast<size_t>(last[at])].replica;
    for (int& domain : column.replica.domains) domain = from[static_cast<size_t>(domain)];
    columns.push_back(std::move(column));
    return true;
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

  void insert(int64_t state, const Column& column) {
    const auto at = static_cast<size_t>(state);
    if (!better(column.rate, within[at])) return;
    exactly[at] = within[at] = column.rate;
    last[at] = static_cast<int>(columns.size());
    columns.push_back(column);
    columns.back().offset = state;
  }

  std::vector<Packed> replicas(int64_t state) const {
    std::vector<Packed> found;
    std::vector<int> taken = taken_in(state);
    std::vector<int> place(sizes.size());  // in the cell, of each of `taken`
    std::iota(place.begin(), place.end(), 0);
    while (state > 0) {
      const std::vector<int> from = symmetry.sorted(taken);
      std::vector<int> sorted;
      std::vector<int> places;
      for (const int d : from) {
        sorted.push_back(taken[static_cast<size_t>(d)]);
        places.push_back(place[static_cast<size_t>(d)]);
      }
      const auto first = static_cast<size_t>(number_of(sorted));
      const Column& column = columns[static_cast<size_t>(last[first])];
      found.push_back(column.replica);
      for (int& domain : found.back().domains) domain = places[static_cast<size_t>(domain)];
      taken = taken_in(static_cast<int64_t>(first) - column.offset);
      place = std::move(places);
      state = number_of(taken);
    }
    return found;
  }
};

}  // namespace skein
