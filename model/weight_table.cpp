#include "model/weight_table.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/check.h"
#include "base/half.h"
#include "model/quoted.h"

namespace skein {
namespace {

size_t slot_of(WeightRole role, int layer) {
  CHECK_GE(layer, -1);
  CHECK_EQ(is_layer_role(role), layer >= 0);
  return static_cast<size_t>(layer + 1) * all_roles().size() + static_cast<size_t>(role);
}

size_t slot_count(const ModelDescription& description) {
  return (description.layers.size() + 1) * all_roles().size();
}

struct RoleAndLayer {
  WeightRole role;
  int layer;
};

std::vector<RoleAndLayer> weights_of(const ModelDescription& description) {
  std::vector<RoleAndLayer> weights;
  for (int layer = -1; layer < static_cast<int>(description.layers.size()); ++layer) {
    for (const WeightRole role : all_roles()) {
      if (is_layer_role(role) != (layer >= 0) || !has_weight(description, role, layer)) continue;
      weights.push_back({role, layer});
    }
  }
  return weights;
}

bool is_linear(WeightRole role) {
  using enum WeightRole;
  return role == kQ || role == kK || role == kV || role == kO || role == kGate || role == kUp ||
         role == kDown;
}

bool is_norm(WeightRole role) {
  using enum WeightRole;
  return role == kFinalNorm || role == kAttentionNorm || role == kMlpNorm || role == kQNorm ||
         role == kKNorm;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  return text + "]";
}

// Tensors that published files hold although nothing reads them.
bool is_harmless(std::string_view name, const ModelDescription& description, Naming naming) {
  if (naming == Naming::kGguf) return name == "rope_freqs.weight";  // read by describe_gguf
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with("rotary_emb.cos_cached") ||
         name.ends_with("rotary_emb.sin_cached") ||
         (description.tied_embeddings && name == "lm_head.weight");
}

// "a, b and 7 more", sorted.
std::string listed(std::vector<std::string> names) {
  constexpr size_t kShown = 3;
  std::sort(names.begin(), names.end());
  std::string text;
  for (size_t i = 0; i < std::min(names.size(), kShown); ++i) {
    text += (i == 0 ? "" : ", ") + quoted(names[i]);
  }
  if (names.size() > kShown) text += " and " + std::to_string(names.size() - kShown) + " more";
  return text;
}

Status check_tensor(const std::string& name, const FileTensor& tensor, WeightRole role,
                    WeightShape wanted) {
  const bool is_vector = wanted.rows == 1 && (is_norm(role) || role_name(role).ends_with("bias"));
  const std::vector<int64_t> shape = is_vector
                                         ? std::vector<int64_t>{wanted.columns}
                                         : std::vector<int64_t>{wanted.rows, wanted.columns};
  if (tensor.shape != shape) {
    const char* hint = role == WeightRole::kTokenEmbedding
                           ? ": vocabulary or hidden size do not belong to these weights"
                           : "";
    return corrupt("the tensor " + quoted(name) + " has the shape " + shape_text(tensor.shape) +
                   " where the model's description calls for " + shape_text(shape) + hint);
  }
  if (!tensor.format) {
    return unsupported("the tensor " + quoted(name) + " is stored as " + tensor.type +
                       ", which is not supported; use F32, F16, BF16, Q8_0, Q4_0 or Q4_1");
  }
  if (is_vector && info(*tensor.format).block_elements > 1) {
    return unsupported("the vector " + quoted(name) + " is stored as " + tensor.type +
                       "; only F32, F16 and BF16 are supported for vectors");
  }
  CHECK_EQ(tensor.bytes, wanted.rows * row_bytes(*tensor.format, wanted.columns));
  return {};
}

// Where logical row i of an interleaved matrix lies is HostWeight::row's knowledge; a bias is its
// column.
std::vector<std::byte> reorder_bias(const HostWeight& bias, int head_dim) {
  HostWeight column = bias;
  column.rows = bias.columns;
  column.columns = 1;
  column.interleaved_head_dim = head_dim;
  std::vector<std::byte> out;
  for (int64_t i = 0; i < column.rows; ++i) {
    const std::byte* element = column.row(i);
    out.insert(out.end(), element, element + row_bytes(bias.format, 1));
  }
  return out;
}

// A hash of 64 bits (the finaliser of SplitMix64).
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

// About normal around `mean` with deviation 0.02: the sum of four uniform numbers of 16 bits.
uint16_t dummy_element(uint64_t index, float mean) {
  constexpr float kSumMean = 131070;
  constexpr float kSumDeviation = 37837;
  const uint64_t bits = mix(index);
  const uint64_t sum =
      (bits & 0xFFFF) + (bits >> 16 & 0xFFFF) + (bits >> 32 & 0xFFFF) + (bits >> 48);
  return f32_to_bf16(mean + 0.02f * (static_cast<float>(sum) - kSumMean) / kSumDeviation);
}

const FileTensors::value_type* find_tensor(const FileTensors& tensors, const std::string& name,
                                           Naming naming) {
  auto found = tensors.end();
  if (naming == Naming::kHuggingFace) found = tensors.find("model." + name);
  if (found == tensors.end()) found = tensors.find(name);
  return found == tensors.end() ? nullptr : &*found;
}

}  // namespace

Result<WeightTable> WeightTable::resolve(const ModelDescription& description, const Family& family,
                                         Naming naming, const FileTensors& tensors) {
  const bool interleaved = naming == Naming::kGguf && family.gguf_interleaved_qk;
  WeightTable table;
  table.weights_.resize(slot_count(description));
  std::vector<std::string> missing;
  std::unordered_set<std::string_view> used;
  for (const auto [role, layer] : weights_of(description)) {
    const std::string name = tensor_name(family, naming, role, layer);
    const auto* found = find_tensor(tensors, name, naming);
    if (found == nullptr) {
      missing.push_back(name);
      continue;
    }
    const auto& [full_name, tensor] = *found;
    const WeightShape shape = weight_shape(description, role);
    RETURN_IF_ERROR(check_tensor(full_name, tensor, role, shape));
    used.insert(full_name);
    HostWeight& weight = table.weights_[slot_of(role, layer)];
    weight = {*tensor.format, shape.rows, shape.columns, tensor.data};
    if (!interleaved) continue;
    if (role == WeightRole::kQ || role == WeightRole::kK) {
      weight.interleaved_head_dim = description.head_dim;
    } else if (role == WeightRole::kQBias || role == WeightRole::kKBias) {
      table.reordered_.push_back(reorder_bias(weight, description.head_dim));
      weight.data = table.reordered_.back().data();
    }
  }
  if (!missing.empty()) return not_found("tensors are missing: " + listed(std::move(missing)));
  std::vector<std::string> unused;
  for (const auto& [name, tensor] : tensors) {
    if (!used.contains(name) && !is_harmless(name, description, naming)) unused.push_back(name);
  }
  if (unused.empty()) return table;
  return unsupported("there are tensors that " + description.architecture + " has no use for: " +
                     listed(std::move(unused)));
}

const HostWeight& WeightTable::at(WeightRole role, int layer) const {
  const size_t slot = slot_of(role, layer);
  CHECK_LT(slot, weights_.size());
  CHECK_GT(weights_[slot].rows, 0);
  return weights_[slot];
}

Format WeightTable::main_format() const {
  constexpr size_t kFormats = static_cast<size_t>(Format::kI32) + 1;
  int64_t elements[kFormats] = {};
  for (size_t slot = 0; slot < weights_.size(); ++slot) {
    const HostWeight& weight = weights_[slot];
    if (!is_linear(static_cast<WeightRole>(slot % all_roles().size()))) continue;
    elements[static_cast<size_t>(weight.format)] += weight.rows * weight.columns;
  }
  return static_cast<Format>(std::max_element(elements, elements + kFormats) - elements);
}

void WeightTable::add_to(Fingerprint* fingerprint) const {
  constexpr int64_t kSampleBytes = 64;
  for (const HostWeight& weight : weights_) {
    fingerprint->add(int64_t{weight.rows});
    fingerprint->add(int64_t{weight.columns});
    fingerprint->add(static_cast<int64_t>(weight.format));
    if (weight.rows == 0) continue;
    const int64_t bytes = std::min(kSampleBytes, row_bytes(weight.format, weight.columns));
    fingerprint->add(weight.row(weight.rows / 2), static_cast<size_t>(bytes));
  }
}

WeightTable WeightTable::dummy(const ModelDescription& description) {
  // A weight's rows begin at `offsets` places of the block, counted from one of `origins` places.
  constexpr int64_t kOrigins = 1 << 16;
  constexpr int64_t kOffsets = 1 << 18;
  int64_t columns_max = 0;
  for (const auto [role, layer] : weights_of(description)) {
    columns_max = std::max(columns_max, weight_shape(description, role).columns);
  }
  WeightTable table;
  table.weights_.resize(slot_count(description));
  const int64_t norms_begin = kOrigins + kOffsets + columns_max;
  const int64_t norms_end = norms_begin + kOrigins + columns_max;
  for (int64_t i = 0; i < norms_end; ++i) {
    table.dummy_block_.push_back(dummy_element(static_cast<uint64_t>(i), i < norms_begin ? 0 : 1));
  }
  for (const auto [role, layer] : weights_of(description)) {
    const WeightShape shape = weight_shape(description, role);
    const size_t slot = slot_of(role, layer);
    int64_t origin = static_cast<int64_t>(mix(slot) % kOrigins);
    if (is_norm(role)) origin += norms_begin;
    table.weights_[slot] = {
        .format = Format::kBF16,
        .rows = shape.rows,
        .columns = shape.columns,
        .data = reinterpret_cast<const std::byte*>(table.dummy_block_.data() + origin),
        .dummy_offsets = kOffsets,
    };
  }
  return table;
}

}  // namespace skein
