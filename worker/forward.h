#pragma once

#include <vector>

#include "base/replica_spec.h"
#include "base/status.h"
#include "comm/collectives.h"
#include "kernels/ops.h"
#include "model/description.h"
#include "model/shard.h"
#include "worker/model_weights.h"
#include "worker/step_buffers.h"

namespace skein {

// Where a step's launches go. Everything outlives what refers to it.
struct Launcher {
  const Ops& ops;
  Device& device;
  Collectives& collectives;
  const PeerGroup* peers = nullptr;  // sums that it holds go this way
  bool deterministic = false;        // all sums do, in as many pieces as it takes: a library may add in another order
};

// One rank's part of the model as launches, with the activations between them. Nothing here waits for the device or
// copies from the host, so that a backend may record it. Single-owner: the executor thread.
class Forward {
 public:
  Forward(const Launcher& launcher, const ModelDescription& model, const ShardPlan& shard, const ModelWeights& weights)
      : launch_(launcher), model_(model), shard_(shard), weights_(weights) {}

  // `tokens` of a step and `logit_rows` at most.
  Status allocate(int tokens, int logit_rows, const float* cos_sin, DeviceArena* arena);
  // Pages of this rank's layers, by layer.
  void set_pages(std::vector<KvPages> pages) { pages_ = std::move(pages); }
  const std::vector<KvPages>& pages() const { return pages_; }
  int logit_rows_max() const { return logit_rows_max_; }

  // The products of a step of so many tokens or logits, a few of each shape, on numbers that are there already.
  std::vector<PreparedProduct> products(int tokens) const;
  // Activations of `tokens` from the stage before, ahead of run_layers(), and to the one behind; nothing at the ends of
  // the pipeline. Never recorded.
  void receive(int tokens);
  void send(int tokens);
  // This rank's layers, after the embedding on the first stage.
  void run_layers(const StepView& step);
  // Last stage, in this order: the final norm once; then logits and samples of the `count` queries that the inputs
  // name, as often as it takes. results() and tokens() are there on the group's first rank.
  void finish_layers(int tokens);
  void sample(const StepInputs& inputs, int tokens, int count);
  // tokens() of the group's first rank, on every rank. Requires: one pipeline stage.
  void share_tokens(int count);
  const SampledToken* results() const { return sampled_; }
  int32_t* tokens() const { return sampled_ids_; }

 private:
  enum class Addend : unsigned char { kNothing, kPart, kSum };  // x_ holds this rank's part, or the group's sum

  Result<Tensor> allocate_tensor(Format format, int64_t rows, int64_t columns, DeviceArena* arena) const;
  Result<void*> allocate_input(int64_t rows, int64_t columns, DeviceArena* arena) const;
  bool writes_logits_directly() const;
  Status allocate_logits(int rows, DeviceArena* arena);
  void gather_logits(const Tensor& part);
  int64_t stage_bytes(Format format, int tokens) const;
  void embed(const StepView& step);
  void run_layer(size_t index, const StepView& step, Addend addend);
  void attend(size_t index, const StepView& step, const Tensor& heads, const Tensor& out);
  void feed_forward(const LayerWeights& layer, int64_t tokens);
  void norm(Format format, int64_t tokens, Addend addend, const float* weight);
  void apply_linear(const Linear& linear, const Tensor& input, const Tensor& out, uint64_t* largest = nullptr);
  void sum(const Tensor& x);
  Tensor normed(Format format, int64_t rows) const;
  Tensor activated(const LayerWeights& layer, int64_t tokens) const;

  const Launcher launch_;
  const ModelDescription& model_;
  const ShardPlan& shard_;
  const ModelWeights& weights_;
  std::vector<KvPages> pages_;
  const float* cos_sin_ = nullptr;
  int logit_rows_max_ = 0;

  // "normed" and "mixed" take the format of whichever weight reads them.
  Tensor residual_, x_, qkv_, gate_up_, logits_part_, logits_;
  void* normed_ = nullptr;
  void* mixed_ = nullptr;   // attention output, or silu(gate) * up
  void* picked_ = nullptr;  // the rows that become logits
  SampledToken* sampled_ = nullptr;
  int32_t* sampled_ids_ = nullptr;
  uint64_t* largest_ = nullptr;  // of rows of logits; null where no product makes whole rows
  std::vector<int64_t> vocabulary_begins_;  // (tp_size + 1)
};

}  // namespace skein
