#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "model/checkpoint.h"
#include "model/description.h"

// What sets the model families apart, as data. A new family is a row of the table in families.cpp
// (and a list of names if its tensors have others).

namespace skein {

class GgufFile;

enum class Naming : uint8_t { kHuggingFace, kGguf };

// The names of one role's tensor; '#' stands for the layer. Empty: the format has no such tensor.
struct TensorNames {
  WeightRole role;
  std::string_view hugging_face;  // most files put "model." before it
  std::string_view gguf;
};

// Which layers of a family attend to a window only.
enum class WindowRule : uint8_t {
  kNever,
  kEveryLayer,  // sliding_window, unless it is null
  kByLayer,     // use_sliding_window with layer_types, or from layer max_window_layers on
};

struct Family {
  std::string_view hugging_face;  // the name in "architectures"
  std::string_view gguf;  // general.architecture; empty: its GGUF files use another family's
  std::span<const TensorNames> names;
  bool qkv_bias = false;            // always there (GGUF: the tensors decide)
  bool attention_bias_key = false;  // config.json's attention_bias adds them to q, k, v and o
  bool mlp_bias_key = false;        // mlp_bias likewise for the MLP
  bool qk_norm = false;
  WindowRule window = WindowRule::kNever;
  int window_default = 0;   // where config.json has no sliding_window
  int head_dim_default = 0;  // where config.json has no head_dim; 0: hidden / heads
  int context_default = 0;  // where config.json has no max_position_embeddings
  bool gguf_interleaved_qk = false;  // its GGUF files have the rows of a rotary pair side by side
};

// nullptr if the name is not known.
const Family* find_family(Naming naming, std::string_view architecture);
// "A, B, C"
std::string known_families(Naming naming);

std::string tensor_name(const Family& family, Naming naming, WeightRole role, int layer);
std::span<const WeightRole> all_roles();

// Limits of a description's sizes: far above any model, low enough that no product of a few
// overflows.
inline constexpr int kVocabularyMax = 4 << 20;
inline constexpr int kHiddenMax = 1 << 20;
inline constexpr int kIntermediateMax = 4 << 20;
inline constexpr int kLayersMax = 4096;
inline constexpr int kHeadsMax = 16384;
inline constexpr int kHeadDimMax = 4096;
inline constexpr int kContextMax = 1 << 27;

// kInvalidArgument says which range or relation a description breaks.
Status check_description(const ModelDescription& description);

// From the metadata of a GGUF file, and its tensors where only they say which weights there are.
Result<ModelDescription> describe_gguf(const GgufFile& file);

// Sets layers and kv_groups; the window of each layer, 0 for full attention. Layers of one window
// share a group.
void set_layers(const LayerSpec& layer, const std::vector<int>& windows,
                ModelDescription* description);

}  // namespace skein
