#pragma once

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

// What products share that take weights on the M side of wgmma and tokens on the N side: tiles of 64 columns in shared
// memory, SwiGLU and the stores of a warpgroup's sums.

namespace skein::cuda {

inline constexpr int kTileColumns = 64;  // 128 bytes, the width of the swizzle
inline constexpr int kTileRowBytes = kTileColumns * 2;
inline constexpr int kGroupRows = 64;  // of weights, by a warpgroup

// The result of a product.
struct LinearOut {
  int rows = 0;  // outputs, or pairs
  int tokens = 0;
  unsigned char* data = nullptr;
  int64_t stride = 0;
  bool f32 = false;    // else bf16
  bool pairs = false;  // neighbours (2 i, 2 i + 1) of a row lie in one word
  const float* bias = nullptr;
};

// A descriptor from its changing half.
__device__ __forceinline__ uint64_t operand(uint32_t low) {
  return (k_major_operand(0) & 0xffffffff00000000u) | low;
}

__device__ __forceinline__ float gated(float gate, float up) { return __fdividef(gate, 1 + __expf(-gate)) * up; }

// The warp is done with a stage of the ring: tells every block of the cluster whose loads fill it again.
template <int kShare>
__device__ __forceinline__ void release(uint64_t* empty) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (kShare == 1) {
    if (lane == 0) barrier_arrive(empty);
  } else {
    if (lane < kShare) arrive_at_rank(shared_address_of(empty, static_cast<uint32_t>(lane)));
  }
}

// Eight outputs from `row` on of eight tokens from `token` on, by a warp: this thread has output t / 4 of tokens
// 2 (t % 4) and + 1.
__device__ __forceinline__ void store_square(const LinearOut& out, int row, int token, float first, float second) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (out.f32) {
    float* to = reinterpret_cast<float*>(out.data) + row + lane / 4;
    const int at = token + lane % 4 * 2;
    if (row + lane / 4 >= out.rows) return;
    if (at < out.tokens) to[at * out.stride] = first;
    if (at + 1 < out.tokens) to[(at + 1) * out.stride] = second;
    return;
  }
  const uint32_t pair = transposed(pack_bf16(first, second));
  const int at = row + lane % 4 * 2;
  if (token + lane / 4 >= out.tokens || at >= out.rows) return;
  auto* to = reinterpret_cast<uint16_t*>(out.data) + (token + lane / 4) * out.stride + at;
  if (out.pairs && at + 1 < out.rows) {
    *reinterpret_cast<uint32_t*>(to) = pair;
  } else {
    to[0] = static_cast<uint16_t>(pair);
    if (at + 1 < out.rows) to[1] = static_cast<uint16_t>(pair >> 16);
  }
}

// A warp's 16 rows of weights, from `local` of tile `tile` of `tile_rows` on, by the tokens from `first_token` on. If
// kGated, rows are eight gate rows, the eight up rows of the same pairs, and so on.
template <bool kGated, int kSums>
__device__ __forceinline__ void store_sums(const LinearOut& out, const float (&sums)[kSums], int tile, int tile_rows,
                                           int local, int first_token) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = kGated ? tile * (tile_rows / 2) + local / 2 : tile * tile_rows + local;
  float bias[2] = {};  // of the thread's two rows of weights
  if (out.bias != nullptr) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int output = row + lane / 4 + (kGated ? 0 : 8 * half);
      if (output < out.rows) bias[half] = __ldg(out.bias + output + (kGated ? half * out.rows : 0));
    }
  }
#pragma unroll
  for (int i = 0; i < kSums / 4; ++i) {
    const int token = first_token + 8 * i;
    if (token >= out.tokens) break;
    if constexpr (kGated) {
      if (local >= tile_rows) break;
      store_square(out, row, token, gated(sums[4 * i] + bias[0], sums[4 * i + 2] + bias[1]),
                   gated(sums[4 * i + 1] + bias[0], sums[4 * i + 3] + bias[1]));
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (local + 8 * half >= tile_rows) break;
        store_square(out, row + 8 * half, token, sums[4 * i + 2 * half] + bias[half],
                     sums[4 * i + 2 * half + 1] + bias[half]);
      }
    }
  }
}

// --- On the host ---

inline LinearOut linear_out(const Tensor& out, const float* bias) {
  return {.rows = static_cast<int>(out.columns),
          .tokens = static_cast<int>(out.rows),
          .data = static_cast<unsigned char*>(out.data),
          .stride = out.row_stride,
          .f32 = out.format == Format::kF32,
          .pairs = reinterpret_cast<uintptr_t>(out.data) % 4 == 0 && out.row_stride % 2 == 0,
          .bias = bias};
}

// Boxes of rows by a tile's columns.
inline CUtensorMap map_of_rows(const Tensor& matrix, int box_rows) {
  return tensor_map({.data = matrix.data,
                     .dimensions = 2,
                     .sizes = {static_cast<uint64_t>(matrix.columns), static_cast<uint64_t>(matrix.rows)},
                     .strides = {static_cast<uint64_t>(matrix.row_stride) * 2},
                     .box = {kTileColumns, static_cast<uint32_t>(box_rows)}});
}

// Eight gate rows, the eight up rows of the same pairs, the next eight gate rows, and so on.
inline CUtensorMap map_of_pairs(const Tensor& matrix, int box_rows) {
  const auto pairs = static_cast<uint64_t>(matrix.rows / 2);
  const uint64_t row_bytes = static_cast<uint64_t>(matrix.row_stride) * 2;
  return tensor_map({.data = matrix.data,
                     .dimensions = 4,
                     .sizes = {static_cast<uint64_t>(matrix.columns), 8, 2, pairs / 8},
                     .strides = {row_bytes, pairs * row_bytes, 8 * row_bytes},
                     .box = {kTileColumns, 8, 2, static_cast<uint32_t>(box_rows / 16)}});
}

}  // namespace skein::cuda
