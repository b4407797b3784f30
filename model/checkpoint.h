#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "model/description.h"

namespace skein {

class GgufFile;

// Every weight that the described models have. "layer" ones exist once per layer.
enum class WeightRole : uint8_t {
  kTokenEmbedding, kFinalNorm, kOutput,
  kAttentionNorm, kQ, kK, kV, kQBias, kKBias, kVBias, kQNorm, kKNorm, kO, kOBias,
  kMlpNorm, kGate, kUp, kDown, kGateBias, kUpBias, kDownBias,
};

// A weight matrix as it lies in a mapped file: (rows = outputs, columns = inputs), vectors have one
// row. Valid as long as its Checkpoint. Rows are aligned to bytes only, and contiguous only within
// themselves.
struct HostWeight {
  Format format = Format::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  const std::byte* data = nullptr;
  // GGUF stores q and k rows with rotary pairs side by side; row() undoes that. 0: plain order.
  int interleaved_head_dim = 0;
  // Dummy weights: row i begins at element i * 769 % dummy_offsets of a block that all rows share.
  // 0: from a file.
  int64_t dummy_offsets = 0;

  // Row i in the order of a Hugging Face checkpoint. Requires: i < rows.
  const std::byte* row(int64_t i) const;
};

// kDummy: weights made up from role, layer and position, BF16, about normal with deviation 0.02
// (norms: around 1); the same on every rank and in every run.
enum class LoadFormat : uint8_t { kAuto, kDummy };

// A Hugging Face folder or GGUF file, memory-mapped. Immutable, thread-safe.
class Checkpoint {
 public:
  // `path`: a folder with config.json (and safetensors unless kDummy), or a .gguf file.
  // Checks that every weight the description calls for is there with the right shape and a readable
  // format.
  static Result<std::unique_ptr<Checkpoint>> open(const std::string& path, LoadFormat load_format);
  virtual ~Checkpoint() = default;

  const ModelDescription& description() const { return description_; }
  // Requires: the description calls for that weight. layer: -1 for weights outside layers.
  virtual HostWeight weight(WeightRole role, int layer) const = 0;
  virtual const GgufFile* gguf() const { return nullptr; }  // null for folders
  // The most common format of the layers' linear weights.
  Format main_format() const { return main_format_; }
  // Tells the kernel that a weight's pages are not needed any more (after packing).
  virtual void drop_pages(WeightRole role, int layer) const = 0;
  // Hash over description, tensor names, formats, shapes, file sizes and a few bytes of every
  // tensor; part of a replica's numerics_id.
  uint64_t fingerprint() const { return fingerprint_; }

 protected:
  ModelDescription description_;
  Format main_format_ = Format::kF32;
  uint64_t fingerprint_ = 0;
};

// Whether `description` has that role (biases, norms of q and k, an output of its own).
bool has_weight(const ModelDescription& description, WeightRole role, int layer);
bool is_layer_role(WeightRole role);
std::string_view role_name(WeightRole role);

struct WeightShape {
  int64_t rows = 0;
  int64_t columns = 0;
};
WeightShape weight_shape(const ModelDescription& description, WeightRole role);

}  // namespace skein
