#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/checked.h"
#include "base/status.h"
#include "base/tensor.h"
#include "kernels/ops.h"
#include "worker/model_weights.h"

// What the probes' launches read and write: tensors full of numbers, the same on every run.

namespace skein {

struct ProductShape {
  int64_t outputs;
  int64_t inputs;
};

// How many of `all` weights, or sets of pages, have so many bytes together.
inline size_t count_with(int64_t bytes, int64_t of_one, size_t all) {
  return std::min(static_cast<size_t>(ceil_div(bytes, of_one)), all);
}

class ProbeTensors {
 public:
  // `unlike_rows`: a weight's rows differ, so that the largest of a row of logits may be anywhere. `turn_bytes`: of
  // weights that take turns, more than caches hold.
  ProbeTensors(const Ops& ops, Device& device, bool unlike_rows, int64_t turn_bytes);

  int64_t turn_bytes() const { return turn_bytes_; }

  Result<Tensor> activation(DeviceArena& arena, Format format, int64_t rows, int64_t columns) const;
  Result<const float*> norm_weight(DeviceArena& arena, int64_t columns) const;
  Result<Tensor> packed_weight(DeviceArena& arena, Format format, const ProductShape& shape) const;
  // As many as have turn_bytes together, or one, in the place of those that were returned before: pages that a virtual
  // machine's host has just given are read at a third of the rate for a while.
  Result<std::vector<Tensor>> weights_for_turns(Format format, const ProductShape& shape);
  // Keys and values of two bytes: numbers as bfloat16, and as float16, too.
  void fill_pages(void* memory, int64_t count) const;

 private:
  Status pack(const Tensor& weight) const;
  template <typename Element>
  void fill(void* memory, int64_t count, const std::vector<Element>& elements) const;

  const Ops& ops_;
  Device& device_;
  const bool unlike_rows_;
  const int64_t turn_bytes_;
  std::optional<DeviceArena> turns_;
  std::byte* turn_data_ = nullptr;
  int64_t turn_capacity_ = 0;
  const std::vector<float> floats_;  // in [-1, 1)
  const std::vector<uint16_t> bf16_;
};

}  // namespace skein
