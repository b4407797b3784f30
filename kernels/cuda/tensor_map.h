#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/ops.h"

namespace skein::cuda {

// A bf16 array of up to four dimensions for the copy engine, innermost dimension first. Boxes have 128-byte rows with
// the 128-byte swizzle; what lies outside of the array reads as zeros.
struct TensorMapShape {
  void* data = nullptr;  // 16-byte aligned
  int dimensions = 0;
  uint64_t sizes[4] = {};
  uint64_t strides[3] = {};  // bytes, of dimensions 1, 2, ...: multiples of 16
  uint32_t box[4] = {};      // box[0] is 64
  bool read_once = false;    // a miss fetches no more than was asked for; it fetches 256 bytes otherwise
};
CUtensorMap tensor_map(const TensorMapShape& shape);

// Whether the copy engine, and cuBLASLt, can read a matrix: rows of whole 16-byte chunks at 16-byte addresses.
inline bool copy_engine_reads(const Tensor& matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && matrix.row_stride % 8 == 0;
}

}  // namespace skein::cuda
