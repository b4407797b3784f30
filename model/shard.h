#pragma once

#include <vector>

#include "base/status.h"
#include "model/description.h"

namespace skein {

class Checkpoint;
struct ReplicaSpec;

// [begin, end)
struct IndexRange {
  int begin = 0;
  int end = 0;
  int size() const { return end - begin; }
};

// What one rank of a replica holds. Ranges, never divisions: any degree up to q_heads works.
struct ShardPlan {
  int tp_rank = 0, tp_size = 1;  // world rank = pp_rank * tp_size + tp_rank
  int pp_rank = 0, pp_size = 1;
  IndexRange layers;
  IndexRange q_heads;
  IndexRange kv_heads;       // those that q_heads read; ranks may share some
  int group_offset = 0;      // q_heads.begin - kv_heads.begin * group size: see AttentionArgs
  // Cut at multiples of 32 and 16, or of a smaller power of two where a rank would get none.
  IndexRange intermediate;
  IndexRange vocabulary;
  bool first_stage() const { return pp_rank == 0; }
  bool last_stage() const { return pp_rank == pp_size - 1; }
};

// The shards of all tp_size * pp_size ranks, by world rank. Contiguous layers, fewer on the last
// stage, which also carries the logits. kInvalidArgument says which degrees the model can take.
Result<std::vector<ShardPlan>> plan_shards(const ModelDescription& description, int tp_size,
                                           int pp_size);
// The same with so many layers on each stage. kInvalidArgument if they are not all of the model's, or a stage has none.
Result<std::vector<ShardPlan>> plan_shards(const ModelDescription& description, int tp_size,
                                           const std::vector<int>& stage_layers);
// Those of a replica.
Result<std::vector<ShardPlan>> plan_shards(const ModelDescription& description,
                                           const ReplicaSpec& spec);

// Weights in blocks of 32 can be cut between blocks only: kUnsupported if a rank's columns of an
// output or down projection do not begin and end at one, with the tensor-parallel degrees that
// work.
Status check_shard_formats(const Checkpoint& checkpoint, const std::vector<ShardPlan>& shards);

}  // namespace skein
