#pragma once

#include <array>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "topology/shapes.h"

namespace skein {

// Which replicas fit beside each other into domains of free devices.

// A replica and the domains that it takes devices from.
struct Packed {
  const Shape* shape = nullptr;        // of the book that it was packed with
  std::vector<int> domains = {};       // by world rank: index into Packing::domains
  std::vector<DeviceId> devices = {};  // by world rank; {}: it has none yet
};

struct Packing {
  std::vector<Domain> domains;
  std::vector<Packed> replicas;
  double request_rate = 0;
  int devices = 0;
  bool alike = false;  // nothing tells the devices of a domain apart
};

// A request rate that any replica reaches.
inline constexpr double kAnyRate = std::numeric_limits<double>::min();

struct PackingGoal {
  Objective objective = Objective::kGoodput;
  double request_rate = 0;    // kFewestDevices: to be reached; kLatency: to be reached, 0: one replica will do
  int tp = 0, pp = 0;         // the only shape allowed; 0: any
  double latency_max_ms = 0;  // of a lone request on each replica; 0: any
  bool sparing = false;       // kLatency: then the fewest devices, not the most goodput
};

// The best packing by `goal`; none of its replicas: nothing fits. Where the rate cannot be reached, the most goodput.
//
// Exact where all domains together have few enough states: value(s) is the best sum for replicas that take exactly the
// devices s, and states are visited in an order in which all parts of a state come before it; of those that differ by
// an exchange of like nodes the first stands for all. A replica enters only if smaller ones do not do better with the
// same devices, so few ever do. Larger clusters are cut into cells of like nodes, each as small as holds a replica and
// solved exactly, once for all cells alike; cells are joined by dynamic programming over devices used. What the cells
// leave over, but for nodes whose own cells are slower than is asked for, is put together into cells of its own, as
// many as can be worked out soon where they are not alike. Where there are few states even so, domains are cut into
// parts whose devices are all alike, and stages take any of each; else a replica's figures are those of the devices
// that it would get if it came first.
class Packer {
 public:
  Packer(const Cluster& cluster, ShapeBook& book, std::vector<Domain> domains);
  Packing best(const PackingGoal& goal);
  // The most goodput of cells by themselves, without what they leave over; of the classes of nodes alike that have the
  // most of them.
  Packing in_cells(const PackingGoal& goal, size_t classes_max = SIZE_MAX);
  int64_t tried() const { return tried_; }  // replicas, in any cell

 private:
  // The best with at most so many devices.
  struct Choice {
    int devices = 0;
    double rate = 0;
    std::vector<Packed> replicas;  // by index into the cell
  };
  using Front = std::vector<Choice>;  // ascending in both
  using Cell = std::vector<int>;      // indices into domains
  struct Column;
  struct Symmetry;
  struct Table;
  struct Lot;
  struct Draft;
  // What a replica on certain devices can be, and whether it fits with some layers at any service level.
  struct Offers {
    std::vector<Packed> replicas;  // by index into Draft::domains
    bool fit = false;
  };
  using Ways = std::optional<std::vector<StageWays>>;

  Packing most(const PackingGoal& goal);
  void add_left_over(const PackingGoal& goal, Packing* packing);
  Packing fewest(const PackingGoal& goal);
  Packing lowest_latency(const PackingGoal& goal);

  std::vector<Cell> cells_of(const PackingGoal& goal, size_t classes_max = SIZE_MAX);
  void cut_into_cells(const std::vector<Cell>& nodes, const PackingGoal& goal, std::vector<Cell>* cells);
  const Front& solve(const Cell& cell, const PackingGoal& goal);
  int64_t orders_of(const Cell& cell) const;
  bool solved(const Cell& cell, const PackingGoal& goal);
  int cell_number(const Cell& cell);
  bool more_help(const Cell& cell, const PackingGoal& goal);
  int least_devices(const Cell& cell, const PackingGoal& goal) const;
  bool any_fits(const PackingGoal& goal) const;  // of the replicas that were tried
  Front solve_anew(const Cell& cell, const PackingGoal& goal);
  // `what`: the number of what the cell is, and the state.
  void try_replicas(const Cell& cell, const std::pair<int, int64_t>& what, const PackingGoal& goal, Column* best);
  const Offers& offers_of(Draft* draft, std::vector<int> taken);
  void try_orders(Draft* draft, std::vector<StageRun>* runs);
  std::vector<int> likeness(const Draft& draft, const std::vector<StageRun>& runs, size_t lot);
  int way_between(const Draft& draft, size_t lot, size_t other);
  void try_runs(Draft* draft, const std::vector<StageRun>& runs);
  void try_parts(Draft* draft, const std::vector<size_t>& lots, std::vector<int>* parts);
  void try_ranks(Draft* draft, const std::vector<DeviceId>& devices);
  void try_stages(Draft* draft, std::vector<int> of_rank, const Ways& ways);
  bool any_order_counts(const Draft& draft) const;
  static void drop_spare_cells(int devices, std::vector<Cell>* cells, std::vector<const Front*>* fronts);
  void pack_left_over(const PackingGoal& goal, Packing* packing);
  void add(const Cell& cell, const Choice& choice, Packing* packing) const;
  void find_classes();
  std::vector<int> signature(const Cell& cell);
  std::vector<int> structure(const Cell& cell);
  std::vector<int> what_is_taken(Draft* draft, const std::pair<int, int64_t>& what);
  int links_number(const Cell& cell);
  int links_within(int domain);
  int links_between(int from, int to);
  int exact_number(DeviceId from, DeviceId to);
  void find_groups(Draft* draft);
  std::vector<int> goes_on_as(const Draft& draft, const std::vector<StageRun>& runs);
  const Ways& ways_in(const Draft& draft, const std::vector<StageRun>& runs);
  const Domain& domain_of(const Cell& cell, int index) const;
  std::optional<Path> path_of(const Domain& from, const Domain& to) const;  // of their first devices
  int number_of(const std::optional<Path>& path);
  Symmetry symmetry_of(const Cell& cell);
  int64_t states(const Cell& cell) const;  // at most one more than are ever worked out
  int64_t states_apart(const Cell& cell);

  const Cluster& cluster_;
  ShapeBook& book_;
  std::vector<Domain> domains_;
  bool alike_ = false;  // as Packing::alike
  std::vector<int> key_numbers_;  // of each domain's key
  std::map<std::tuple<LinkKind, double, double>, int> paths_;       // numbers of paths
  std::map<std::vector<int>, int> ways_;                            // ... of the ways between two lots
  std::map<std::vector<int>, std::vector<Cell>> classes_;           // of nodes alike
  std::map<std::tuple<int, int, double, int>, Front> fronts_;       // by degrees, latency and what the cell is
  std::set<std::tuple<int, int, double, std::vector<int>>> solved_;  // the same by signature
  std::map<std::vector<int>, int> cells_;                           // numbers of what cells are, by signature
  std::map<std::vector<int>, int> like_cells_;                      // ... by structure
  // Replicas that some limit of latency may choose, by what they take and tensor-parallel degree.
  std::map<std::vector<int>, Offers> offers_;
  int64_t tried_ = 0;
  std::vector<int> site_numbers_, layout_numbers_;                  // of each domain's site and layout
  // Numbers of paths, with what ranks devices by them.
  std::map<std::tuple<LinkKind, double, double, bool, int>, int> exact_paths_;
  std::map<std::vector<int>, int> links_;                           // ... of all paths of devices with each other
  std::map<std::array<int, 2>, int> links_within_;                  // ... of a domain's, by layout and size
  std::map<std::array<int, 5>, int> links_between_;                 // ... of two domains'
  std::map<std::vector<int>, Ways> stage_ways_;                     // by links, degree and runs
  std::vector<bool> too_slow_;  // by domain: its cell holds replicas, but none as fast as the goal of in_cells() asks
  std::set<std::array<int, 3>> fitting_;  // numbers of cells, and degrees of replicas that fit at any service level
};

}  // namespace skein
