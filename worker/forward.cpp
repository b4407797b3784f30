#include "worker/forward.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/checked.h"

namespace skein {
namespace {

Tensor first_rows(Tensor tensor, int64_t rows) {
  CHECK_LE(rows, tensor.rows);
  tensor.rows = rows;
  return tensor;
}

}  // namespace

Result<Tensor> Forward::allocate_tensor(Format format, int64_t rows, int64_t columns, DeviceArena* arena) const {
  ASSIGN_OR_RETURN(void* memory, arena->allocate(launch_.ops.tensor_bytes(format, rows, columns)));
  return launch_.ops.make_tensor(memory, format, rows, columns);
}

// Enough for that activation in whichever format a weight of this rank may want.
Result<void*> Forward::allocate_input(int64_t rows, int64_t columns, DeviceArena* arena) const {
  int64_t bytes = launch_.ops.tensor_bytes(launch_.ops.stream_format, rows, columns);
  const auto fit = [&](const Linear& linear) {
    const int64_t block = info(linear.input_format).block_elements;
    bytes = std::max(bytes, launch_.ops.tensor_bytes(linear.input_format, rows, round_up(columns, block)));
  };
  for (const LayerWeights& layer : weights_.layers) {
    for (const Linear* linear : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) fit(*linear);
  }
  if (shard_.last_stage()) fit(weights_.output);
  return arena->allocate(bytes);
}

Status Forward::allocate(int tokens, int logit_rows, const float* cos_sin, DeviceArena* arena) {
  cos_sin_ = cos_sin;
  logit_rows_max_ = logit_rows;
  const Format stream = launch_.ops.stream_format;
  const int64_t q_columns = int64_t{shard_.q_heads.size()} * model_.head_dim;
  const int64_t kv_columns = int64_t{shard_.kv_heads.size()} * model_.head_dim;
  const int64_t intermediate = shard_.intermediate.size();
  ASSIGN_OR_RETURN(residual_, allocate_tensor(Format::kF32, tokens, model_.hidden, arena));
  ASSIGN_OR_RETURN(x_, allocate_tensor(stream, tokens, model_.hidden, arena));
  ASSIGN_OR_RETURN(qkv_, allocate_tensor(stream, tokens, q_columns + 2 * kv_columns, arena));
  ASSIGN_OR_RETURN(gate_up_, allocate_tensor(stream, tokens, 2 * intermediate, arena));
  ASSIGN_OR_RETURN(normed_, allocate_input(tokens, model_.hidden, arena));
  ASSIGN_OR_RETURN(mixed_, allocate_input(tokens, std::max(q_columns, intermediate), arena));
  if (!shard_.last_stage()) return {};
  ASSIGN_OR_RETURN(picked_, allocate_input(logit_rows, model_.hidden, arena));
  ASSIGN_OR_RETURN(sampled_, arena->allocate_array<SampledToken>(logit_rows));
  ASSIGN_OR_RETURN(sampled_ids_, arena->allocate_array<int32_t>(logit_rows));
  if (shard_.tp_size == 1 && weights_.output.parts.size() == 1) {
    ASSIGN_OR_RETURN(largest_, arena->allocate_array<uint64_t>(logit_rows));
  }
  ASSIGN_OR_RETURN(const std::vector<ShardPlan> all, plan_shards(model_, shard_.tp_size, shard_.pp_size));
  for (int rank = 0; rank < shard_.tp_size; ++rank) {
    vocabulary_begins_.push_back(all[static_cast<size_t>(rank)].vocabulary.begin);
  }
  vocabulary_begins_.push_back(model_.vocabulary);
  return allocate_logits(logit_rows, arena);
}

// With peers, every rank writes its columns into the first rank's memory. Slices begin at multiples of 16 bytes, or all
// ranks do without.
bool Forward::writes_logits_directly() const {
  const auto aligned = [](int64_t begin) { return begin % 4 == 0; };
  return launch_.peers != nullptr && std::ranges::all_of(vocabulary_begins_, aligned);
}

Status Forward::allocate_logits(int rows, DeviceArena* arena) {
  if (writes_logits_directly()) {
    logits_ = launch_.ops.make_tensor(launch_.peers->shared[0], Format::kF32, rows, model_.vocabulary);
    logits_part_ = logits_;
    logits_part_.columns = shard_.vocabulary.size();
    logits_part_.data = static_cast<float*>(logits_.data) + shard_.vocabulary.begin;
    return {};
  }
  ASSIGN_OR_RETURN(logits_part_, allocate_tensor(Format::kF32, rows, shard_.vocabulary.size(), arena));
  logits_ = logits_part_;
  if (shard_.tp_size == 1) return {};
  RETURN_IF_ERROR(launch_.collectives.prepare_gather(rows * model_.vocabulary));
  if (shard_.tp_rank == 0) {
    ASSIGN_OR_RETURN(logits_, allocate_tensor(Format::kF32, rows, model_.vocabulary, arena));
  }
  return {};
}

std::vector<PreparedProduct> Forward::products(int tokens) const {
  constexpr size_t kLayers = 8;  // so that weights come from memory but where a shard is small
  const Tensor& numbers = weights_.layers.front().gate_up.parts[0].weight;  // as good as activations
  std::vector<PreparedProduct> products;
  const auto add = [&](const Linear& linear, const Tensor& out, const Tensor& gated = {}) {
    if (linear.parts.size() != 1 || tokens > out.rows) return;
    if (numbers.format != linear.input_format || numbers.rows * numbers.columns < tokens * linear.inputs) return;
    products.push_back(
        {.linear = {.out = first_rows(out, tokens),
                    .x = launch_.ops.make_tensor(numbers.data, linear.input_format, tokens, linear.inputs),
                    .weight = linear.parts[0].weight,
                    .bias = linear.bias},
         .gated = gated});
  };
  for (size_t i = 0; i < std::min(kLayers, weights_.layers.size()); ++i) {
    const LayerWeights& layer = weights_.layers[i];
    add(layer.qkv, qkv_);
    add(layer.o, x_);
    add(layer.gate_up, gate_up_, activated(layer, tokens));
    add(layer.down, x_);
  }
  if (shard_.last_stage()) add(weights_.output, logits_part_);
  return products;
}

void Forward::gather_logits(const Tensor& part) {
  if (shard_.tp_size == 1) return;
  if (writes_logits_directly()) {
    launch_.ops.peer_meet(launch_.device, {.group = launch_.peers});
  } else {
    launch_.collectives.gather_columns(static_cast<const float*>(part.data), part.rows, vocabulary_begins_.data(),
                                       static_cast<float*>(logits_.data));
  }
}

Tensor Forward::activated(const LayerWeights& layer, int64_t tokens) const {
  return launch_.ops.make_tensor(mixed_, layer.down.input_format, tokens, shard_.intermediate.size());
}

Tensor Forward::normed(Format format, int64_t rows) const {
  return launch_.ops.make_tensor(normed_, format, rows, model_.hidden);
}

void Forward::apply_linear(const Linear& linear, const Tensor& input, const Tensor& out, uint64_t* largest) {
  CHECK(largest == nullptr || linear.parts.size() == 1);
  for (const Linear::Part& part : linear.parts) {
    Tensor columns = out;
    columns.data = static_cast<std::byte*>(out.data) + row_bytes(out.format, part.column);
    columns.columns = part.weight.rows;
    launch_.ops.linear(launch_.device, {.out = columns,
                                        .x = input,
                                        .weight = part.weight,
                                        .bias = linear.bias == nullptr ? nullptr : linear.bias + part.column,
                                        .largest = largest});
  }
}

// Long ones are left to a library, whose ring moves fewer bytes, unless their order must not change with the step.
void Forward::sum(const Tensor& x) {
  if (shard_.tp_size == 1) return;
  const int64_t rows = launch_.peers == nullptr ? 0 : launch_.peers->rows_held(row_bytes(x.format, x.columns));
  if (rows == 0 || (x.rows > rows && !launch_.deterministic)) {
    return launch_.collectives.all_reduce(x.data, x.format, x.rows * x.columns);
  }
  for (int64_t first = 0; first < x.rows; first += rows) {
    launch_.ops.peer_sum(launch_.device, {.x = rows_from(x, first, rows), .group = launch_.peers});
  }
}

// The residual, with x added first, becomes normed(format, tokens).
void Forward::norm(Format format, int64_t tokens, Addend addend, const float* weight) {
  Tensor x = first_rows(x_, tokens);
  const bool sums = addend == Addend::kPart && shard_.tp_size > 1;
  const PeerGroup* peers = sums ? launch_.peers : nullptr;
  if (sums && peers == nullptr) sum(x);
  if (addend == Addend::kNothing) x.data = nullptr;
  const Tensor out = normed(format, tokens);
  const Tensor residual = first_rows(residual_, tokens);
  const int64_t rows =
      peers != nullptr ? peers->rows_normed(row_bytes(x.format, x.columns)) : std::max<int64_t>(tokens, 1);
  for (int64_t first = 0; first < tokens; first += rows) {
    launch_.ops.add_norm(launch_.device, {.out = rows_from(out, first, rows),
                                          .residual = rows_from(residual, first, rows),
                                          .x = rows_from(x, first, rows),
                                          .weight = weight,
                                          .epsilon = model_.norm_epsilon,
                                          .sum = peers});
  }
}

int64_t Forward::stage_bytes(Format format, int tokens) const {
  return row_bytes(format, int64_t{tokens} * model_.hidden);
}

void Forward::receive(int tokens) {
  if (shard_.first_stage()) return;
  launch_.collectives.receive_stage(residual_.data, stage_bytes(residual_.format, tokens));
  launch_.collectives.receive_stage(x_.data, stage_bytes(x_.format, tokens));
}

void Forward::send(int tokens) {
  if (shard_.last_stage()) return;
  launch_.collectives.send_stage(residual_.data, stage_bytes(residual_.format, tokens));
  launch_.collectives.send_stage(x_.data, stage_bytes(x_.format, tokens));
}

void Forward::embed(const StepView& step) {
  const Tensor out = first_rows(residual_, step.tokens);
  launch_.ops.embed(launch_.device, {.out = out,
                                     .token_ids = step.token_ids,
                                     .table = weights_.embedding,
                                     .first_token = shard_.vocabulary.begin});
  sum(out);
}

void Forward::attend(size_t index, const StepView& step, const Tensor& heads, const Tensor& out) {
  const LayerWeights& layer = weights_.layers[index];
  const LayerSpec& spec = model_.layers[static_cast<size_t>(shard_.layers.begin) + index];
  const RopeAppendArgs append{.qkv = heads,
                              .step = step,
                              .pages = pages_[index],
                              .q_heads = shard_.q_heads.size(),
                              .cos_sin = cos_sin_,
                              .rotary_dim = model_.rope.rotary_dim,
                              .q_norm = layer.q_norm,
                              .k_norm = layer.k_norm,
                              .norm_epsilon = model_.norm_epsilon};
  launch_.ops.attention(launch_.device,
                        {.out = out,
                         .q = heads,
                         .step = step,
                         .pages = pages_[index],
                         .q_heads = shard_.q_heads.size(),
                         .group_size = model_.q_heads / model_.kv_heads,
                         .group_offset = shard_.group_offset,
                         .scale = 1.0f / std::sqrt(static_cast<float>(model_.head_dim)),
                         .window = model_.kv_groups[static_cast<size_t>(spec.kv_group)].sliding_window,
                         .append = &append});
}

void Forward::feed_forward(const LayerWeights& layer, int64_t tokens) {
  const Format input = layer.gate_up.input_format;
  norm(input, tokens, Addend::kPart, layer.mlp_norm);
  const Tensor gates = first_rows(gate_up_, tokens);
  const Tensor activated = this->activated(layer, tokens);
  if (layer.gate_up.parts.size() == 1) {
    launch_.ops.gated_linear(launch_.device, {.out = activated,
                                              .gate_up = gates,
                                              .x = normed(input, tokens),
                                              .weight = layer.gate_up.parts[0].weight,
                                              .bias = layer.gate_up.bias});
  } else {
    apply_linear(layer.gate_up, normed(input, tokens), gates);
    launch_.ops.silu_mul(launch_.device, {.out = activated, .gate_up = gates});
  }
  apply_linear(layer.down, activated, first_rows(x_, tokens));
}

void Forward::run_layer(size_t index, const StepView& step, Addend addend) {
  const LayerWeights& layer = weights_.layers[index];
  const int64_t tokens = step.tokens;
  norm(layer.qkv.input_format, tokens, addend, layer.attention_norm);
  const Tensor heads = first_rows(qkv_, tokens);
  apply_linear(layer.qkv, normed(layer.qkv.input_format, tokens), heads);
  const Tensor attended =
      launch_.ops.make_tensor(mixed_, layer.o.input_format, tokens, int64_t{shard_.q_heads.size()} * model_.head_dim);
  attend(index, step, heads, attended);
  apply_linear(layer.o, attended, first_rows(x_, tokens));
  feed_forward(layer, tokens);
}

void Forward::run_layers(const StepView& step) {
  if (shard_.first_stage()) embed(step);
  Addend addend = shard_.first_stage() ? Addend::kNothing : Addend::kSum;
  for (size_t i = 0; i < weights_.layers.size(); ++i) {
    run_layer(i, step, addend);
    addend = Addend::kPart;
  }
  if (!shard_.last_stage()) sum(first_rows(x_, step.tokens));
}

void Forward::share_tokens(int count) {
  if (shard_.tp_size == 1) return;
  if (launch_.peers != nullptr) {
    launch_.ops.peer_meet(launch_.device, {.group = launch_.peers, .values = sampled_ids_, .count = count});
  } else {
    launch_.collectives.broadcast(sampled_ids_, count);
  }
}

void Forward::finish_layers(int tokens) {
  norm(weights_.output.input_format, tokens, Addend::kPart, weights_.final_norm);
}

void Forward::sample(const StepInputs& inputs, int tokens, int count) {
  const Format format = weights_.output.input_format;
  const Tensor chosen = launch_.ops.make_tensor(picked_, format, count, model_.hidden);
  launch_.ops.gather_rows(launch_.device, {.out = chosen,
                                           .x = normed(format, tokens),
                                           .rows = inputs.sample_queries(),
                                           .count = count,
                                           .zeroed = largest_});
  const Tensor part = first_rows(logits_part_, count);
  apply_linear(weights_.output, chosen, part, largest_);
  gather_logits(part);
  if (shard_.tp_rank == 0) {
    launch_.ops.sample(launch_.device, {.out = sampled_,
                                        .tokens = sampled_ids_,
                                        .logits = static_cast<float*>(logits_.data),
                                        .vocabulary = model_.vocabulary,
                                        .rows = count,
                                        .row = inputs.samples(),
                                        .state = &inputs.state(),
                                        .largest = largest_});
  }
  // Nobody writes the next logits before these were read; with one stage, sharing the tokens sees to that.
  if (shard_.tp_size > 1 && shard_.pp_size > 1 && writes_logits_directly()) {
    launch_.ops.peer_meet(launch_.device, {.group = launch_.peers});
  }
}

}  // namespace skein
