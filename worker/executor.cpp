#include "worker/executor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "base/checked.h"
#include "worker/model_weights.h"
#include "worker/step_buffers.h"

namespace skein {
namespace {

constexpr int kSampleRowsMax = 32;  // rows of logits held at once

Result<Format> kv_format(std::string_view name, WeightType weights) {
  if (name == "auto") return weights == WeightType::kFloat32 ? Format::kF32 : Format::kF16;
  if (name == "float32") return Format::kF32;
  if (name == "float16") return Format::kF16;
  if (name == "bfloat16") return Format::kBF16;
  return invalid_argument("unknown kv-cache-dtype \"" + std::string(name) +
                          "\": use auto, float32, bfloat16 or float16");
}

// Sampled tokens as the last stage sends them back to stage 0.
struct TokenMessage {
  uint64_t step = 0;
  std::vector<int32_t> slots, positions, tokens;

  std::string encode() const {
    std::string bytes(sizeof step + 3 * sizeof(int32_t) * slots.size(), '\0');
    char* out = bytes.data();
    const auto put = [&](const void* data, size_t size) {
      std::memcpy(out, data, size);
      out += size;
    };
    put(&step, sizeof step);
    for (const auto* values : {&slots, &positions, &tokens}) put(values->data(), values->size() * sizeof(int32_t));
    return bytes;
  }

  static TokenMessage decode(std::string_view bytes) {
    TokenMessage message;
    CHECK_GE(bytes.size(), sizeof message.step);
    std::memcpy(&message.step, bytes.data(), sizeof message.step);
    const char* in = bytes.data() + sizeof message.step;
    const size_t count = (bytes.size() - sizeof message.step) / (3 * sizeof(int32_t));
    for (auto* values : {&message.slots, &message.positions, &message.tokens}) {
      values->resize(count);
      std::memcpy(values->data(), in, count * sizeof(int32_t));
      in += count * sizeof(int32_t);
    }
    return message;
  }
};

}  // namespace

struct Executor::State {
  const ReplicaSpec spec;
  const ModelDescription model;
  const ShardPlan shard;
  const Ops& ops;
  Communicator& communicator;
  std::unique_ptr<Device> device;
  std::unique_ptr<DeviceArena> arena;

  ModelWeights weights;
  StepInputs inputs;
  const float* cos_sin = nullptr;
  Format kv = Format::kF32;
  int blocks_per_slot = 0;
  std::vector<int32_t*> block_tables;  // by KV group: (slots, blocks_per_slot)
  std::vector<KvPages> pages;          // by layer of this rank

  // Activations; "normed" and "mixed" take the format of whichever weight reads them.
  Tensor residual, x, qkv, gate_up, logits_part, logits;
  void* normed = nullptr;
  void* mixed = nullptr;   // attention output, or silu(gate) * up
  void* picked = nullptr;  // the rows that become logits
  SampledToken* sampled = nullptr;
  int32_t* sampled_ids = nullptr;
  std::vector<int64_t> vocabulary_begins;  // (tp_size + 1)

  std::map<int32_t, uint64_t> sampled_step;  // by lane: the last step that samples
  uint64_t received_step = 0;                // tokens of steps up to this one have been stored here

  State(const ReplicaSpec& spec, const Checkpoint& checkpoint, const ShardPlan& shard, const Ops& ops,
        Communicator& communicator)
      : spec(spec), model(checkpoint.description()), shard(shard), ops(ops), communicator(communicator) {}

  ~State() { arena.reset(); }

  bool samples() const { return shard.last_stage() && shard.tp_rank == 0; }
  int local_q_heads() const { return shard.q_heads.size(); }

  Status open(const Checkpoint& checkpoint, const std::vector<ShardPlan>& all) {
    const int rank = shard.pp_rank * shard.tp_size + shard.tp_rank;
    ASSIGN_OR_RETURN(device, ops.open({.index = rank,
                                       .threads = spec.threads,
                                       .pin_threads = spec.first_core >= 0,
                                       .first_core = spec.first_core + rank * spec.threads}));
    arena = std::make_unique<DeviceArena>(ops, *device);
    ASSIGN_OR_RETURN(const WeightType type, parse_weight_type(spec.dtype));
    ASSIGN_OR_RETURN(kv, kv_format(spec.kv_cache_dtype, type));
    ASSIGN_OR_RETURN(weights, load_weights(checkpoint, shard, type, ops, *device, arena.get()));
    ASSIGN_OR_RETURN(cos_sin, arena->upload(rope_table(model.rope, spec.context_max)));
    const StepLimits limits{.tokens = spec.step_tokens_max, .slots = spec.slots, .sample_rows = kSampleRowsMax};
    RETURN_IF_ERROR(inputs.allocate(limits, spec.context_max, ops, *device, arena.get()));
    for (int rank_of_stage = 0; rank_of_stage < shard.tp_size; ++rank_of_stage) {
      vocabulary_begins.push_back(all[static_cast<size_t>(rank_of_stage)].vocabulary.begin);
    }
    vocabulary_begins.push_back(model.vocabulary);
    RETURN_IF_ERROR(allocate_activations());
    return allocate_pages();
  }

  Result<Tensor> allocate_f32(int64_t rows, int64_t columns) {
    ASSIGN_OR_RETURN(void* memory, arena->allocate(ops.tensor_bytes(Format::kF32, rows, columns)));
    return ops.make_tensor(memory, Format::kF32, rows, columns);
  }

  // Enough for that activation in whichever format a weight may want.
  Result<void*> allocate_any(int64_t rows, int64_t columns) {
    int64_t bytes = ops.tensor_bytes(Format::kF32, rows, columns);
    if (columns % info(Format::kI8Block32).block_elements == 0) {
      bytes = std::max(bytes, ops.tensor_bytes(Format::kI8Block32, rows, columns));
    }
    return arena->allocate(bytes);
  }

  Status allocate_activations() {
    const int64_t tokens = spec.step_tokens_max;
    const int64_t heads = local_q_heads() + 2 * shard.kv_heads.size();
    const int64_t attention = int64_t{local_q_heads()} * model.head_dim;
    ASSIGN_OR_RETURN(residual, allocate_f32(tokens, model.hidden));
    ASSIGN_OR_RETURN(x, allocate_f32(tokens, model.hidden));
    ASSIGN_OR_RETURN(qkv, allocate_f32(tokens, heads * model.head_dim));
    ASSIGN_OR_RETURN(gate_up, allocate_f32(tokens, 2 * int64_t{shard.intermediate.size()}));
    ASSIGN_OR_RETURN(normed, allocate_any(tokens, model.hidden));
    const int64_t widest = std::max(attention, int64_t{shard.intermediate.size()});
    ASSIGN_OR_RETURN(mixed, allocate_any(tokens, round_up(widest, int64_t{32})));
    if (!shard.last_stage()) return {};
    ASSIGN_OR_RETURN(picked, allocate_any(kSampleRowsMax, model.hidden));
    ASSIGN_OR_RETURN(logits_part, allocate_f32(kSampleRowsMax, shard.vocabulary.size()));
    logits = logits_part;
    if (shard.tp_size > 1 && samples()) {
      ASSIGN_OR_RETURN(logits, allocate_f32(kSampleRowsMax, model.vocabulary));
    }
    ASSIGN_OR_RETURN(sampled, arena->allocate_array<SampledToken>(kSampleRowsMax));
    ASSIGN_OR_RETURN(sampled_ids, arena->allocate_array<int32_t>(kSampleRowsMax));
    return {};
  }

  Status allocate_pages() {
    blocks_per_slot = ceil_div(spec.context_max, spec.block_tokens);
    for (size_t group = 0; group < model.kv_groups.size(); ++group) {
      ASSIGN_OR_RETURN(int32_t* table, arena->allocate_array<int32_t>(int64_t{spec.slots} * blocks_per_slot));
      block_tables.push_back(table);
    }
    for (int layer = shard.layers.begin; layer < shard.layers.end; ++layer) {
      const int group = model.layers[static_cast<size_t>(layer)].kv_group;
      KvPages layer_pages{.data = nullptr,
                          .format = kv,
                          .blocks = spec.kv_blocks,
                          .kv_heads = shard.kv_heads.size(),
                          .block_tokens = spec.block_tokens,
                          .head_dim = model.head_dim,
                          .block_table = block_tables[static_cast<size_t>(group)],
                          .blocks_per_slot = blocks_per_slot};
      const int64_t block_elements =
          2 * int64_t{layer_pages.kv_heads} * layer_pages.block_tokens * layer_pages.head_dim;
      ASSIGN_OR_RETURN(layer_pages.data, arena->allocate(spec.kv_blocks * row_bytes(kv, block_elements)));
      pages.push_back(layer_pages);
    }
    return {};
  }

  static Tensor first_rows(Tensor tensor, int64_t rows) {
    CHECK_LE(rows, tensor.rows);
    tensor.rows = rows;
    return tensor;
  }

  void apply_linear(const Linear& linear, const Tensor& input, const Tensor& out) {
    for (const Linear::Part& part : linear.parts) {
      Tensor columns = out;
      columns.data = static_cast<float*>(out.data) + part.column;
      columns.columns = part.weight.rows;
      ops.linear(*device, {.out = columns,
                           .x = input,
                           .weight = part.weight,
                           .bias = linear.bias == nullptr ? nullptr : linear.bias + part.column});
    }
  }

  void apply_differences(const StepPlan& plan) {
    inputs.admit(plan.admissions, plan.step);
    for (const BlockAssignment& assignment : plan.assignments) {
      CHECK_LT(assignment.slot, spec.slots);
      CHECK_LE(assignment.first + static_cast<int>(assignment.blocks.size()), blocks_per_slot);
      int32_t* table = block_tables[static_cast<size_t>(assignment.group)] +
                       int64_t{assignment.slot} * blocks_per_slot + assignment.first;
      ops.copy_to_device(*device, table, assignment.blocks.data(),
                         static_cast<int64_t>(assignment.blocks.size() * sizeof(int32_t)));
    }
    for (const BlockCopy& copy : plan.copies) {
      const int32_t pair[2] = {copy.source, copy.destination};
      const int32_t* device_pair = inputs.upload_indices(pair, 2);
      for (size_t i = 0; i < pages.size(); ++i) {
        const int layer = shard.layers.begin + static_cast<int>(i);
        if (model.layers[static_cast<size_t>(layer)].kv_group != copy.group) continue;
        ops.copy_blocks(*device, {.pages = pages[i], .pairs = device_pair, .count = 1});
      }
    }
  }

  // Stage 0 needs the tokens that this lane's earlier steps sampled.
  void await_tokens(const StepPlan& plan) {
    const auto last = sampled_step.find(plan.lane);
    if (communicator.receives_tokens() && last != sampled_step.end()) {
      while (received_step < last->second) {
        const TokenMessage message = TokenMessage::decode(communicator.receive_tokens());
        received_step = message.step;
        inputs.store_samples(message.step, message.slots, message.positions, message.tokens);
      }
    }
    if (!plan.samples.empty()) sampled_step[plan.lane] = plan.step;
  }

  void begin_stage(const StepView& step) {
    const size_t bytes = sizeof(float) * static_cast<size_t>(step.tokens) * static_cast<size_t>(model.hidden);
    if (!shard.first_stage()) {
      communicator.receive_stage(residual.data, bytes);
      communicator.receive_stage(x.data, bytes);
      return;
    }
    const Tensor out = first_rows(residual, step.tokens);
    ops.embed(*device, {.out = out,
                        .token_ids = step.token_ids,
                        .table = weights.embedding,
                        .first_token = shard.vocabulary.begin});
    communicator.all_reduce(static_cast<float*>(out.data), out.rows * out.columns);
  }

  void run_layer(size_t index, const StepView& step, bool has_x) {
    const LayerWeights& layer = weights.layers[index];
    const LayerSpec& layer_spec = model.layers[static_cast<size_t>(shard.layers.begin) + index];
    const int64_t tokens = step.tokens;
    const Tensor sum = first_rows(x, tokens);
    Tensor previous = sum;
    if (!has_x) previous.data = nullptr;

    Tensor hidden = ops.make_tensor(normed, layer.qkv.input_format, tokens, model.hidden);
    ops.add_norm(*device, {.out = hidden,
                           .residual = first_rows(residual, tokens),
                           .x = previous,
                           .weight = layer.attention_norm,
                           .epsilon = model.norm_epsilon});
    const Tensor heads = first_rows(qkv, tokens);
    apply_linear(layer.qkv, hidden, heads);
    ops.rope_append(*device, {.qkv = heads,
                              .step = step,
                              .pages = pages[index],
                              .q_heads = local_q_heads(),
                              .cos_sin = cos_sin,
                              .rotary_dim = model.rope.rotary_dim,
                              .q_norm = layer.q_norm,
                              .k_norm = layer.k_norm,
                              .norm_epsilon = model.norm_epsilon});
    const Tensor attended =
        ops.make_tensor(mixed, layer.o.input_format, tokens, int64_t{local_q_heads()} * model.head_dim);
    ops.attention(*device, {.out = attended,
                            .q = heads,
                            .step = step,
                            .pages = pages[index],
                            .q_heads = local_q_heads(),
                            .group_size = model.q_heads / model.kv_heads,
                            .group_offset = shard.group_offset,
                            .scale = 1.0f / std::sqrt(static_cast<float>(model.head_dim)),
                            .window = model.kv_groups[static_cast<size_t>(layer_spec.kv_group)].sliding_window});
    apply_linear(layer.o, attended, sum);
    communicator.all_reduce(static_cast<float*>(sum.data), sum.rows * sum.columns);

    hidden = ops.make_tensor(normed, layer.gate_up.input_format, tokens, model.hidden);
    ops.add_norm(*device, {.out = hidden,
                           .residual = first_rows(residual, tokens),
                           .x = sum,
                           .weight = layer.mlp_norm,
                           .epsilon = model.norm_epsilon});
    const Tensor gates = first_rows(gate_up, tokens);
    apply_linear(layer.gate_up, hidden, gates);
    const Tensor activated = ops.make_tensor(mixed, layer.down.input_format, tokens, shard.intermediate.size());
    ops.silu_mul(*device, {.out = activated, .gate_up = gates});
    apply_linear(layer.down, activated, sum);
    communicator.all_reduce(static_cast<float*>(sum.data), sum.rows * sum.columns);
  }

  // Logits and tokens for samples [begin, begin + count).
  Status sample_chunk(const StepPlan& plan, const Tensor& hidden, size_t begin, size_t count, StepResult* result) {
    const int64_t rows = static_cast<int64_t>(count);
    const Tensor chosen = ops.make_tensor(picked, hidden.format, rows, model.hidden);
    ops.gather_rows(*device, {.out = chosen,
                              .x = hidden,
                              .rows = inputs.upload_indices(plan.sample_queries.data() + begin, count),
                              .count = static_cast<int>(count)});
    const Tensor part = first_rows(logits_part, rows);
    apply_linear(weights.output, chosen, part);
    if (shard.tp_size > 1) {
      communicator.gather_columns(static_cast<const float*>(part.data), rows, vocabulary_begins.data(),
                                  static_cast<float*>(logits.data));
    }
    if (!samples()) return {};
    ops.sample(*device, {.out = sampled,
                         .tokens = sampled_ids,
                         .logits = static_cast<float*>(logits.data),
                         .vocabulary = model.vocabulary,
                         .rows = static_cast<int>(count),
                         .row = inputs.upload_samples(plan.samples.data() + begin, count),
                         .state = &inputs.state()});
    result->samples.resize(begin + count);
    ops.copy_to_host(*device, result->samples.data() + begin, sampled,
                     static_cast<int64_t>(count * sizeof(SampledToken)));
    return ops.synchronize(*device);
  }

  Status finish_last_stage(const StepPlan& plan, int64_t tokens, StepResult* result) {
    if (plan.samples.empty()) return {};
    const Tensor hidden = ops.make_tensor(normed, weights.output.input_format, tokens, model.hidden);
    ops.add_norm(*device, {.out = hidden,
                           .residual = first_rows(residual, tokens),
                           .x = first_rows(x, tokens),
                           .weight = weights.final_norm,
                           .epsilon = model.norm_epsilon});
    for (size_t begin = 0; begin < plan.samples.size(); begin += kSampleRowsMax) {
      const size_t count = std::min(plan.samples.size() - begin, size_t{kSampleRowsMax});
      RETURN_IF_ERROR(sample_chunk(plan, hidden, begin, count, result));
    }
    if (!samples()) return {};
    TokenMessage message{.step = plan.step, .slots = {}, .positions = {}, .tokens = {}};
    for (size_t i = 0; i < plan.samples.size(); ++i) {
      const SampleRow& row = plan.samples[i];
      message.slots.push_back(row.slot);
      message.positions.push_back(row.position + 1);
      message.tokens.push_back(row.score != 0 ? -1 : result->samples[i].token);
    }
    inputs.store_samples(message.step, message.slots, message.positions, message.tokens);
    communicator.send_tokens(message.encode());
    return {};
  }

  Result<std::optional<StepResult>> run(const StepPlan& plan) {
    apply_differences(plan);
    await_tokens(plan);
    StepResult result{.step = plan.step, .samples = {}};
    if (!plan.rows.empty()) {
      const StepView step = inputs.upload_rows(plan);
      begin_stage(step);
      for (size_t i = 0; i < weights.layers.size(); ++i) run_layer(i, step, i > 0 || !shard.first_stage());
      if (shard.last_stage()) {
        RETURN_IF_ERROR(finish_last_stage(plan, step.tokens, &result));
      } else {
        RETURN_IF_ERROR(ops.synchronize(*device));
        const size_t bytes = sizeof(float) * static_cast<size_t>(step.tokens) * static_cast<size_t>(model.hidden);
        communicator.send_stage(residual.data, bytes);
        communicator.send_stage(x.data, bytes);
      }
    }
    RETURN_IF_ERROR(ops.synchronize(*device));
    if (!samples()) return std::optional<StepResult>();
    return std::optional<StepResult>(std::move(result));
  }
};

Executor::Executor(std::unique_ptr<State> state) : state_(std::move(state)) {}
Executor::~Executor() = default;

Result<std::unique_ptr<Executor>> Executor::create(const ReplicaSpec& spec, const Checkpoint& checkpoint,
                                                   const ShardPlan& shard, const Ops& ops,
                                                   Communicator& communicator) {
  ASSIGN_OR_RETURN(const std::vector<ShardPlan> all,
                   plan_shards(checkpoint.description(), shard.tp_size, shard.pp_size));
  auto state = std::make_unique<State>(spec, checkpoint, shard, ops, communicator);
  RETURN_IF_ERROR(state->open(checkpoint, all));
  return std::unique_ptr<Executor>(new Executor(std::move(state)));
}

Result<std::optional<StepResult>> Executor::run(const StepPlan& plan) { return state_->run(plan); }

int64_t Executor::device_bytes() const { return state_->arena->bytes(); }

StepPlan warm_up_plan(int kv_groups) {
  StepPlan plan;
  SlotAdmission admission;
  admission.tokens = {0};
  admission.sampling.temperature = 0;
  admission.sampling.prompt_tokens = 1;
  plan.admissions.push_back(std::move(admission));
  for (int group = 0; group < kv_groups; ++group) {
    plan.assignments.push_back({.group = group, .slot = 0, .first = 0, .blocks = {0}});
  }
  plan.rows.push_back({.slot = 0, .first_position = 0, .tokens = 1});
  plan.sample_queries = {0};
  plan.samples = {{.slot = 0, .position = 0}};
  return plan;
}

}  // namespace skein
