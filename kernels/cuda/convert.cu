#include <cuda_fp16.h>

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/ptx.cuh"

namespace skein::cuda {
namespace {

constexpr int kThreads = 256;

// Rows of any length begin at any byte.
__device__ __forceinline__ uint32_t load_bytes(const uint8_t* p, int count) {
  uint32_t value = 0;
  for (int i = 0; i < count; ++i) value |= static_cast<uint32_t>(p[i]) << (8 * i);
  return value;
}

__device__ __forceinline__ float load_half(const uint8_t* p) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(load_bytes(p, 2))));
}

// Element i of a row in a file's format (base/tensor.h).
__device__ __forceinline__ float element(Format format, const uint8_t* row, int64_t i) {
  if (format == Format::kF32) return __uint_as_float(load_bytes(row + 4 * i, 4));
  if (format == Format::kF16) return load_half(row + 2 * i);
  const int j = static_cast<int>(i % 32);
  const int bytes = format == Format::kQ8_0 ? 34 : format == Format::kQ4_0 ? 18 : 20;
  const uint8_t* block = row + i / 32 * bytes;
  const float d = load_half(block);
  if (format == Format::kQ8_0) return __fmul_rn(d, static_cast<float>(static_cast<int8_t>(block[2 + j])));
  const int byte = block[(format == Format::kQ4_1 ? 4 : 2) + j % 16];
  const int nibble = j < 16 ? byte & 15 : byte >> 4;
  if (format == Format::kQ4_0) return __fmul_rn(d, static_cast<float>(nibble - 8));
  return __fadd_rn(__fmul_rn(d, static_cast<float>(nibble)), load_half(block + 2));
}

__global__ void __launch_bounds__(kThreads) convert(__nv_bfloat16* out, const uint8_t* rows, Format format,
                                                    int64_t row_bytes, int64_t row_count, int64_t columns) {
  wait_for_previous_launch();
  let_next_launch_start();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= columns) return;
  for (int64_t r = blockIdx.y; r < row_count; r += gridDim.y) {
    out[r * columns + i] = __float2bfloat16(element(format, rows + r * row_bytes, i));
  }
}

}  // namespace

void convert_rows(CudaDevice& device, CUstream_st* stream, void* out, const void* rows, Format format,
                  int64_t row_count, int64_t columns) {
  CHECK(format == Format::kF32 || format == Format::kF16 || format == Format::kQ8_0 || format == Format::kQ4_0 ||
        format == Format::kQ4_1);
  launch(device, "conversion of weights", convert,
         {.blocks = dim3(static_cast<unsigned>(ceil_div<int64_t>(columns, kThreads)),
                         static_cast<unsigned>(std::min<int64_t>(row_count, 32 * 1024))),
          .threads = kThreads,
          .stream = stream},
         static_cast<__nv_bfloat16*>(out), static_cast<const uint8_t*>(rows), format, row_bytes(format, columns),
         row_count, columns);
}

}  // namespace skein::cuda
