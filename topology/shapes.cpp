#include "topology/shapes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <tuple>

#include "base/check.h"
#include "base/checked.h"

namespace skein {
namespace {

constexpr int64_t kEndlessTokens = int64_t{1} << 40;
constexpr int kEndlessSequences = 1 << 14;
// All ways to deal the layers out are tried up to that many.
constexpr int64_t kSplitsMax = 64;
constexpr size_t kTargetsTried = 2;  // stages that may take a layer from the slowest one

// Ways to put `layers` into `stages` parts of one or more; at most kSplitsMax + 1.
int64_t count_splits(int layers, int stages) {
  int64_t count = 1;
  for (int i = 1; i < stages; ++i) {
    count = count * (layers - i) / i;
    if (count > kSplitsMax) break;
  }
  return count;
}

// The next one in lexicographic order; false after the last.
bool next_split(std::vector<int>* layers) {
  // The rightmost part but the last that can grow takes one from what is behind it; those behind start at one again.
  for (size_t i = layers->size() - 1; i-- > 0;) {
    int behind = 0;
    for (size_t j = i + 1; j < layers->size(); ++j) behind += (*layers)[j];
    if (behind == static_cast<int>(layers->size() - i) - 1) continue;
    ++(*layers)[i];
    for (size_t j = i + 1; j + 1 < layers->size(); ++j) (*layers)[j] = 1;
    layers->back() = behind - 1 - static_cast<int>(layers->size() - i - 2);
    return true;
  }
  return false;
}

// Fastest first, in a step of decodes as many as run at best.
std::vector<size_t> stages_by_time(const Shape& shape, const Load& load) {
  std::vector<std::pair<double, size_t>> times;
  const auto stages = static_cast<double>(shape.stages.size());
  const StepLoad step{.decodes = std::max(1.0, shape.best.concurrency / stages),
                      .context = load.input_tokens + 0.5 * load.output_tokens};
  for (const double us : shape.cost->stages_us(step, shape.cost->stages())) times.emplace_back(us, times.size());
  std::ranges::sort(times);
  std::vector<size_t> order;
  for (const auto& [us, stage] : times) order.push_back(stage);
  return order;
}

std::vector<int> split_by_memory(int layers, const std::vector<int64_t>& memory) {
  int64_t memory_left = 0;
  for (const int64_t bytes : memory) memory_left += std::max<int64_t>(bytes, 1);
  std::vector<int> split;
  for (size_t stage = 0; stage < memory.size(); ++stage) {
    const int64_t bytes = std::max<int64_t>(memory[stage], 1);
    const int stages_left = static_cast<int>(memory.size() - stage) - 1;
    split.push_back(std::clamp(static_cast<int>(layers * bytes / memory_left), 1, layers - stages_left));
    layers -= split.back();
    memory_left -= bytes;
  }
  return split;
}

}  // namespace

int64_t weight_bytes(const ModelDemand& demand) {
  const auto whole = plan_shards(demand.checkpoint->description(), 1, 1);
  CHECK(whole.ok());
  MemoryRequest request = demand.memory;
  int64_t least = INT64_MAX;
  for (const bool gpu : {false, true}) {
    request.gpu = gpu;
    least = std::min(least, rank_memory(*demand.checkpoint, whole->front(), request).weights);
  }
  return least;
}

std::optional<DeviceCalibration> calibration_of(const DeviceKind& kind, const Calibration& calibration) {
  if (const DeviceCalibration* found = calibration.find_device(kind.name)) return *found;
  if (kind.read_bytes_per_s <= 0 || kind.bf16_flops <= 0) return std::nullopt;
  const double ridge = kind.bf16_flops / kind.read_bytes_per_s;
  const DeviceCalibration* nearest = nullptr;
  const auto distance = [&](const DeviceCalibration& device) {
    return std::abs(std::log(device.flops / device.read_bytes_per_s / ridge));
  };
  for (const DeviceCalibration& device : calibration.devices) {
    const bool gpu = device.context_bytes > 0;
    if (gpu == kind.gpu && (nearest == nullptr || distance(device) < distance(*nearest))) nearest = &device;
  }
  DeviceCalibration like = nearest != nullptr ? *nearest : DeviceCalibration{};
  like.name = kind.name;
  if (nearest != nullptr) {
    const double faster = kind.bf16_flops / nearest->flops;
    for (FormatProducts& products : like.format_products) products.flops *= faster;
    like.logits_per_s *= faster;
  }
  like.read_bytes_per_s = kind.read_bytes_per_s;
  like.flops = kind.bf16_flops;
  return like;
}

// What a shape is worked out from, by stage.
struct ShapeBook::Sites {
  std::vector<int> key;  // what it costs: tp, and by stage the numbers of what computes and of the ways
  std::vector<StageSite> stages;
  std::vector<int64_t> memory;   // that a rank may fill
};

// A replica with its layers dealt out, and what it does with so many sequences at once.
struct ShapeBook::Worked {
  ReplicaCost cost;
  std::map<int, Operation> operations = {};
};

// What is the same under all limits.
struct ShapeBook::Shared {
  std::map<int, std::optional<DeviceCalibration>> devices;  // by kind
  std::map<std::array<int64_t, 7>, RankMemory> memories;    // of ranks, by what theirs depends on
  std::map<std::string, int> sites;                         // numbers of Domain::site and Domain::compute
  std::map<std::tuple<LinkKind, double, double>, int> paths;
  std::map<std::pair<std::vector<int>, std::vector<int>>, Worked> worked;  // by Sites::key and layers
  int64_t evaluations = 0;

  int number_of(const std::string& site) {
    return sites.try_emplace(site, static_cast<int>(sites.size())).first->second;
  }
  int number_of(const Path& path) {
    const std::tuple what = {path.link, path.bytes_per_s, path.latency_us};
    return paths.try_emplace(what, static_cast<int>(paths.size())).first->second;
  }
};

ShapeBook::ShapeBook(const PlanRequest& request, int model, const Relaxed& relaxed)
    : request_(request),
      demand_(request.models[static_cast<size_t>(model)]),
      relaxed_(relaxed),
      formats_(formats_of(*demand_.checkpoint, demand_.memory)),
      weight_bytes_(weight_bytes(demand_)),
      shared_(std::make_shared<Shared>()) {}

ShapeBook::ShapeBook(const PlanRequest& request, int model, const Relaxed& relaxed, const ShapeBook& other)
    : request_(request),
      demand_(request.models[static_cast<size_t>(model)]),
      relaxed_(relaxed),
      formats_(other.formats_),
      weight_bytes_(other.weight_bytes_),
      shared_(other.shared_) {}

int64_t ShapeBook::evaluations() const { return shared_->evaluations; }

std::vector<const Shape*> ShapeBook::shapes() const {
  std::vector<const Shape*> shapes;
  for (const auto& [key, entry] : shapes_) {
    if (entry.shape) shapes.push_back(&*entry.shape);
  }
  return shapes;
}

std::vector<double> ShapeBook::latencies() const {
  std::set<double> latencies;
  for (const Shape* shape : shapes()) latencies.insert(shape->lone.latency_ms(demand_.load));
  return {latencies.begin(), latencies.end()};
}

const Shape* ShapeBook::find(const std::vector<const Domain*>& stages, int tp, const std::vector<StageWays>& ways,
                             const std::vector<int>& layers) {
  const Entry& found = entry(stages, tp, ways, layers);
  return found.shape ? &*found.shape : nullptr;
}

bool ShapeBook::fits(const std::vector<const Domain*>& stages, int tp, const std::vector<StageWays>& ways) {
  return entry(stages, tp, ways, {}).fits;
}

const ShapeBook::Entry& ShapeBook::entry(const std::vector<const Domain*>& stages, int tp,
                                         const std::vector<StageWays>& ways, const std::vector<int>& layers) {
  std::vector<int> key = {tp};
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    const bool again = stage > 0 && stages[stage] == stages[stage - 1];
    key.push_back(again ? key[key.size() - 3] : shared_->number_of(stages[stage]->site));
    key.push_back(shared_->number_of(ways[stage].group));
    key.push_back(shared_->number_of(ways[stage].next));
  }
  const auto [at, fresh] = shapes_.try_emplace({std::move(key), layers});
  if (fresh) {
    std::optional<Sites> sites = sites_of(stages, tp, ways);
    if (sites) {
      sites->key = at->first.first;
      for (size_t stage = 0; stage < stages.size(); ++stage) {
        sites->key[1 + 3 * stage] = shared_->number_of(stages[stage]->compute);
      }
      fitted_ = false;
      at->second.shape = layers.empty() ? work_out(tp, *sites) : with_layers(tp, layers, *sites);
      at->second.fits = fitted_;
    }
  }
  return at->second;
}

const DeviceCalibration* ShapeBook::device_of(int kind) {
  const auto [at, fresh] = shared_->devices.try_emplace(kind);
  if (fresh) at->second = calibration_of(request_.cluster->kinds[static_cast<size_t>(kind)], *request_.calibration);
  return at->second ? &*at->second : nullptr;
}

std::optional<StageSite> ShapeBook::site_on(const Device& device, const CoreParts& parts, int tp,
                                            const StageWays& ways) {
  const DeviceCalibration* measured = device_of(device.kind);
  if (measured == nullptr) return std::nullopt;
  const Calibration& calibration = *request_.calibration;
  const DeviceKind& kind = kind_of(*request_.cluster, device);
  const int cores = std::max(1, parts.cores / parts.ranks);
  const auto exchange = [&](const Path& path, int ranks) {
    return Exchange{.measured = find_link(calibration, path, kind.name, ranks), .path = path, .ranks = ranks};
  };
  return StageSite{.device = measured,
                   .gpu = kind.gpu,
                   .cores = kind.gpu ? 1.0 : static_cast<double>(cores),
                   .share = kind.gpu ? 1.0 : 1.0 / parts.ranks,
                   .group = exchange(ways.group, tp),
                   .next = exchange(ways.next, 2)};
}

std::optional<ShapeBook::Sites> ShapeBook::sites_of(const std::vector<const Domain*>& stages, int tp,
                                                    const std::vector<StageWays>& ways) {
  Sites sites;
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    const Domain& domain = *stages[stage];
    const Node& node = request_.cluster->nodes[static_cast<size_t>(domain.node)];
    const Device& device = node.devices[static_cast<size_t>(domain.devices[0])];
    CoreParts parts;
    if (!kind_of(*request_.cluster, device).gpu) {
      parts = {.cores = static_cast<int>(node.devices.size()), .ranks = ranks_of_cores(request_, node.devices.size())};
    }
    const std::optional<StageSite> site = site_on(device, parts, tp, ways[stage]);
    if (!site) return std::nullopt;
    sites.stages.push_back(*site);
    sites.memory.push_back(domain.memory);
  }
  return sites;
}

std::optional<ReplicaCost> ShapeBook::cost_of(const PlacedReplica& replica) {
  const Cluster& cluster = *request_.cluster;
  const std::optional<std::vector<StageWays>> ways = ways_of(cluster, replica.tensor_parallel_size, replica.devices);
  if (!ways) return std::nullopt;
  std::vector<StageSite> sites;
  std::vector<int> layers;
  for (size_t stage = 0; stage < replica.stages.size(); ++stage) {
    const DeviceId first = replica.devices[stage * static_cast<size_t>(replica.tensor_parallel_size)];
    const Node& node = cluster.nodes[static_cast<size_t>(first.node)];
    const CoreParts parts{.cores = static_cast<int>(node.devices.size()),
                          .ranks = static_cast<int>(std::ranges::count(replica.devices, first.node, &DeviceId::node))};
    const std::optional<StageSite> site =
        site_on(node.devices[static_cast<size_t>(first.device)], parts, replica.tensor_parallel_size, (*ways)[stage]);
    if (!site) return std::nullopt;
    sites.push_back(*site);
    layers.push_back(replica.stages[stage].layers);
  }
  const ModelDescription& model = demand_.checkpoint->description();
  auto shards = plan_shards(model, replica.tensor_parallel_size, layers);
  if (!shards.ok()) return std::nullopt;  // another model's plan
  return ReplicaCost(model, formats_, std::move(*shards), std::move(sites));
}

// Layers for the stages, unless they are to be even: all ways where they are few; else the better of equal parts and
// parts by memory, and from there layers go one by one from the slowest stage to fast ones as long as that helps.
std::optional<Shape> ShapeBook::work_out(int tp, const Sites& sites) {
  const int stages = static_cast<int>(sites.stages.size());
  const auto equal = plan_shards(demand_.checkpoint->description(), tp, stages);
  if (!equal.ok() || !check_shard_formats(*demand_.checkpoint, *equal).ok()) return std::nullopt;
  std::vector<int> split;
  for (int stage = 0; stage < stages; ++stage) split.push_back((*equal)[static_cast<size_t>(stage * tp)].layers.size());
  std::optional<Shape> best = settle(tp, split, sites);
  if (request_.even_layers) return best;
  const auto improves = [&](const std::vector<int>& layers) {
    std::optional<Shape> shape = settle(tp, layers, sites);
    if (!shape || (best && !better(*shape, *best))) return false;
    best = std::move(shape);
    return true;
  };
  if (count_splits(layers(), stages) <= kSplitsMax) {
    std::vector<int> any(static_cast<size_t>(stages), 1);
    any.back() = layers() - stages + 1;
    do improves(any);
    while (next_split(&any));
    return best;
  }
  const std::vector<int> by_memory = split_by_memory(layers(), sites.memory);
  if (by_memory != split && improves(by_memory)) split = by_memory;
  if (!best) return std::nullopt;
  for (bool moved = true; moved;) {
    moved = false;
    const std::vector<size_t> slowest_last = stages_by_time(*best, demand_.load);
    const size_t from = slowest_last.back();
    for (size_t i = 0; i + 1 < slowest_last.size() && i < kTargetsTried && !moved && split[from] > 1; ++i) {
      --split[from];
      ++split[slowest_last[i]];
      moved = improves(split);
      if (moved) continue;
      ++split[from];
      --split[slowest_last[i]];
    }
  }
  return best;
}

std::optional<Shape> ShapeBook::with_layers(int tp, const std::vector<int>& layers, const Sites& sites) {
  const auto shards = plan_shards(demand_.checkpoint->description(), tp, layers);
  if (!shards.ok() || !check_shard_formats(*demand_.checkpoint, *shards).ok()) return std::nullopt;
  return settle(tp, layers, sites);
}

bool ShapeBook::better(const Shape& a, const Shape& b) const {
  if (request_.objective == Objective::kLatency) {
    const double latency = b.lone.latency_ms(demand_.load) - a.lone.latency_ms(demand_.load);
    if (std::abs(latency) > kNoise * b.lone.latency_ms(demand_.load)) return latency > 0;
  }
  return a.best.request_rate > b.best.request_rate * (1 + kNoise);
}

// What communicators take of a rank. Over links that nobody measured: the most that was measured over others.
double ShapeBook::library_bytes(const StageSite& site, int tp, size_t stages, bool* assumed) const {
  const auto bytes_of = [&](const LinkCalibration* measured, double LinkCalibration::*bytes) {
    if (measured != nullptr && measured->*bytes > 0) return measured->*bytes;
    *assumed = true;
    double most = 0;
    for (const LinkCalibration& link : request_.calibration->links) most = std::max(most, link.*bytes);
    return most;
  };
  const double group = tp > 1 ? bytes_of(site.group.measured, &LinkCalibration::library_bytes) : 0;
  return stages > 1 ? std::max(group, bytes_of(site.next.measured, &LinkCalibration::stage_bytes)) : group;
}

// Memory that the runtime takes besides.
MemoryRequest ShapeBook::memory_request(const StageSite& site, int tp, size_t stages, bool* assumed) const {
  MemoryRequest request = demand_.memory;
  request.gpu = site.gpu;
  if (site.device->context_bytes == 0) return request;  // not measured
  const double bytes = site.device->context_bytes + site.device->graph_bytes;
  request.runtime_bytes = static_cast<int64_t>(bytes + library_bytes(site, tp, stages, assumed));
  request.receiver_bytes = kNcclReceiverBytes;
  return request;
}

const RankMemory& ShapeBook::memory_of(const ShardPlan& shard, const MemoryRequest& request) {
  const std::array<int64_t, 7> key = {shard.tp_rank,    shard.tp_size,    shard.pp_size == 1, shard.last_stage(),
                                      shard.layers.begin, shard.layers.end, request.gpu ? request.runtime_bytes : -1};
  const auto [at, fresh] = shared_->memories.try_emplace(key);
  if (fresh) at->second = rank_memory(*demand_.checkpoint, shard, request);
  return at->second;
}

std::optional<Shape> ShapeBook::settle(int tp, const std::vector<int>& layers, const Sites& sites) {
  const ModelDescription& model = demand_.checkpoint->description();
  const auto shards = plan_shards(model, tp, layers);
  CHECK(shards.ok());
  Shape shape{.tp = tp};
  int64_t kv_tokens = kEndlessTokens;
  const size_t stages = layers.size();
  for (size_t stage = 0; stage < stages; ++stage) {
    const StageSite& site = sites.stages[stage];
    PlannedStage planned{.layers = layers[stage], .memory = {}};
    const MemoryRequest request = memory_request(site, tp, stages, &planned.runtime_assumed);
    if (stage + 1 < stages) planned.to_next = site.next.path.link;
    for (int rank = 0; rank < tp; ++rank) {
      const ShardPlan& shard = (*shards)[stage * static_cast<size_t>(tp) + static_cast<size_t>(rank)];
      const RankMemory& memory = memory_of(shard, request);
      const int64_t left = sites.memory[stage] - memory.fixed() - (site.gpu ? kGpuLateReserve : 0);
      const int context = request.context_max.value_or(model.context_max);
      const int64_t asked = request.kv_bytes_per_rank.value_or(0);
      if (asked > left && !relaxed_.memory) return std::nullopt;
      const int64_t pool = asked > 0 ? asked / memory.kv_per_token
                                     : default_pool_tokens(left, memory.kv_per_token, request, context);
      if (!relaxed_.memory) kv_tokens = std::min(kv_tokens, std::max<int64_t>(pool, 0));
      if (rank == 0 || memory.fixed() > planned.memory.fixed()) planned.memory = memory;
    }
    shape.stages.push_back(planned);
  }
  shape.group_link = tp > 1 ? sites.stages[0].group.path.link : LinkKind::kSelf;
  const int block = demand_.memory.block_tokens;
  shape.kv_blocks = static_cast<int>(std::min<int64_t>(kv_tokens / block, INT32_MAX / block));
  if (int64_t{shape.kv_blocks} * block < demand_.memory.context_max.value_or(0)) return std::nullopt;
  const int tokens = demand_.load.input_tokens + demand_.load.output_tokens;
  fitted_ = fitted_ || int64_t{shape.kv_blocks} * block >= tokens;

  Worked& replica = worked(layers, sites);
  shape.cost = &replica.cost;
  shape.limits = {.sequences_max = relaxed_.sequences ? kEndlessSequences : demand_.memory.slots,
                  .step_tokens_max = demand_.memory.step_tokens_max,
                  .kv_tokens = int64_t{shape.kv_blocks} * block};
  ServiceLevel level = demand_.level;
  if (relaxed_.ttft) level.ttft_ms = 0;
  if (relaxed_.itl) level.itl_ms = 0;
  const auto at = [&](int concurrency) { return operate_at(&replica, shape.limits, concurrency); };
  const std::optional<Operation> best = best_operation(level, concurrency_max(demand_.load, shape.limits), at);
  if (!best) return std::nullopt;
  shape.best = *best;
  shape.lone = at(1);
  return shape;
}

ShapeBook::Worked& ShapeBook::worked(const std::vector<int>& layers, const Sites& sites) {
  const auto key = std::pair(sites.key, layers);
  const auto at = shared_->worked.find(key);
  if (at != shared_->worked.end()) return at->second;
  const ModelDescription& model = demand_.checkpoint->description();
  auto shards = plan_shards(model, sites.key[0], layers);
  CHECK(shards.ok());
  ReplicaCost cost(model, formats_, std::move(*shards), sites.stages);
  return shared_->worked.try_emplace(key, Worked{.cost = std::move(cost)}).first->second;
}

// Of the limits only the tokens of a step count, which all books that share have alike.
Operation ShapeBook::operate_at(Worked* worked, const ReplicaLimits& limits, int concurrency) {
  const auto at = worked->operations.find(concurrency);
  if (at != worked->operations.end()) return at->second;
  ++shared_->evaluations;
  return worked->operations[concurrency] = operate(worked->cost, demand_.load, limits, concurrency);
}

}  // namespace skein
