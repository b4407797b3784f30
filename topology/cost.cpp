#include "topology/cost.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"

namespace skein {
namespace {

constexpr double kMicro = 1e6;
// Where no exchange over a link was measured: what a message takes besides its path's latency.
constexpr double kMessageUs = 4;
// What a product, a row or attention reaches where nothing was measured.
constexpr double kUnmeasuredShare = 0.8;

double share_or(const Curve& curve, double x) { return curve.empty() ? kUnmeasuredShare : share_at(curve, x); }

double read_rate(const StageSite& site) { return site.device->read_bytes_per_s * site.read_share; }
double flop_rate(const StageSite& site) { return site.device->flops * site.cores; }

double attention_us(const StageSite& site, const ShardPlan& shard, const StepLoad& load, double kv_token_bytes,
                    int head_dim) {
  double us = 0;
  if (load.decodes > 0) {
    const double bytes = load.decodes * load.context * kv_token_bytes;
    const double read = bytes / read_rate(site) / share_or(site.device->decode_attention_share, bytes) * kMicro;
    us += std::max(read, site.device->decode_attention_us);
  }
  if (load.prompt_tokens > 0) {
    const double flops = 4.0 * shard.q_heads.size() * head_dim * load.prompt_tokens * load.prompt_keys;
    const double compute =
        flops / flop_rate(site) / share_or(site.device->prefill_attention_share, load.prompt_keys) * kMicro;
    us += std::max(compute, site.device->prefill_attention_us);
  }
  return us;
}

}  // namespace

const LinkCalibration* find_link(const Calibration& calibration, LinkKind link, std::string_view device, int ranks) {
  const LinkCalibration* best = nullptr;
  // Smaller is better: another device's entry, fewer ranks than asked for, distance in ranks.
  const auto misfit = [&](const LinkCalibration& entry) {
    const int distance = entry.ranks >= ranks ? entry.ranks - ranks : 1000 + ranks - entry.ranks;
    return distance + (entry.device == device ? 0 : entry.device.empty() ? 10'000 : 20'000);
  };
  for (const LinkCalibration& entry : calibration.links) {
    if (entry.link == link && (best == nullptr || misfit(entry) < misfit(*best))) best = &entry;
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

ReplicaCost::ReplicaCost(const ModelDescription& model, const ModelFormats& formats, std::vector<ShardPlan> shards,
                         std::vector<StageSite> sites)
    : model_(model), formats_(formats), shards_(std::move(shards)), sites_(std::move(sites)) {
  CHECK(!sites_.empty());
  tp_ = static_cast<int>(shards_.size() / sites_.size());
  CHECK_EQ(shards_.size(), sites_.size() * static_cast<size_t>(tp_));
  // Of ranks with parts of the same size one stands for all.
  const auto same_size = [](const ShardPlan& a, const ShardPlan& b) {
    return a.pp_rank == b.pp_rank && a.q_heads.size() == b.q_heads.size() && a.kv_heads.size() == b.kv_heads.size() &&
           a.intermediate.size() == b.intermediate.size() && a.vocabulary.size() == b.vocabulary.size();
  };
  shards_.erase(std::unique(shards_.begin(), shards_.end(), same_size), shards_.end());
}

// Inputs, outputs and weights are read or written once.
double ReplicaCost::product_us(const StageSite& site, double outputs, double inputs, double tokens,
                               double element) const {
  const double weights = outputs * inputs * element;
  const double bytes = weights + tokens * (inputs + outputs) * formats_.stream;
  const double flops = 2 * outputs * inputs * tokens;
  const double floor = std::max(bytes / read_rate(site), flops / flop_rate(site)) * kMicro;
  return floor / product_share_at(*site.device, tokens, weights);
}

double ReplicaCost::layer_us(const ShardPlan& shard, const StageSite& site, const StepLoad& load) const {
  const double tokens = load.decodes + load.prompt_tokens;
  const double hidden = model_.hidden;
  const double q = double(shard.q_heads.size()) * model_.head_dim;
  const double kv = double(shard.kv_heads.size()) * model_.head_dim;
  const double element = formats_.layer_weight;
  double us = product_us(site, q + 2 * kv, hidden, tokens, element) + product_us(site, hidden, q, tokens, element) +
              product_us(site, 2.0 * shard.intermediate.size(), hidden, tokens, element) +
              product_us(site, hidden, shard.intermediate.size(), tokens, element);
  us += attention_us(site, shard, load, 2 * kv * formats_.kv, model_.head_dim);
  // Two norms: the residual in float32 read and written, the product's part read, the normed row written.
  const double row_bytes = 2 * hidden * (8 + 2 * formats_.stream);
  const double share = site.device->row_bytes_share > 0 ? site.device->row_bytes_share : kUnmeasuredShare;
  us += site.device->layer_us + (tokens - 1) * row_bytes / read_rate(site) / share * kMicro;
  if (tp_ > 1) us += 2 * all_reduce_us(site.group, tokens * hidden * formats_.stream);
  return us;
}

// Embedding on the first stage, logits and sampling on the last.
double ReplicaCost::ends_us(const ShardPlan& shard, const StageSite& site, const StepLoad& load) const {
  const double tokens = load.decodes + load.prompt_tokens;
  double us = 0;
  if (shard.first_stage() && tp_ > 1) us += all_reduce_us(site.group, tokens * model_.hidden * 4);
  const double samples = load.decodes + load.prompt_rows;
  if (!shard.last_stage() || samples == 0) return us;
  us += product_us(site, shard.vocabulary.size(), model_.hidden, samples, formats_.output_weight);
  us += site.device->step_us + (samples - 1) * site.device->sample_us;
  if (tp_ > 1) us += send_us(site.group, samples * (model_.vocabulary - shard.vocabulary.size()) * 4.0);
  return us;
}

double ReplicaCost::stage_us(int stage, const StepLoad& load) const {
  const StageSite& site = sites_[static_cast<size_t>(stage)];
  double slowest = 0;
  for (const ShardPlan& shard : shards_) {
    if (shard.pp_rank != stage) continue;
    const bool recorded = stages() == 1 && load.prompt_tokens == 0;
    const double device_us = shard.layers.size() * layer_us(shard, site, load);
    const double host_us = recorded ? 0 : shard.layers.size() * site.device->layer_launch_us;
    slowest = std::max(slowest, std::max(device_us, host_us) + ends_us(shard, site, load));
  }
  return slowest;
}

double ReplicaCost::slowest_us(const StepLoad& load) const {
  double slowest = 0;
  for (int stage = 0; stage < stages(); ++stage) slowest = std::max(slowest, stage_us(stage, load));
  return slowest;
}

double ReplicaCost::step_us(const StepLoad& load, int lanes) const {
  const double tokens = load.decodes + load.prompt_tokens;
  double sum = 0;
  for (int stage = 0; stage < stages(); ++stage) {
    sum += stage_us(stage, load);
    if (stage + 1 < stages()) {
      // The residual in float32, and what the last layer adds to it.
      sum += send_us(sites_[static_cast<size_t>(stage)].next, tokens * model_.hidden * (4 + formats_.stream));
    }
  }
  const double host_us = sites_.front().device->host_us;
  // One stage has its next step queued; more of them wait until the tokens have come back.
  if (stages() == 1) return std::max(sum, host_us);
  return std::max(sum + host_us, lanes * slowest_us(load));
}

}  // namespace skein
