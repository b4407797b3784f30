#include "model/description.h"

#include <cmath>

#include "base/check.h"
#include "model/checkpoint.h"
#include "model/families.h"

namespace skein {
namespace {

struct Range {
  int min;
  int max;
};

Status check_range(const char* what, int64_t value, Range range) {
  if (value >= range.min && value <= range.max) return {};
  return invalid_argument(std::string(what) + " is " + std::to_string(value) +
                          "; it must be between " + std::to_string(range.min) + " and " +
                          std::to_string(range.max));
}

Status check_rope(const RopeSpec& rope, int head_dim) {
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0 || rope.rotary_dim > head_dim) {
    return invalid_argument("rotary embeddings over " + std::to_string(rope.rotary_dim) +
                            " features of a head of " + std::to_string(head_dim) +
                            "; they must be even in number and fit the head");
  }
  if (!std::isfinite(rope.theta) || rope.theta <= 0) {
    return invalid_argument("the rotary base (rope_theta) must be a positive number");
  }
  if (!std::isfinite(rope.factor) || rope.factor <= 0) {
    return invalid_argument("the rotary scaling factor must be a positive number");
  }
  if (rope.scaling == RopeSpec::Scaling::kLlama3) {
    const bool ordered = rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor &&
                         std::isfinite(rope.high_freq_factor);
    if (!ordered) {
      return invalid_argument("llama3 scaling needs 0 < low_freq_factor < high_freq_factor");
    }
    RETURN_IF_ERROR(check_range("original_max_position_embeddings", rope.original_context,
                                {1, kContextMax}));
  }
  if (rope.frequency_divisors.empty()) return {};
  if (rope.frequency_divisors.size() != static_cast<size_t>(rope.rotary_dim / 2)) {
    return invalid_argument("there are " + std::to_string(rope.frequency_divisors.size()) +
                            " rotary frequency factors for " + std::to_string(rope.rotary_dim / 2) +
                            " frequencies");
  }
  for (const float divisor : rope.frequency_divisors) {
    if (!std::isfinite(divisor) || divisor <= 0) {
      return invalid_argument("a rotary frequency factor is not a positive number");
    }
  }
  return {};
}

}  // namespace

int64_t ModelDescription::parameters() const {
  int64_t count = 0;
  for (int layer = -1; layer < static_cast<int>(layers.size()); ++layer) {
    for (const WeightRole role : all_roles()) {
      if (is_layer_role(role) != (layer >= 0) || !has_weight(*this, role, layer)) continue;
      const WeightShape shape = weight_shape(*this, role);
      count += shape.rows * shape.columns;
    }
  }
  return count;
}

Status check_description(const ModelDescription& d) {
  RETURN_IF_ERROR(check_range("the vocabulary size", d.vocabulary, {1, kVocabularyMax}));
  RETURN_IF_ERROR(check_range("the hidden size", d.hidden, {1, kHiddenMax}));
  RETURN_IF_ERROR(check_range("the intermediate size", d.intermediate, {1, kIntermediateMax}));
  RETURN_IF_ERROR(check_range("the number of layers", static_cast<int64_t>(d.layers.size()),
                              {1, kLayersMax}));
  RETURN_IF_ERROR(check_range("the number of attention heads", d.q_heads, {1, kHeadsMax}));
  RETURN_IF_ERROR(check_range("the number of KV heads", d.kv_heads, {1, d.q_heads}));
  RETURN_IF_ERROR(check_range("the head dimension", d.head_dim, {2, kHeadDimMax}));
  RETURN_IF_ERROR(check_range("the context length", d.context_max, {1, kContextMax}));
  if (d.q_heads % d.kv_heads != 0) {
    return invalid_argument(std::to_string(d.q_heads) + " attention heads are no multiple of " +
                            std::to_string(d.kv_heads) + " KV heads");
  }
  if (!(d.norm_epsilon > 0 && d.norm_epsilon <= 1)) {
    return invalid_argument("the norm epsilon (rms_norm_eps) must be above 0 and at most 1");
  }
  for (const KvGroupSpec& group : d.kv_groups) {
    RETURN_IF_ERROR(check_range("the sliding window", group.sliding_window, {0, kContextMax}));
  }
  return check_rope(d.rope, d.head_dim);
}

void set_layers(const LayerSpec& layer, const std::vector<int>& windows,
                ModelDescription* description) {
  for (const int window : windows) {
    auto& groups = description->kv_groups;
    size_t group = 0;
    while (group < groups.size() && groups[group].sliding_window != window) ++group;
    if (group == groups.size()) {
      groups.push_back({description->kv_heads, description->head_dim, window});
    }
    LayerSpec spec = layer;
    spec.kv_group = static_cast<int>(group);
    description->layers.push_back(spec);
  }
}

}  // namespace skein
