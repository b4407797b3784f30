#include "model/shard.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/checked.h"
#include "base/replica_spec.h"
#include "model/checkpoint.h"

namespace skein {
namespace {

// Part `i` of [0, total) in `parts` parts that differ by one at most; the first parts are the
// larger ones.
IndexRange larger_first(int total, int parts, int i) {
  const auto begin = [&](int64_t part) {
    return static_cast<int>(ceil_div(total * part, int64_t{parts}));
  };
  return {begin(i), begin(i + 1)};
}

IndexRange larger_last(int total, int parts, int i) {
  const auto begin = [&](int64_t part) { return static_cast<int>(total * part / parts); };
  return {begin(i), begin(i + 1)};
}

// Like larger_last, but cut at multiples of `unit`, or of half, a quarter... where parts would get
// nothing.
IndexRange in_units(int total, int unit, int parts, int i) {
  while (ceil_div(total, unit) < parts) unit /= 2;
  const IndexRange units = larger_last(ceil_div(total, unit), parts, i);
  return {units.begin * unit, std::min(units.end * unit, total)};
}

int tp_max(const ModelDescription& d) {
  return std::min({d.q_heads, d.intermediate, d.vocabulary});
}

ShardPlan plan_shard(const ModelDescription& d, int tp_rank, int tp_size, int pp_rank,
                     int pp_size) {
  const int group_size = d.q_heads / d.kv_heads;
  ShardPlan plan;
  plan.tp_rank = tp_rank;
  plan.tp_size = tp_size;
  plan.pp_rank = pp_rank;
  plan.pp_size = pp_size;
  plan.layers = larger_first(static_cast<int>(d.layers.size()), pp_size, pp_rank);
  plan.q_heads = larger_first(d.q_heads, tp_size, tp_rank);
  plan.kv_heads = {plan.q_heads.begin / group_size, ceil_div(plan.q_heads.end, group_size)};
  plan.group_offset = plan.q_heads.begin - plan.kv_heads.begin * group_size;
  // The ranks with an attention head more get the smaller parts of the rest.
  plan.intermediate = in_units(d.intermediate, 32, tp_size, tp_rank);
  plan.vocabulary = in_units(d.vocabulary, 16, tp_size, tp_rank);
  return plan;
}

// The largest block among the weights whose columns are cut.
struct CutBlocks {
  int output = 1;
  int down = 1;
};

CutBlocks cut_blocks(const Checkpoint& checkpoint) {
  CutBlocks blocks;
  for (size_t layer = 0; layer < checkpoint.description().layers.size(); ++layer) {
    const auto block = [&](WeightRole role) {
      return info(checkpoint.weight(role, static_cast<int>(layer)).format).block_elements;
    };
    blocks.output = std::max(blocks.output, block(WeightRole::kO));
    blocks.down = std::max(blocks.down, block(WeightRole::kDown));
  }
  return blocks;
}

bool cuts_at_blocks(const ShardPlan& plan, int head_dim, CutBlocks blocks) {
  const auto fits = [](int64_t begin, int64_t end, int block) {
    return begin % block == 0 && end % block == 0;
  };
  return fits(int64_t{plan.q_heads.begin} * head_dim, int64_t{plan.q_heads.end} * head_dim,
              blocks.output) &&
         fits(plan.intermediate.begin, plan.intermediate.end, blocks.down);
}

bool cuts_at_blocks(const ModelDescription& d, int tp_size, CutBlocks blocks) {
  for (int rank = 0; rank < tp_size; ++rank) {
    if (!cuts_at_blocks(plan_shard(d, rank, tp_size, 0, 1), d.head_dim, blocks)) return false;
  }
  return true;
}

// More than that many ranks share no model in practice; it bounds the list and the work.
constexpr int kListedDegreesMax = 128;

std::string working_degrees(const ModelDescription& d, CutBlocks blocks) {
  std::string degrees;
  for (int tp = 1; tp <= std::min(tp_max(d), kListedDegreesMax); ++tp) {
    if (cuts_at_blocks(d, tp, blocks)) degrees += (tp == 1 ? "" : ", ") + std::to_string(tp);
  }
  return degrees;
}

}  // namespace

Result<std::vector<ShardPlan>> plan_shards(const ModelDescription& d, int tp_size, int pp_size) {
  if (tp_size < 1 || tp_size > tp_max(d)) {
    return invalid_argument("tensor parallel degree " + std::to_string(tp_size) +
                            " is not possible for this model of " + std::to_string(d.q_heads) +
                            " attention heads; it can be 1 to " + std::to_string(tp_max(d)));
  }
  const int layers = static_cast<int>(d.layers.size());
  if (pp_size < 1 || pp_size > layers) {
    return invalid_argument("pipeline parallel degree " + std::to_string(pp_size) +
                            " is not possible for this model of " + std::to_string(layers) +
                            " layers; it can be 1 to " + std::to_string(layers));
  }
  std::vector<ShardPlan> plans;
  for (int pp_rank = 0; pp_rank < pp_size; ++pp_rank) {
    for (int tp_rank = 0; tp_rank < tp_size; ++tp_rank) {
      plans.push_back(plan_shard(d, tp_rank, tp_size, pp_rank, pp_size));
    }
  }
  return plans;
}

Result<std::vector<ShardPlan>> plan_shards(const ModelDescription& d, int tp_size,
                                           const std::vector<int>& stage_layers) {
  const int pp_size = static_cast<int>(stage_layers.size());
  ASSIGN_OR_RETURN(std::vector<ShardPlan> plans, plan_shards(d, tp_size, pp_size));
  int begin = 0;
  for (int stage = 0; stage < pp_size; ++stage) {
    const int layers = stage_layers[static_cast<size_t>(stage)];
    if (layers < 1) return invalid_argument("stage " + std::to_string(stage) + " has no layers; give it one or more");
    for (int rank = 0; rank < tp_size; ++rank) {
      plans[static_cast<size_t>(stage * tp_size + rank)].layers = {begin, begin + layers};
    }
    begin += layers;
  }
  if (begin != static_cast<int>(d.layers.size())) {
    return invalid_argument("the stages have " + std::to_string(begin) + " layers in all and the model has " +
                            std::to_string(d.layers.size()));
  }
  return plans;
}

Result<std::vector<ShardPlan>> plan_shards(const ModelDescription& description,
                                           const ReplicaSpec& spec) {
  if (!spec.stage_layers.empty()) {
    return plan_shards(description, spec.tensor_parallel_size, spec.stage_layers);
  }
  return plan_shards(description, spec.tensor_parallel_size, spec.pipeline_parallel_size);
}

Status check_shard_formats(const Checkpoint& checkpoint, const std::vector<ShardPlan>& shards) {
  const ModelDescription& d = checkpoint.description();
  const CutBlocks blocks = cut_blocks(checkpoint);
  for (const ShardPlan& shard : shards) {
    if (cuts_at_blocks(shard, d.head_dim, blocks)) continue;
    return unsupported("tensor parallel degree " + std::to_string(shard.tp_size) +
                       " would cut this model's quantised weights inside a block of " +
                       std::to_string(std::max(blocks.output, blocks.down)) +
                       "; the degrees that work are " + working_degrees(d, blocks));
  }
  return {};
}

}  // namespace skein
