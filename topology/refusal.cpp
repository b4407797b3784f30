#include "topology/refusal.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/checked.h"
#include "topology/explain.h"

namespace skein {
namespace {

constexpr int kDevicesTriedMax = 512;  // to find out how many would do

// Stages of one domain after each other.
const Shape* side_by_side(ShapeBook& book, const Domain& domain, int tp, int stages) {
  const auto count = static_cast<size_t>(stages);
  const StageWays ways{.group = domain.inside, .next = domain.inside};
  return book.find(std::vector(count, &domain), tp, std::vector(count, ways));
}

// The least devices of a kind that hold the model and a request, side by side in one domain; 0: no number does.
int devices_needed(const Search& search, ShapeBook& book, const Domain& like) {
  for (int devices = 1; devices <= kDevicesTriedMax; ++devices) {
    for (const int tp : kDegrees) {
      if (devices % tp != 0 || (tp > 1 && like.group_max == 1) || tp > std::max(8, like.group_max)) continue;
      if (search.goal.tp != 0 && search.goal.tp != tp) continue;
      const int stages = devices / tp;
      if (stages > book.layers() || (search.goal.pp != 0 && search.goal.pp != stages)) continue;
      if (side_by_side(book, like, tp, stages) != nullptr) return devices;
    }
  }
  return 0;
}

struct Missing {
  int needed = 0;
  int there = 0;
  int kind = 0;
};

// Of the kind that lacks the fewest.
std::optional<Missing> missing_devices(const Search& search, const Relaxed& rules) {
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
    least = {.needed = needed, .there = count, .kind = kind};
  }
  return least;
}

std::string asked_shape(const Search& search) {
  const std::string degrees = degrees_text(search.goal);
  return degrees.empty() ? degrees : " with " + degrees;
}

// A node of cores holds this many ranks; 0: the kind is a GPU.
int ranks_of_node(const Search& search, int kind) {
  const Cluster& cluster = *search.request.cluster;
  if (cluster.kinds[static_cast<size_t>(kind)].gpu) return 0;
  const auto at = std::ranges::find_if(cluster.nodes, [&](const Node& node) {
    return !node.devices.empty() && node.devices.front().kind == kind;
  });
  return ranks_of_cores(search.request, at->devices.size());
}

// In GPUs, or in nodes of cores.
int units(int ranks, int ranks_of_node) {
  return ranks_of_node == 0 ? ranks : static_cast<int>(ceil_div(ranks, ranks_of_node));
}

std::string units_text(const Search& search, int ranks, int kind) {
  const int of_node = ranks_of_node(search, kind);
  const int count = units(ranks, of_node);
  const std::string& name = search.request.cluster->kinds[static_cast<size_t>(kind)].name;
  if (of_node == 0) return std::to_string(count) + " x " + name;
  return std::to_string(count) + (count == 1 ? " node of " : " nodes of ") + name;
}

// "37", "5.3": no less than the value.
std::string raised_text(double ms) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", ms < 100 ? std::ceil(ms * 10) / 10 : std::ceil(ms));
  return text;
}

// The least of a figure among shapes at which another is at most `limit`; nullptr: there is none.
const Shape* least(const std::vector<const Shape*>& shapes, double Operation::*figure, double Operation::*other,
                   double limit) {
  const Shape* best = nullptr;
  for (const Shape* shape : shapes) {
    if (limit > 0 && shape->lone.*other > limit) continue;
    if (best == nullptr || shape->lone.*figure < best->lone.*figure) best = shape;
  }
  return best;
}

// Among all shapes that were looked at without the level.
Status level_does_not_hold(const Search& search, const std::vector<const Shape*>& shapes) {
  const ModelDemand& demand = search.demand();
  const Shape* closest = nullptr;
  std::string remedy;
  const auto offer = [&](const char* flag, double wanted, double Operation::*figure, const Shape* shape) {
    if (wanted <= 0 || shape == nullptr) return;
    if (closest == nullptr) closest = shape;
    remedy += (remedy.empty() ? "" : " or ") + std::string(flag) + " to " + raised_text(shape->lone.*figure);
  };
  offer("itl-ms", demand.level.itl_ms, &Operation::itl_ms,
        least(shapes, &Operation::itl_ms, &Operation::ttft_ms, demand.level.ttft_ms));
  offer("ttft-ms", demand.level.ttft_ms, &Operation::ttft_ms,
        least(shapes, &Operation::ttft_ms, &Operation::itl_ms, demand.level.itl_ms));
  if (closest == nullptr) {
    const auto latency = [&](const Shape* shape) { return shape->lone.latency_ms(demand.load); };
    closest = *std::ranges::min_element(shapes, {}, latency);
    remedy = "ttft-ms to " + raised_text(closest->lone.ttft_ms) + " and itl-ms to " + raised_text(closest->lone.itl_ms);
  }
  return resource_exhausted("the service level does not hold here even for one request at a time: on " +
                            shape_text(*closest) + " its first token takes " + number_text(closest->lone.ttft_ms) +
                            " ms and each further one " + number_text(closest->lone.itl_ms) + " ms" +
                            asked_shape(search) + "; raise " + remedy + ", or use shorter requests");
}

// Tokens that a request must have room for.
int tokens_of_request(const ModelDemand& demand) {
  return std::max(demand.load.input_tokens + demand.load.output_tokens, demand.memory.context_max.value_or(0));
}

// The model when one thing that is asked of it is left out, without regard to its level: what fits then, in `book`.
struct Lifted {
  PlanRequest request;
  std::optional<ShapeBook> book;
  bool fits = false;
};

void lift(const Search& search, const Relaxed& rules, void (*change)(ModelDemand*), Lifted* lifted) {
  lifted->request = search.request;
  change(&lifted->request.models[static_cast<size_t>(search.model)]);
  lifted->book.emplace(lifted->request, search.model, rules);
  Search without{.request = lifted->request, .model = search.model, .goal = search.goal, .taken = search.taken};
  without.goal.objective = Objective::kGoodput;
  lifted->fits = !pack_beside(without, rules, *lifted->book).replicas.empty();
}

// The most that `value` says of any shape.
template <typename Value>
int64_t most_of(const ShapeBook& book, Value value) {
  int64_t most = 0;
  for (const Shape* shape : book.shapes()) most = std::max<int64_t>(most, value(*shape));
  return most;
}

// A pool that is asked for and holds no request, where one of another size would; OK: it is not that. The size that is
// offered is the least of the shapes that were looked at.
Status pool_too_small(const Search& search, const Relaxed& rules) {
  const ModelDemand& demand = search.demand();
  if (!demand.memory.kv_bytes_per_rank) return {};
  Lifted lifted;
  lift(search, rules, [](ModelDemand* all) { all->memory.kv_bytes_per_rank.reset(); }, &lifted);
  if (!lifted.fits) return {};
  const int64_t tokens = round_up<int64_t>(tokens_of_request(demand), demand.memory.block_tokens);
  int64_t needed = INT64_MAX;
  for (const Shape* shape : lifted.book->shapes()) {
    int64_t most = 0;
    for (const PlannedStage& stage : shape->stages) most = std::max(most, stage.memory.kv_per_token * tokens);
    needed = std::min(needed, most);
  }
  if (*demand.memory.kv_bytes_per_rank >= needed) return {};
  const std::string what = "request of " + std::to_string(tokens_of_request(demand)) + " tokens";
  return pool_holds_no(*demand.memory.kv_bytes_per_rank, what, needed, "leave it out, or use shorter requests");
}

// A degree, a pool or a context that is asked for and cannot be had on any number of these devices; OK: none of them.
Status asked_too_much(const Search& search, const Relaxed& rules) {
  const ModelDemand& demand = search.demand();
  const int block = demand.memory.block_tokens;
  if (demand.memory.kv_bytes_per_rank) {
    Lifted lifted;
    lift(search, rules, [](ModelDemand* all) { all->memory.kv_bytes_per_rank.reset(); }, &lifted);
    const auto pool = [&](const Shape& shape) {
      int64_t least = INT64_MAX;
      for (const PlannedStage& stage : shape.stages) {
        least = std::min(least, stage.memory.kv_per_token * block * shape.kv_blocks);
      }
      return least;
    };
    if (lifted.fits) {
      return resource_exhausted("kv-cache-memory-bytes of " + readable_bytes(*demand.memory.kv_bytes_per_rank) +
                                " a rank does not fit beside the weights, which leave " +
                                readable_bytes(most_of(*lifted.book, pool)) + " at most; lower it, or leave it out");
    }
  }
  if (demand.memory.context_max) {
    Lifted lifted;
    lift(search, rules, [](ModelDemand* all) { all->memory.context_max.reset(); }, &lifted);
    const auto tokens = [&](const Shape& shape) { return int64_t{shape.kv_blocks} * block; };
    if (lifted.fits) {
      return resource_exhausted("a request of max-model-len " + std::to_string(*demand.memory.context_max) +
                                " tokens does not fit, and one of " + std::to_string(most_of(*lifted.book, tokens)) +
                                " does; lower max-model-len");
    }
  }
  return {};
}

Status too_wide(const Search& search, const std::vector<Domain>& domains) {
  const int widest = std::ranges::max_element(domains, {}, &Domain::group_max)->group_max;
  if (search.goal.tp <= widest) return {};
  return resource_exhausted("tensor-parallel-size " + std::to_string(search.goal.tp) +
                            " needs as many free devices of one kind in one node, and the most are " +
                            std::to_string(widest) + "; lower it, and raise pipeline-parallel-size where more are needed");
}

bool fits_alone(Search alone, const Relaxed& rules) {
  alone.goal.objective = Objective::kGoodput;
  ShapeBook book(alone.request, alone.model, rules);
  return !pack_beside(alone, rules, book).replicas.empty();
}

Status others_are_in_the_way(const std::vector<Domain>& domains) {
  int free = 0;
  for (const Domain& domain : domains) free += domain.size();
  const std::string left = free == 0 ? "no device" : "too little of " + std::to_string(free) + " devices";
  return resource_exhausted("the models placed before it leave " + left + " free; add nodes, or plan it apart from them");
}

// A weight format of GGUF files with which `there` ranks would do, computed from the bytes of a weight; empty: none, or
// what is there are GPUs, which keep all weights in bfloat16.
std::string smaller_format(const Search& search, const Relaxed& rules, const Missing& missing) {
  const Format now = search.demand().checkpoint->main_format();
  if (search.request.cluster->kinds[static_cast<size_t>(missing.kind)].gpu || info(now).block_elements > 1) return {};
  Relaxed any_memory = rules;
  any_memory.memory = true;
  ShapeBook book(search.request, search.model, any_memory);
  const std::vector<Domain> domains = domains_of(search.request, search.taken, rules);
  const auto like = std::ranges::find(domains, missing.kind, &Domain::kind);
  const int tp = std::max(search.goal.tp, 1);
  const int stages = std::clamp(missing.there / tp, 1, book.layers());
  const Shape* shape = side_by_side(book, *like, tp, stages);
  if (shape == nullptr) return {};
  const Load& load = search.demand().load;
  for (const Format format : {Format::kQ8_0, Format::kQ4_0}) {
    const double bytes = static_cast<double>(info(format).block_bytes) / info(format).block_elements;
    const double ratio = bytes / info(now).block_bytes;
    const auto fits = [&](const PlannedStage& stage) {
      const int64_t weights = static_cast<int64_t>(static_cast<double>(stage.memory.weights) * ratio);
      const int64_t pages = 2 * stage.memory.kv_per_token * (load.input_tokens + load.output_tokens);
      return weights + stage.memory.activations + pages <= like->memory;
    };
    if (std::ranges::all_of(shape->stages, fits)) return std::string(info(format).name);
  }
  return {};
}

}  // namespace

Status too_little(const Search& search, const Packing& packing) {
  const double lacking = search.goal.request_rate - packing.request_rate;
  const Packed& best = *std::ranges::max_element(packing.replicas, {}, [](const Packed& replica) {
    return replica.shape->best.request_rate / replica.shape->devices();
  });
  const auto replicas = static_cast<int>(std::ceil(lacking / best.shape->best.request_rate));
  const DeviceId first = best.devices.front();
  const Node& node = search.request.cluster->nodes[static_cast<size_t>(first.node)];
  const int kind = node.devices[static_cast<size_t>(first.device)].kind;
  const ServiceLevel& level = search.demand().level;
  return resource_exhausted("these devices give " + number_text(packing.request_rate) + " requests/s of the " +
                            number_text(search.goal.request_rate) + " asked for (" + shapes_text(packing) +
                            "); add about " + units_text(search, replicas * best.shape->devices(), kind) +
                            (level.ttft_ms > 0 || level.itl_ms > 0 ? ", lower request-rate, or allow higher latencies"
                                                                   : ", or lower request-rate"));
}

Status nothing_fits(const Search& search) {
  Relaxed any_level{.group_over_pcie = true};
  any_level.ttft = any_level.itl = true;
  ShapeBook book(search.request, search.model, any_level);
  Search most = search;
  most.goal.objective = Objective::kGoodput;
  const Packing without_level = pack_beside(most, any_level, book);
  if (!without_level.replicas.empty()) return level_does_not_hold(search, book.shapes());
  const std::vector<Domain>& domains = without_level.domains;
  if (!search.taken.empty()) {
    const Search alone{.request = search.request, .model = search.model, .goal = search.goal};
    return fits_alone(alone, any_level) ? others_are_in_the_way(domains) : nothing_fits(alone);
  }
  RETURN_IF_ERROR(too_wide(search, domains));
  RETURN_IF_ERROR(pool_too_small(search, any_level));
  const std::optional<Missing> missing = missing_devices(search, any_level);
  const std::string needs = "the model and one request of " + std::to_string(tokens_of_request(search.demand())) + " tokens";
  if (!missing) {
    RETURN_IF_ERROR(asked_too_much(search, any_level));
    return resource_exhausted(needs + " do not fit on any number of these devices" + asked_shape(search) +
                              "; use devices with more memory or shorter requests");
  }
  const std::string needed = units_text(search, missing->needed, missing->kind) + asked_shape(search);
  if (missing->needed <= missing->there) {
    return resource_exhausted(needs + " need " + needed + ", side by side or joined by a network, and they are not; describe "
                              "the links between nodes");
  }
  const int of_node = ranks_of_node(search, missing->kind);
  const int there = units(missing->there, of_node);
  const std::string format = smaller_format(search, any_level, *missing);
  return resource_exhausted(needs + " need " + needed + " and " + std::to_string(there) + (there == 1 ? " is" : " are") +
                            " free; add " + std::to_string(units(missing->needed, of_node) - there) +
                            (format.empty() ? "" : ", use weights in " + format) + " or use a smaller model" +
                            (of_node == 0 ? " (on GPUs all weights are bfloat16, whatever their files have)" : ""));
}

}  // namespace skein
