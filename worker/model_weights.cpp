#include "worker/model_weights.h"

#include <array>
#include <deque>
#include <string>
#include <utility>

#include "model/dequantize.h"

namespace skein {

DeviceArena::~DeviceArena() {
  for (void* block : blocks_) ops_.release(device_, block);
}

Result<void*> DeviceArena::allocate(int64_t bytes) {
  ASSIGN_OR_RETURN(void* block, ops_.allocate(device_, bytes));
  blocks_.push_back(block);
  bytes_ += bytes;
  return block;
}

Result<float*> DeviceArena::upload(const std::vector<float>& values) {
  ASSIGN_OR_RETURN(float* data, allocate_array<float>(static_cast<int64_t>(values.size())));
  ops_.copy_to_device(device_, data, values.data(), static_cast<int64_t>(values.size() * sizeof(float)));
  return data;
}

Result<WeightType> parse_weight_type(std::string_view name) {
  if (name == "auto") return WeightType::kAuto;
  if (name == "float32") return WeightType::kFloat32;
  if (name == "bfloat16") return WeightType::kBFloat16;
  if (name == "float16") return WeightType::kFloat16;
  return invalid_argument("unknown dtype \"" + std::string(name) + "\": use auto, float32, bfloat16 or float16");
}

namespace {

constexpr size_t kWeightsBeingRead = 8;  // about as many as a device may have been given and not read

// A rectangle of one weight of the checkpoint.
struct Slice {
  WeightRole role;
  int64_t row_begin, row_end;
  int64_t column_begin, column_end;
};

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, const ShardPlan& shard, WeightType type, const Ops& ops, Device& device,
         DeviceArena* arena)
      : checkpoint_(checkpoint),
        model_(checkpoint.description()),
        shard_(shard),
        type_(type),
        ops_(ops),
        device_(device),
        arena_(*arena) {}

  Result<ModelWeights> load() {
    ModelWeights weights;
    const Slice vocabulary{WeightRole::kTokenEmbedding, shard_.vocabulary.begin, shard_.vocabulary.end, 0,
                           model_.hidden};
    if (shard_.first_stage()) {
      ASSIGN_OR_RETURN(const Linear table, linear({vocabulary}, -1));
      weights.embedding = table.parts[0].weight;
    }
    for (int layer = shard_.layers.begin; layer < shard_.layers.end; ++layer) {
      ASSIGN_OR_RETURN(LayerWeights loaded, load_layer(layer));
      weights.layers.push_back(std::move(loaded));
    }
    if (shard_.last_stage()) {
      ASSIGN_OR_RETURN(weights.final_norm, vector(WeightRole::kFinalNorm, -1));
      RETURN_IF_ERROR(load_output(vocabulary, &weights));
    }
    RETURN_IF_ERROR(ops_.synchronize(device_));
    drop_pages(0);
    return weights;
  }

 private:
  Status load_output(Slice slice, ModelWeights* weights) {
    if (model_.tied_embeddings && shard_.first_stage()) {
      const Tensor& table = weights->embedding;
      weights->output = {.parts = {{table, 0}},
                         .outputs = table.rows,
                         .inputs = table.columns,
                         .input_format = ops_.activation_format(table.format)};
      return {};
    }
    if (!model_.tied_embeddings) slice.role = WeightRole::kOutput;
    ASSIGN_OR_RETURN(weights->output, linear({slice}, -1));
    return {};
  }

  Result<LayerWeights> load_layer(int layer) {
    const LayerSpec& spec = model_.layers[static_cast<size_t>(layer)];
    const int64_t head = model_.head_dim;
    const Slice q{WeightRole::kQ, shard_.q_heads.begin * head, shard_.q_heads.end * head, 0, model_.hidden};
    const Slice k{WeightRole::kK, shard_.kv_heads.begin * head, shard_.kv_heads.end * head, 0, model_.hidden};
    const Slice v{WeightRole::kV, k.row_begin, k.row_end, 0, model_.hidden};
    const Slice gate{WeightRole::kGate, shard_.intermediate.begin, shard_.intermediate.end, 0, model_.hidden};
    const Slice up{WeightRole::kUp, gate.row_begin, gate.row_end, 0, model_.hidden};
    LayerWeights weights;
    ASSIGN_OR_RETURN(weights.attention_norm, vector(WeightRole::kAttentionNorm, layer));
    ASSIGN_OR_RETURN(weights.mlp_norm, vector(WeightRole::kMlpNorm, layer));
    if (spec.qk_norm) {
      ASSIGN_OR_RETURN(weights.q_norm, vector(WeightRole::kQNorm, layer));
      ASSIGN_OR_RETURN(weights.k_norm, vector(WeightRole::kKNorm, layer));
    }
    ASSIGN_OR_RETURN(weights.qkv, linear({q, k, v}, layer));
    ASSIGN_OR_RETURN(weights.o, linear({{WeightRole::kO, 0, model_.hidden, q.row_begin, q.row_end}}, layer));
    ASSIGN_OR_RETURN(weights.gate_up, linear({gate, up}, layer));
    ASSIGN_OR_RETURN(weights.down,
                     linear({{WeightRole::kDown, 0, model_.hidden, gate.row_begin, gate.row_end}}, layer));
    if (spec.qkv_bias) {
      const std::array slices{bias(WeightRole::kQBias, q), bias(WeightRole::kKBias, k), bias(WeightRole::kVBias, v)};
      ASSIGN_OR_RETURN(weights.qkv.bias, vector_slices(slices, layer));
    }
    if (spec.mlp_bias) {
      const std::array slices{bias(WeightRole::kGateBias, gate), bias(WeightRole::kUpBias, up)};
      ASSIGN_OR_RETURN(weights.gate_up.bias, vector_slices(slices, layer));
    }
    // The group adds its partial sums up: one rank alone adds the bias.
    if (spec.o_bias && shard_.tp_rank == 0) {
      ASSIGN_OR_RETURN(weights.o.bias, vector(WeightRole::kOBias, layer));
    }
    if (spec.mlp_bias && shard_.tp_rank == 0) {
      ASSIGN_OR_RETURN(weights.down.bias, vector(WeightRole::kDownBias, layer));
    }
    return weights;
  }

  static Slice bias(WeightRole role, const Slice& rows) { return {role, 0, 1, rows.row_begin, rows.row_end}; }

  // One weight (vector) as a whole.
  Result<const float*> vector(WeightRole role, int layer) {
    const int64_t columns = checkpoint_.weight(role, layer).columns;
    const std::array slices{Slice{role, 0, 1, 0, columns}};
    return vector_slices(slices, layer);
  }

  template <size_t kCount>
  Result<const float*> vector_slices(const std::array<Slice, kCount>& slices, int layer) {
    std::vector<float> values;
    for (const Slice& slice : slices) {
      const HostWeight weight = checkpoint_.weight(slice.role, layer);
      std::vector<float> row(static_cast<size_t>(weight.columns));
      dequantize_row(weight.format, weight.row(0), weight.columns, row.data());
      values.insert(values.end(), row.begin() + slice.column_begin, row.begin() + slice.column_end);
    }
    ASSIGN_OR_RETURN(float* data, arena_.upload(values));
    return static_cast<const float*>(data);
  }

  Format kept_format(Format stored) const {
    Format asked = stored;
    switch (type_) {
      case WeightType::kAuto: break;
      case WeightType::kFloat32: asked = Format::kF32; break;
      case WeightType::kBFloat16: asked = Format::kBF16; break;
      case WeightType::kFloat16: asked = Format::kF16; break;
    }
    return ops_.weight_format(asked);
  }

  // Slices that read the same input become one Linear; those that keep one format become one weight.
  Result<Linear> linear(const std::vector<Slice>& slices, int layer) {
    std::vector<Format> formats;
    bool mixed = false;
    for (const Slice& slice : slices) {
      formats.push_back(kept_format(checkpoint_.weight(slice.role, layer).format));
      mixed |= ops_.activation_format(formats.back()) != ops_.activation_format(formats.front());
    }
    // Weights that want different inputs are kept in the format that every input suits.
    if (mixed) formats.assign(slices.size(), Format::kF32);
    Linear result;
    result.inputs = slices[0].column_end - slices[0].column_begin;
    result.input_format = ops_.activation_format(formats[0]);
    for (size_t first = 0; first < slices.size();) {
      size_t end = first;
      int64_t rows = 0;
      for (; end < slices.size() && formats[end] == formats[first]; ++end) {
        rows += slices[end].row_end - slices[end].row_begin;
      }
      ASSIGN_OR_RETURN(void* memory, arena_.allocate(ops_.linear_bytes(formats[first], rows, result.inputs)));
      const Tensor weight{.data = memory,
                          .rows = rows,
                          .columns = result.inputs,
                          .format = formats[first],
                          .layout = Layout::kPacked,
                          .row_stride = result.inputs};
      int64_t row = 0;
      for (; first < end; ++first) row += pack(slices[first], layer, weight, row);
      result.parts.push_back({weight, result.outputs});
      result.outputs += rows;
    }
    return result;
  }

  int64_t pack(const Slice& slice, int layer, const Tensor& out, int64_t first_row) {
    const HostWeight weight = checkpoint_.weight(slice.role, layer);
    std::vector<const void*> rows;
    const int64_t offset = row_bytes(weight.format, slice.column_begin);
    for (int64_t row = slice.row_begin; row < slice.row_end; ++row) rows.push_back(weight.row(row) + offset);
    ops_.pack_linear(device_, {.out = out,
                               .first_row = first_row,
                               .row_count = static_cast<int64_t>(rows.size()),
                               .source_rows = rows.data(),
                               .source_format = weight.format});
    packed_.emplace_back(slice.role, layer);
    drop_pages(kWeightsBeingRead);
    return static_cast<int64_t>(rows.size());
  }

  // Of all packed weights but the last `kept`. Where a page is still being read it only comes back.
  void drop_pages(size_t kept) {
    for (; packed_.size() > kept; packed_.pop_front()) {
      checkpoint_.drop_pages(packed_.front().first, packed_.front().second);
    }
  }

  const Checkpoint& checkpoint_;
  const ModelDescription& model_;
  const ShardPlan& shard_;
  const WeightType type_;
  const Ops& ops_;
  Device& device_;
  DeviceArena& arena_;
  std::deque<std::pair<WeightRole, int>> packed_;  // role, layer: their pages are still there
};

}  // namespace

Result<ModelWeights> load_weights(const Checkpoint& checkpoint, const ShardPlan& shard, WeightType type, const Ops& ops,
                                  Device& device, DeviceArena* arena) {
  return Loader(checkpoint, shard, type, ops, device, arena).load();
}

}  // namespace skein
