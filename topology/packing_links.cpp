// What tells the solutions of cells and the ranks of replicas apart. Devices count by what they are, sockets by their
// order, and ways by what they are good for: neither the indices of devices nor the numbers of rails, so that what was
// worked out for one place holds for all places like it.

#include <algorithm>
#include <array>
#include <set>

#include "topology/packing_table.h"
#include "topology/rank_order.h"

namespace skein {
namespace {

constexpr size_t kGroupedLotsMin = 4;  // fewer have few orders

int numbered(std::map<std::vector<int>, int>* numbers, std::vector<int> text) {
  return numbers->try_emplace(std::move(text), static_cast<int>(numbers->size())).first->second;
}

}  // namespace

// Of all that ranks devices by their paths.
int Packer::exact_number(DeviceId from, DeviceId to) {
  const std::optional<Path> path = path_between(cluster_, from, to);
  if (!path) return -1;
  const std::tuple what = {path->link, path->bytes_per_s, path->latency_us, path->same_rail, path->nearness};
  return exact_paths_.try_emplace(what, static_cast<int>(exact_paths_.size())).first->second;
}

int Packer::links_within(int domain) {
  const Domain& here = domains_[static_cast<size_t>(domain)];
  const auto [at, fresh] = links_within_.try_emplace({layout_numbers_[static_cast<size_t>(domain)], here.size()});
  if (!fresh) return at->second;
  const std::vector<Device>& devices = cluster_.nodes[static_cast<size_t>(here.node)].devices;
  const auto socket_of = [&](int device) { return devices[static_cast<size_t>(device)].numa; };
  std::set<int> sockets;
  for (const int device : here.devices) sockets.insert(socket_of(device));
  std::vector<int> text = {here.size(), here.joined ? 1 : 0, number_of(here.inside)};
  for (const int device : here.devices) {
    text.push_back(static_cast<int>(std::distance(sockets.begin(), sockets.find(socket_of(device)))));
    for (const int other : here.devices) {
      if (other < device) text.push_back(exact_number({here.node, other}, {here.node, device}));
    }
  }
  return at->second = numbered(&links_, std::move(text));
}

int Packer::links_between(int from, int to) {
  const Domain& a = domains_[static_cast<size_t>(from)];
  const Domain& b = domains_[static_cast<size_t>(to)];
  const Node& here = cluster_.nodes[static_cast<size_t>(a.node)];
  const Node& there = cluster_.nodes[static_cast<size_t>(b.node)];
  const auto nvlink_domain = [](const Domain& of, const Node& node) {
    return node.devices[static_cast<size_t>(of.devices[0])].nvlink_domain;
  };
  const bool same_node = a.node == b.node;
  const int near = same_node ? (nvlink_domain(a, here) == nvlink_domain(b, there) ? 3 : 2) : here.rack == there.rack;
  const auto [at, fresh] = links_between_.try_emplace({layout_numbers_[static_cast<size_t>(from)], a.size(),
                                                       layout_numbers_[static_cast<size_t>(to)], b.size(), near});
  if (!fresh) return at->second;
  std::vector<int> text = {-1, same_node ? 1 : 0, a.size()};
  for (const int device : a.devices) {
    for (const int other : b.devices) text.push_back(exact_number({a.node, device}, {b.node, other}));
  }
  return at->second = numbered(&links_, std::move(text));
}

int Packer::links_number(const Cell& cell) {
  std::vector<int> text = {-2};
  for (size_t i = 0; i < cell.size(); ++i) {
    text.push_back(links_within(cell[i]));
    for (size_t j = 0; j < i; ++j) text.push_back(links_between(cell[j], cell[i]));
  }
  return numbered(&links_, std::move(text));
}

// Cells with the same numbers have the same solutions.
std::vector<int> Packer::structure(const Cell& cell) {
  if (alike_) return signature(cell);
  std::vector<int> numbers = {links_number(cell)};
  for (const int domain : cell) {
    numbers.push_back(site_numbers_[static_cast<size_t>(domain)]);
    numbers.push_back(domains_[static_cast<size_t>(domain)].group_max);
  }
  return numbers;
}

// Equal where the same offers can be made; `what` as in try_replicas(). Sets what the draft tells them by.
std::vector<int> Packer::what_is_taken(Draft* draft, const std::pair<int, int64_t>& what) {
  if (alike_) {
    draft->domains.resize(draft->cell.size());
    std::iota(draft->domains.begin(), draft->domains.end(), 0);
    return {what.first, static_cast<int>(what.second)};
  }
  Cell domains;
  std::vector<int> numbers;
  for (const Lot& lot : draft->lots) {
    const int domain = draft->cell[static_cast<size_t>(lot.parts[0].domain)];
    draft->domains.push_back(lot.parts[0].domain);
    domains.push_back(domain);
    numbers.insert(numbers.end(), {site_numbers_[static_cast<size_t>(domain)], lot.devices});
  }
  draft->links = links_number(domains);
  numbers.push_back(draft->links);
  return numbers;
}

// Groups where each lot is a node's, all go into the pipeline as they are, and two of the same kinds have the same ways
// to each other within all groups, and the same between all.
void Packer::find_groups(Draft* draft) {
  draft->kinds.clear();
  draft->groups.clear();
  if (alike_ || draft->lots.size() < kGroupedLotsMin) return;
  const auto number_of_lot = [&](size_t lot) {
    return draft->cell[static_cast<size_t>(draft->lots[lot].parts[0].domain)];
  };
  const auto of_lot = [&](size_t lot) -> const Domain& { return domains_[static_cast<size_t>(number_of_lot(lot))]; };
  std::set<int> nodes;
  std::map<std::array<int, 3>, int> kinds;
  std::vector<int> of_kind;
  std::vector<int> groups;
  for (size_t lot = 0; lot < draft->lots.size(); ++lot) {
    const Domain& domain = of_lot(lot);
    if (!nodes.insert(domain.node).second || !domain.joined || domain.site != of_lot(0).site) return;
    const std::array kind = {key_numbers_[static_cast<size_t>(number_of_lot(lot))], domain.size(), draft->left[lot]};
    of_kind.push_back(kinds.try_emplace(kind, static_cast<int>(kinds.size())).first->second);
    const auto same_rack = [&](size_t other) {
      return cluster_.nodes[static_cast<size_t>(of_lot(other).node)].rack ==
             cluster_.nodes[static_cast<size_t>(domain.node)].rack;
    };
    size_t group = 0;
    while (!same_rack(group)) ++group;
    groups.push_back(static_cast<int>(group));
  }
  std::map<std::array<int, 3>, int> ways;
  for (size_t a = 0; a < groups.size(); ++a) {
    for (size_t b = 0; b < groups.size(); ++b) {
      if (a == b) continue;
      const int way = links_between(number_of_lot(a), number_of_lot(b));
      if (ways.try_emplace({of_kind[a], of_kind[b], groups[a] == groups[b]}, way).first->second != way) return;
    }
  }
  draft->kinds = std::move(of_kind);
  draft->groups = std::move(groups);
}

// Equal for pipelines with the same ways so far that lots of the same kinds and groups can go on: groups may change
// places, and only that of the last lot is told apart. Requires: the draft has groups.
std::vector<int> Packer::goes_on_as(const Draft& draft, const std::vector<StageRun>& runs) {
  std::vector<int> text;
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto lot = static_cast<size_t>(runs[i].domain);
    text.push_back(draft.kinds[lot]);
    if (i > 0) text.push_back(draft.groups[lot] == draft.groups[static_cast<size_t>(runs[i - 1].domain)] ? 1 : 0);
  }
  std::vector<std::vector<int>> rest(draft.groups.size());
  for (size_t lot = 0; lot < draft.groups.size(); ++lot) {
    if (draft.left[lot] > 0) rest[static_cast<size_t>(draft.groups[lot])].push_back(draft.kinds[lot]);
  }
  for (std::vector<int>& kinds : rest) std::ranges::sort(kinds);
  if (!runs.empty()) rest[static_cast<size_t>(draft.groups[static_cast<size_t>(runs.back().domain)])].push_back(-1);
  std::ranges::sort(rest);
  for (const std::vector<int>& kinds : rest) {
    if (kinds.empty()) continue;
    text.push_back(-2);
    text.insert(text.end(), kinds.begin(), kinds.end());
  }
  return text;
}

// Of ranks that take_ranks() chooses from whole domains.
const Packer::Ways& Packer::ways_in(const Draft& draft, const std::vector<StageRun>& runs) {
  std::vector<int> what = {draft.links, draft.tp};
  for (const StageRun& run : runs) what.insert(what.end(), {run.domain, run.stages});
  const auto [at, fresh] = stage_ways_.try_emplace(std::move(what));
  if (!fresh) return at->second;
  std::vector<std::vector<DeviceId>> pools;
  for (const int index : draft.domains) {
    const Domain& domain = domain_of(draft.cell, index);
    std::vector<DeviceId>& pool = pools.emplace_back();
    for (const int device : domain.devices) pool.push_back({domain.node, device});
    std::ranges::sort(pool);
  }
  return at->second = ways_of(cluster_, draft.tp, take_ranks(cluster_, &pools, draft.tp, runs));
}

}  // namespace skein
