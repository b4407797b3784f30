#include "topology/cost.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "base/check.h"
#include "base/checked.h"
#include "base/probe.h"

namespace skein {
namespace {

constexpr double kMicro = 1e6;
// Where no exchange over a link was measured: what a message takes besides its path's latency.
constexpr double kMessageUs = 4;
// What a product, a row or attention reaches where nothing was measured.
constexpr double kUnmeasuredShare = 0.8;
constexpr double kRounding = 1e-9;  // of shares that add up to 1

// Of two rates, the larger over the smaller, up to which they may be of one path.
constexpr double kRateApartMax = 2;

double share_or(const Curve& curve, double x) { return curve.empty() ? kUnmeasuredShare : share_at(curve, x); }

bool same_sizes(const ShardPlan& a, const ShardPlan& b) {
  return a.q_heads.size() == b.q_heads.size() && a.kv_heads.size() == b.kv_heads.size() &&
         a.intermediate.size() == b.intermediate.size() && a.vocabulary.size() == b.vocabulary.size();
}

// Whether a layer takes as long on both.
bool alike(const StageSite& a, const StageSite& b) {
  return a.device == b.device && a.cores == b.cores && a.share == 1 && b.share == 1 &&
         a.group.measured == b.group.measured && a.group.ranks == b.group.ranks &&
         a.group.path.bytes_per_s == b.group.path.bytes_per_s && a.group.path.latency_us == b.group.path.latency_us;
}

}  // namespace

const LinkCalibration* find_link(const Calibration& calibration, const Path& path, std::string_view device, int ranks) {
  const LinkCalibration* best = nullptr;
  // How far the description of what was measured is from this path's; any path: as far as can be.
  const auto apart = [&](const LinkCalibration& entry) {
    if (entry.described_bytes_per_s == 0) return kRateApartMax;
    return std::max(entry.described_bytes_per_s, path.bytes_per_s) /
           std::min(entry.described_bytes_per_s, path.bytes_per_s);
  };
  // Smaller is better: another device's entry, fewer ranks than asked for, distance in ranks, another path.
  const auto misfit = [&](const LinkCalibration& entry) {
    const int distance = entry.ranks >= ranks ? entry.ranks - ranks : 1000 + ranks - entry.ranks;
    const int device_misfit = entry.device == device ? 0 : entry.device.empty() ? 10'000 : 20'000;
    return std::tuple(distance + device_misfit, apart(entry), std::abs(entry.described_latency_us - path.latency_us));
  };
  for (const LinkCalibration& entry : calibration.links) {
    if (entry.link != path.link || apart(entry) > kRateApartMax) continue;
    if (best == nullptr || misfit(entry) < misfit(*best)) best = &entry;
  }
  return best;
}

double all_reduce_us(const Exchange& exchange, double bytes) {
  if (exchange.measured != nullptr && !exchange.measured->all_reduce_us.empty()) {
    return time_at(exchange.measured->all_reduce_us, bytes);
  }
  const double others = exchange.ranks - 1;
  return 2 * others * (exchange.path.latency_us + kMessageUs) +
         2 * others / exchange.ranks * bytes / exchange.path.bytes_per_s * kMicro;
}

double send_us(const Exchange& exchange, double bytes) {
  if (exchange.measured != nullptr && !exchange.measured->point_to_point_us.empty()) {
    return time_at(exchange.measured->point_to_point_us, bytes);
  }
  return exchange.path.latency_us + kMessageUs + bytes / exchange.path.bytes_per_s * kMicro;
}

// What a rank of a stage reaches.
struct ReplicaCost::Pace {
  const StageSite& site;
  double read;  // bytes/s, of its cores while all of them read
  double idle;      // 0: all cores are at work; 1: half of them, or fewer
  double gain_max;  // those at work do no more than all of them
  double from_memory;  // of what it reads; caches hold the rest from one step to the next
  const DeviceCalibration& device() const { return *site.device; }
  // Of the time from memory, where `cached` of it is enough for what caches hold.
  double partly(double cached) const { return from_memory + (1 - from_memory) * cached; }
  double flop_rate(double of_one) const { return of_one * site.cores; }
  double gain(const Curve& of_half, double tokens) const {
    return idle <= 0 || of_half.empty() ? 1 : std::min(std::pow(share_at(of_half, tokens), idle), gain_max);
  }
  double gain() const { return gain(device().waiting_gain, std::numeric_limits<double>::max()); }
  // Work of cores that was measured by its bytes, with all of them.
  double rows_us(double bytes, double share) const {
    return bytes / (device().read_bytes_per_s * site.share) / share / gain() * kMicro;
  }
};

struct ReplicaCost::Product {
  double outputs;
  double inputs;
  Format format;
};

struct ReplicaCost::ProductSpeed {
  double flops;  // of one core, or of a GPU
  const ShareTable& table;
  const ShareTable& cached;
  const Curve& waiting_gain;
};

ReplicaCost::ReplicaCost(const ModelDescription& model, const ModelFormats& formats, std::vector<ShardPlan> shards,
                         std::vector<StageSite> sites)
    : model_(model), formats_(formats), shards_(std::move(shards)), sites_(std::move(sites)) {
  CHECK(!sites_.empty());
  CHECK_EQ(formats_.layers.size(), model_.layers.size());
  tp_ = static_cast<int>(shards_.size() / sites_.size());
  CHECK_EQ(shards_.size(), sites_.size() * static_cast<size_t>(tp_));
  // Of ranks with parts of the same size one stands for all.
  const auto same_part = [](const ShardPlan& a, const ShardPlan& b) {
    return a.pp_rank == b.pp_rank && same_sizes(a, b);
  };
  shards_.erase(std::unique(shards_.begin(), shards_.end(), same_part), shards_.end());
  for (const ShardPlan& shard : shards_) {
    // Of the first rank; the others read at the same time.
    if (reads_.size() > static_cast<size_t>(shard.pp_rank)) continue;
    reads_.push_back(weight_bytes(shard));
    kv_heads_.push_back(double(shard.kv_heads.size()) * shard.layers.size());
  }
  mean_read_ = std::reduce(reads_.begin(), reads_.end()) / stages();
  mean_kv_heads_ = std::reduce(kv_heads_.begin(), kv_heads_.end()) / stages();
  alike_until_.assign(formats_.layers.size(), static_cast<int>(formats_.layers.size()));
  for (size_t layer = formats_.layers.size(); layer-- > 1;) {
    alike_until_[layer - 1] = formats_.layers[layer - 1] == formats_.layers[layer] ? alike_until_[layer]
                                                                                  : static_cast<int>(layer);
  }
}

double ReplicaCost::weight_bytes(const ShardPlan& shard) const {
  const auto bytes_of = [](double rows, double columns, Format format) {
    return rows * columns * info(format).block_bytes / info(format).block_elements;
  };
  const double hidden = model_.hidden;
  const double q = double(shard.q_heads.size()) * model_.head_dim;
  const double kv = double(shard.kv_heads.size()) * model_.head_dim;
  const double mlp = shard.intermediate.size();
  double bytes = shard.last_stage() ? bytes_of(shard.vocabulary.size(), hidden, formats_.output) : 0;
  for (int layer = shard.layers.begin; layer < shard.layers.end; ++layer) {
    const LayerFormats& formats = formats_.layers[static_cast<size_t>(layer)];
    bytes += bytes_of(q, hidden, formats.q) + bytes_of(kv, hidden, formats.k) + bytes_of(kv, hidden, formats.v) +
             bytes_of(hidden, q, formats.o) + bytes_of(mlp, hidden, formats.gate) + bytes_of(mlp, hidden, formats.up) +
             bytes_of(hidden, mlp, formats.down);
  }
  return bytes;
}

// Of a stage's weights, keys and values, what its ranks find in no cache. Stages that share a node's cores share its
// caches, too. Keys of other lanes are left out.
double ReplicaCost::from_memory(size_t stage, const StepLoad& load, double again_us) const {
  const StageSite& site = sites_[stage];
  const DeviceCalibration& device = *site.device;
  if (device.from_memory.empty()) return 1;
  const bool alone = tp_ * site.share > 1 - kRounding;
  const double keys = load.decodes * load.context * 2 * model_.head_dim * formats_.kv;
  const double bytes = (alone ? reads_[stage] + keys * kv_heads_[stage] : mean_read_ + keys * mean_kv_heads_) /
                       site.share;
  const double later_us = std::max(again_us - bytes / device.read_bytes_per_s * kMicro, 0.0);
  return share_at(device.from_memory, bytes + device.cache_decay_bytes_per_s * later_us / kMicro);
}

// The ranks of a stage are at work at once, and stages as many as lanes are in flight.
ReplicaCost::Pace ReplicaCost::pace_of(size_t stage, const StepLoad& load, int lanes,
                                            double again_us) const {
  const StageSite& site = sites_[stage];
  double idle = 0;
  double at_work = 1;  // of the node's cores
  const double cores = site.cores / site.share;
  if (site.share < 1 && cores > 1) {
    // Stages wait for the one with the most to read.
    const double even = lanes > 1 ? mean_read_ / std::ranges::max(reads_) : 1;
    at_work = even * std::min(std::max(static_cast<double>(lanes) / stages(), tp_ * site.share), 1.0);
    idle = std::min((1 - at_work) / (1 - half_of(static_cast<int>(std::lround(cores))) / cores), 1.0);
  }
  return {.site = site,
          .read = site.device->read_bytes_per_s * site.share,
          .idle = idle,
          .gain_max = 1 / at_work,
          .from_memory = from_memory(stage, load, again_us)};
}

// One that was worked out, for the load and lanes at hand.
struct ReplicaCost::Layer {
  const ShardPlan* shard;
  const LayerFormats* formats;
  double from_memory;
  double us;
};

// Inputs, outputs and weights are read or written once. A rank with a part of a node's cores reaches what all of them
// do with as much more.
double ReplicaCost::product_us(const Pace& pace, const Product& product, double tokens,
                               const ProductSpeed& speed) const {
  const FormatInfo& format = info(product.format);
  const double weights = product.outputs * product.inputs * format.block_bytes / format.block_elements;
  const double bytes = weights + tokens * (product.inputs + product.outputs) * formats_.stream;
  const double flops = 2 * product.outputs * product.inputs * tokens;
  const double compute = flops / pace.flop_rate(speed.flops);
  const double floor = std::max(bytes / pace.read, compute) * kMicro;
  const double all_weights = weights / pace.site.share;
  const double share = share_at(speed.table, tokens, all_weights);
  const double cached = 1 / share_at(speed.cached, tokens, all_weights);
  const double us = floor / share * pace.partly(cached) / pace.gain(speed.waiting_gain, tokens);
  // What was timed may have found its weights in a GPU's cache; those of a step are not there.
  return pace.site.gpu ? std::max(us, bytes / pace.read * kMicro) : us;
}

double ReplicaCost::product_us(const Pace& pace, const Product& product, double tokens) const {
  const DeviceCalibration& device = pace.device();
  const FormatProducts* fewer = nullptr;  // inputs than the product's, or as many
  const FormatProducts* more = nullptr;
  for (const FormatProducts& of : device.format_products) {
    if (of.format != product.format) continue;
    if (of.inputs <= product.inputs && (fewer == nullptr || of.inputs > fewer->inputs)) fewer = &of;
    if (of.inputs >= product.inputs && (more == nullptr || of.inputs < more->inputs)) more = &of;
  }
  if (fewer == nullptr || (fewer->inputs == 0 && more != nullptr)) fewer = more;
  if (more == nullptr) more = fewer;
  if (fewer == nullptr) {
    return product_us(pace, product, tokens, {.flops = device.flops,
                                              .table = device.products,
                                              .cached = device.cached_products,
                                              .waiting_gain = device.waiting_gain});
  }
  const auto us_as = [&](const FormatProducts& of) {
    return product_us(pace, product, tokens, {.flops = of.flops,
                                              .table = of.table,
                                              .cached = of.cached,
                                              .waiting_gain = of.waiting_gain});
  };
  if (fewer == more) return us_as(*fewer);
  const double from = std::log(fewer->inputs);
  const double at = (std::log(product.inputs) - from) / (std::log(more->inputs) - from);
  return us_as(*fewer) + at * (us_as(*more) - us_as(*fewer));
}

// Of weights that read one input: neighbours of one format are one product.
double ReplicaCost::joined_us(const Pace& pace, std::initializer_list<Product> products, double tokens) const {
  double us = 0;
  double outputs = 0;
  for (const Product* product = products.begin(); product != products.end(); ++product) {
    outputs += product->outputs;
    if (product + 1 != products.end() && product[1].format == product->format) continue;
    us += product_us(pace, {outputs, product->inputs, product->format}, tokens);
    outputs = 0;
  }
  return us;
}

// Units of work for one core each: the query heads that share a row's keys, or a part of them where more units occupy
// more cores (kernels/cpu/attention_launch.cpp).
double ReplicaCost::group_attention_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load) const {
  const double cores = pace.site.cores;
  const double bytes = load.context * 2 * model_.head_dim * formats_.kv;
  const double group = static_cast<double>(shard.q_heads.size()) / shard.kv_heads.size();
  const double units = load.decodes * shard.kv_heads.size();
  double best = std::numeric_limits<double>::max();
  for (int splits = 1; splits <= std::ceil(group); ++splits) {
    const double rounds = std::ceil(units * splits / cores);
    const double heads = std::ceil(group / splits);
    const double share = share_at(pace.device().group_attention, heads, load.context);
    const double cached = 1 / share_at(pace.device().cached_attention, heads, load.context);
    best = std::min(best, pace.rows_us(bytes * cores, share) * pace.partly(cached) * rounds);
  }
  return best;
}

double ReplicaCost::attention_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load) const {
  const DeviceCalibration& device = pace.device();
  double us = 0;
  if (load.decodes > 0) {
    const double head_bytes = load.decodes * load.context * 2 * model_.head_dim * formats_.kv;
    const double bytes = head_bytes * shard.kv_heads.size();
    if (!device.group_attention.rows.empty()) {
      us += group_attention_us(shard, pace, load) + device.decode_attention_us;
    } else {
      const double read = bytes / pace.read / share_or(device.decode_attention_share, bytes) * kMicro;
      us += std::max(read, device.decode_attention_us);
    }
  }
  if (load.prompt_tokens > 0) {
    const double flops = 4.0 * shard.q_heads.size() * model_.head_dim * load.prompt_tokens * load.prompt_keys;
    const double share = share_or(device.prefill_attention_share, load.prompt_keys);
    us += std::max(flops / pace.flop_rate(device.flops) / share / pace.gain() * kMicro, device.prefill_attention_us);
  }
  return us;
}

// What a layer does to rows besides: two norms (the residual in float32 read and written, the product's part read, the
// normed row written), rotation and SwiGLU.
double ReplicaCost::rows_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load) const {
  const DeviceCalibration& device = pace.device();
  const double tokens = load.decodes + load.prompt_tokens;
  // A rank with a part of a node's cores is as busy as all of them are with as many more tokens, unless one core does
  // them all, one after the other.
  const auto launch_us = [&](const ShareTable& table, double row_bytes, double rows) {
    const double by_all = pace.rows_us(rows * row_bytes, share_at(table, rows / pace.site.share, row_bytes));
    const double by_one = rows * row_bytes / (device.read_bytes_per_s * share_at(table, 1, row_bytes)) * kMicro;
    return std::min(by_all, by_one);
  };
  const double norm_bytes = model_.hidden * (8 + 2 * formats_.stream);
  double us = 0;
  if (!device.norms.rows.empty()) {
    us += 2 * launch_us(device.norms, norm_bytes, tokens);
  } else {
    const double share = device.row_bytes_share > 0 ? device.row_bytes_share : kUnmeasuredShare;
    us += device.layer_us + pace.rows_us((tokens - 1) * 2 * norm_bytes, share);
  }
  if (!device.ropes.rows.empty() && load.prompt_tokens > 0) {
    const double heads = shard.q_heads.size() + 2.0 * shard.kv_heads.size();
    us += launch_us(device.ropes, 2 * heads * model_.head_dim * formats_.stream, load.prompt_tokens);
  }
  if (!device.gates.rows.empty()) {
    us += launch_us(device.gates, 3 * shard.intermediate.size() * formats_.stream, tokens);
  }
  return us;
}

double ReplicaCost::layer_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load,
                             const LayerFormats& formats) const {
  const double tokens = load.decodes + load.prompt_tokens;
  const double hidden = model_.hidden;
  const double q = double(shard.q_heads.size()) * model_.head_dim;
  const double kv = double(shard.kv_heads.size()) * model_.head_dim;
  const double mlp = shard.intermediate.size();
  double us = joined_us(pace, {{q, hidden, formats.q}, {kv, hidden, formats.k}, {kv, hidden, formats.v}}, tokens) +
              product_us(pace, {hidden, q, formats.o}, tokens) +
              joined_us(pace, {{mlp, hidden, formats.gate}, {mlp, hidden, formats.up}}, tokens) +
              product_us(pace, {hidden, mlp, formats.down}, tokens);
  us += attention_us(shard, pace, load) + rows_us(shard, pace, load);
  if (tp_ > 1) us += 2 * all_reduce_us(pace.site.group, tokens * hidden * formats_.stream);
  return us;
}

double ReplicaCost::layers_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load,
                              std::vector<Layer>* known) const {
  const auto layer_us_of = [&](const LayerFormats& formats) {
    const auto same = [&](const Layer& layer) {
      const StageSite& site = sites_[static_cast<size_t>(layer.shard->pp_rank)];
      return *layer.formats == formats && same_sizes(*layer.shard, shard) && alike(site, pace.site) &&
             layer.from_memory == pace.from_memory;
    };
    const auto found = std::ranges::find_if(*known, same);
    if (found != known->end()) return found->us;
    known->push_back({.shard = &shard,
                      .formats = &formats,
                      .from_memory = pace.from_memory,
                      .us = layer_us(shard, pace, load, formats)});
    return known->back().us;
  };
  double us = 0;
  for (int layer = shard.layers.begin; layer < shard.layers.end;) {
    const int end = std::min(shard.layers.end, alike_until_[static_cast<size_t>(layer)]);
    us += (end - layer) * layer_us_of(formats_.layers[static_cast<size_t>(layer)]);
    layer = end;
  }
  return us;
}

// Embedding on the first stage, logits and sampling on the last.
double ReplicaCost::ends_us(const ShardPlan& shard, const Pace& pace, const StepLoad& load) const {
  const DeviceCalibration& device = pace.device();
  const double tokens = load.decodes + load.prompt_tokens;
  double us = 0;
  if (shard.first_stage() && tp_ > 1) us += all_reduce_us(pace.site.group, tokens * model_.hidden * 4);
  const double samples = load.decodes + load.prompt_rows;
  if (!shard.last_stage() || samples == 0) return us;
  const double vocabulary = shard.vocabulary.size();
  us += product_us(pace, {vocabulary, double(model_.hidden), formats_.output}, samples);
  us += device.step_us + (samples - 1) * device.sample_us;
  // Each row by one core.
  if (device.logits_per_s > 0) {
    us += std::ceil(samples / pace.site.cores) * model_.vocabulary / device.logits_per_s / pace.gain() * kMicro;
  }
  if (tp_ > 1) us += send_us(pace.site.group, samples * (model_.vocabulary - vocabulary) * 4.0);
  return us;
}

// What caches hold depends on how long a step takes, and the other way round: by that of a step as if at once.
double ReplicaCost::again_us(const StepLoad& load, int lanes) const {
  return caches_decay() ? step_us(load, lanes, stages_us(load, lanes, 0)) / lanes : 0;
}

double ReplicaCost::stage_us(int stage, const StepLoad& load, int lanes) const {
  std::vector<Layer> known;
  return stage_us(static_cast<size_t>(stage), load, lanes, again_us(load, lanes), &known);
}

std::vector<double> ReplicaCost::stages_us(const StepLoad& load, int lanes) const {
  return stages_us(load, lanes, again_us(load, lanes));
}

std::vector<double> ReplicaCost::stages_us(const StepLoad& load, int lanes, double again_us) const {
  std::vector<Layer> known;
  std::vector<double> times(sites_.size());
  for (size_t stage = 0; stage < times.size(); ++stage) times[stage] = stage_us(stage, load, lanes, again_us, &known);
  return times;
}

double ReplicaCost::stage_us(size_t stage, const StepLoad& load, int lanes, double again_us,
                             std::vector<Layer>* known) const {
  const Pace pace = pace_of(stage, load, lanes, again_us);
  const bool recorded = load.prompt_tokens == 0;
  const auto of_stage = static_cast<int>(stage);
  double slowest = 0;
  auto shard = std::ranges::lower_bound(shards_, of_stage, {}, &ShardPlan::pp_rank);
  for (; shard != shards_.end() && shard->pp_rank == of_stage; ++shard) {
    const double device_us = layers_us(*shard, pace, load, known);
    const double host_us = recorded ? 0 : shard->layers.size() * pace.device().layer_launch_us;
    slowest = std::max(slowest, std::max(device_us, host_us) + ends_us(*shard, pace, load));
  }
  // Others are at work while a stage waits for its turn.
  return stages() > 1 ? slowest + pace.device().wake_us : slowest;
}

bool ReplicaCost::caches_decay() const {
  return std::ranges::any_of(sites_, [](const StageSite& site) { return site.device->cache_decay_bytes_per_s > 0; });
}

bool ReplicaCost::lanes_matter() const {
  return caches_decay() || std::ranges::any_of(sites_, [](const StageSite& site) { return site.share < 1; });
}

// The residual in float32, and what the last layer adds to it.
double ReplicaCost::hop_us(int stage, const StepLoad& load) const {
  const double tokens = load.decodes + load.prompt_tokens;
  return send_us(sites_[static_cast<size_t>(stage)].next, tokens * model_.hidden * (4 + formats_.stream));
}

double ReplicaCost::step_us(const StepLoad& load, int lanes) const {
  return step_us(load, lanes, stages_us(load, lanes));
}

double ReplicaCost::step_us(const StepLoad& load, int lanes, const std::vector<double>& stages_us) const {
  double sum = 0;
  for (int stage = 0; stage < stages(); ++stage) {
    sum += stages_us[static_cast<size_t>(stage)];
    if (stage + 1 < stages()) sum += hop_us(stage, load);
  }
  // One stage has its next step queued; more of them wait until the tokens have come back.
  if (stages() == 1) return std::max(sum, host_us());
  return std::max(sum + host_us(), lanes * std::ranges::max(stages_us));
}

}  // namespace skein
