#pragma once

#include "kernels/cuda/device.h"

namespace skein::cuda {

// Whether vector_linear() serves these: bf16, one token, rows of whole 16-byte chunks at 16-byte addresses.
bool vector_linear_fits(const Tensor& x, const Tensor& weight);

// out = x W^T (+ bias) for one token, without tensor cores: a block takes four rows, its threads cut K, and every
// weight goes straight from memory to registers. Thousands of small blocks, because multiprocessors get unequal shares
// of the memory's rate (the last of equal shares ended a third late): the hardware hands the next rows to whoever is
// free. The first weights are under way before the launch before has ended. f32 accumulation; the order of additions
// depends on K alone. `gated`: weight rows i and n + i become silu(gate) * up in out (1, n).
struct VectorLinearArgs {
  Tensor out;  // bf16 or f32
  Tensor x;
  Tensor weight;
  const float* bias = nullptr;
  bool gated = false;
  uint64_t* largest = nullptr;  // LinearArgs::largest, which is always raised; not gated
};
void vector_linear(CudaDevice& device, const VectorLinearArgs& args);

}  // namespace skein::cuda
