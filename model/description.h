#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/status.h"

// A decoder-only transformer as data. A new family fills these in (model/families.cpp); the
// executor reads nothing else about it.

namespace skein {

struct RopeSpec {
  double theta = 10000;
  int rotary_dim = 0;  // leading features of a head that rotate; pairs are (i, i + rotary_dim / 2)
  enum class Scaling : uint8_t { kNone, kLinear, kLlama3 } scaling = Scaling::kNone;
  double factor = 1;
  double low_freq_factor = 1;   // llama3
  double high_freq_factor = 4;  // llama3
  int original_context = 8192;  // llama3
  // GGUF's rope_freqs.weight: what each of the rotary_dim / 2 frequencies is divided by; empty:
  // nothing.
  std::vector<float> frequency_divisors = {};
};

// Layers whose KV pages have one shape and lifetime; each group has its own block tables.
struct KvGroupSpec {
  int kv_heads = 0;
  int head_dim = 0;
  int sliding_window = 0;  // 0: full attention
};

struct LayerSpec {
  int kv_group = 0;
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // RMS norm over each head of q and k before rotation
};

struct ModelDescription {
  std::string architecture;  // "LlamaForCausalLM"; GGUF: "llama"
  int vocabulary = 0;
  int hidden = 0;
  int intermediate = 0;
  int q_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int context_max = 0;  // positions the model was made for
  float norm_epsilon = 1e-5f;
  bool tied_embeddings = false;
  RopeSpec rope;
  std::vector<KvGroupSpec> kv_groups;
  std::vector<LayerSpec> layers;

  int64_t parameters() const;
};

// From a Hugging Face config.json. kUnsupported names an unknown architecture and lists the known
// ones; kInvalidArgument names the field that is missing or out of range.
Result<ModelDescription> describe_hugging_face(const Json& config);

// cos and sin of position * frequency, float32 (positions, rotary_dim / 2, 2), computed as
// transformers does.
std::vector<float> rope_table(const RopeSpec& rope, int positions);

}  // namespace skein
