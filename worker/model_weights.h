#pragma once

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "kernels/ops.h"
#include "model/checkpoint.h"
#include "model/shard.h"

namespace skein {

// Device memory of one rank, released together. Single-owner: the executor thread.
class DeviceArena {
 public:
  DeviceArena(const Ops& ops, Device& device) : ops_(ops), device_(device) {}
  ~DeviceArena();
  DeviceArena(const DeviceArena&) = delete;
  DeviceArena& operator=(const DeviceArena&) = delete;

  Result<void*> allocate(int64_t bytes);
  template <typename T>
  Result<T*> allocate_array(int64_t count) {
    ASSIGN_OR_RETURN(void* data, allocate(count * static_cast<int64_t>(sizeof(T))));
    return static_cast<T*>(data);
  }
  // A device copy of `values`.
  Result<float*> upload(const std::vector<float>& values);
  int64_t bytes() const { return bytes_; }

 private:
  const Ops& ops_;
  Device& device_;
  std::vector<void*> blocks_;
  int64_t bytes_ = 0;
};

// One or more packed weights that read the same input and write neighbouring columns of one output.
struct Linear {
  struct Part {
    Tensor weight;
    int64_t column = 0;  // of the output
  };
  std::vector<Part> parts;
  int64_t outputs = 0;
  int64_t inputs = 0;
  const float* bias = nullptr;  // (outputs) or null
  Format input_format = Format::kF32;
};

struct LayerWeights {
  const float* attention_norm = nullptr;  // (hidden)
  const float* mlp_norm = nullptr;        // (hidden)
  const float* q_norm = nullptr;          // (head_dim) or null
  const float* k_norm = nullptr;
  Linear qkv, o, gate_up, down;
};

// One rank's slice of a model in device memory.
struct ModelWeights {
  Tensor embedding;                   // first stage: (vocabulary slice, hidden)
  std::vector<LayerWeights> layers;   // (shard.layers)
  const float* final_norm = nullptr;  // last stage
  Linear output;                      // last stage: (vocabulary slice, hidden)
};

// How weights are kept: as in the files, or all in one plain format.
enum class WeightType : uint8_t { kAuto, kFloat32, kBFloat16, kFloat16 };
Result<WeightType> parse_weight_type(std::string_view name);

// Reads this rank's slice only and packs it. The checkpoint's pages are dropped as it goes.
Result<ModelWeights> load_weights(const Checkpoint& checkpoint, const ShardPlan& shard, WeightType type, const Ops& ops,
                                  Device& device, DeviceArena* arena);

}  // namespace skein
