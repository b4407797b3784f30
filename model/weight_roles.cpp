#include "base/check.h"
#include "model/checkpoint.h"

namespace skein {

bool is_layer_role(WeightRole role) {
  return role != WeightRole::kTokenEmbedding && role != WeightRole::kFinalNorm &&
         role != WeightRole::kOutput;
}

std::string_view role_name(WeightRole role) {
  constexpr std::string_view kNames[] = {
      "token embedding", "final norm", "output",
      "attention norm",  "q",          "k",
      "v",               "q bias",     "k bias",
      "v bias",          "q norm",     "k norm",
      "o",               "o bias",     "MLP norm",
      "gate",            "up",         "down",
      "gate bias",       "up bias",    "down bias"};
  return kNames[static_cast<size_t>(role)];
}

bool has_weight(const ModelDescription& description, WeightRole role, int layer) {
  CHECK_EQ(is_layer_role(role), layer >= 0);
  if (role == WeightRole::kOutput) return !description.tied_embeddings;
  if (!is_layer_role(role)) return true;
  const LayerSpec& spec = description.layers.at(static_cast<size_t>(layer));
  switch (role) {
    case WeightRole::kQBias:
    case WeightRole::kKBias:
    case WeightRole::kVBias: return spec.qkv_bias;
    case WeightRole::kQNorm:
    case WeightRole::kKNorm: return spec.qk_norm;
    case WeightRole::kOBias: return spec.o_bias;
    case WeightRole::kGateBias:
    case WeightRole::kUpBias:
    case WeightRole::kDownBias: return spec.mlp_bias;
    case WeightRole::kTokenEmbedding: case WeightRole::kFinalNorm: case WeightRole::kOutput:
    case WeightRole::kAttentionNorm: case WeightRole::kQ: case WeightRole::kK: case WeightRole::kV:
    case WeightRole::kO: case WeightRole::kMlpNorm: case WeightRole::kGate: case WeightRole::kUp:
    case WeightRole::kDown: return true;
  }
  CHECK(false);
  return false;
}

WeightShape weight_shape(const ModelDescription& d, WeightRole role) {
  const int64_t q = int64_t{d.q_heads} * d.head_dim;
  const int64_t kv = int64_t{d.kv_heads} * d.head_dim;
  switch (role) {
    case WeightRole::kTokenEmbedding:
    case WeightRole::kOutput: return {d.vocabulary, d.hidden};
    case WeightRole::kFinalNorm:
    case WeightRole::kAttentionNorm:
    case WeightRole::kMlpNorm:
    case WeightRole::kOBias:
    case WeightRole::kDownBias: return {1, d.hidden};
    case WeightRole::kQ: return {q, d.hidden};
    case WeightRole::kK:
    case WeightRole::kV: return {kv, d.hidden};
    case WeightRole::kQBias: return {1, q};
    case WeightRole::kKBias:
    case WeightRole::kVBias: return {1, kv};
    case WeightRole::kQNorm:
    case WeightRole::kKNorm: return {1, d.head_dim};
    case WeightRole::kO: return {d.hidden, q};
    case WeightRole::kGate:
    case WeightRole::kUp: return {d.intermediate, d.hidden};
    case WeightRole::kGateBias:
    case WeightRole::kUpBias: return {1, d.intermediate};
    case WeightRole::kDown: return {d.hidden, d.intermediate};
  }
  CHECK(false);
  return {};
}

const std::byte* HostWeight::row(int64_t i) const {
  CHECK_GE(i, 0);
  CHECK_LT(i, rows);
  if (dummy_offsets > 0) return data + row_bytes(format, i * 769 % dummy_offsets);
  if (interleaved_head_dim > 0) {
    const int64_t half_dim = interleaved_head_dim / 2;
    const int64_t within = i % interleaved_head_dim;
    i += 2 * (within % half_dim) + within / half_dim - within;
  }
  return data + i * row_bytes(format, columns);
}

}  // namespace skein
