#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

// Eight neighbours of a row of bf16 or f32, as f32 in registers. kVector: by 16-byte accesses, which needs what
// vectors_fit() tells and a length that is a multiple of eight; otherwise element by element, of any length.

namespace skein::cuda {

inline constexpr int kChunk = 8;

struct Chunk {
  float at[kChunk];
};

// Whether rows from `data` on, `stride` elements apart, begin at multiples of 16 bytes.
template <typename T>
bool vectors_fit(const T* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * static_cast<int64_t>(sizeof(T)) % 16 == 0;
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

__device__ __forceinline__ Chunk unpack(const uint4& raw) {
  const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
  Chunk v;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    v.at[2 * j] = low_bf16(pairs[j]);
    v.at[2 * j + 1] = high_bf16(pairs[j]);
  }
  return v;
}

__device__ __forceinline__ uint4 pack(const Chunk& v) {
  return {pack_bf16(v.at[0], v.at[1]), pack_bf16(v.at[2], v.at[3]), pack_bf16(v.at[4], v.at[5]),
          pack_bf16(v.at[6], v.at[7])};
}

// Elements [i, i + 8) of a row of n; zeros beyond its end.
template <bool kVector>
__device__ __forceinline__ Chunk load_chunk(const __nv_bfloat16* row, int i, int n) {
  Chunk v = {};
  if constexpr (kVector) {
    if (i >= n) return v;
    v = unpack(*reinterpret_cast<const uint4*>(row + i));
  } else {
#pragma unroll
    for (int j = 0; j < kChunk; ++j) v.at[j] = i + j < n ? __bfloat162float(row[i + j]) : 0.0f;
  }
  return v;
}

template <bool kVector>
__device__ __forceinline__ Chunk load_chunk(const float* row, int i, int n) {
  Chunk v = {};
  if constexpr (kVector) {
    if (i >= n) return v;
    const float4 a = *reinterpret_cast<const float4*>(row + i);
    const float4 b = *reinterpret_cast<const float4*>(row + i + 4);
    v = {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
  } else {
#pragma unroll
    for (int j = 0; j < kChunk; ++j) v.at[j] = i + j < n ? row[i + j] : 0.0f;
  }
  return v;
}

template <bool kVector>
__device__ __forceinline__ void store_chunk(__nv_bfloat16* row, int i, int n, const Chunk& v) {
  if constexpr (kVector) {
    if (i >= n) return;
    const uint4 packed = pack(v);
    store_16(row + i, packed.x, packed.y, packed.z, packed.w);
  } else {
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      if (i + j < n) row[i + j] = __float2bfloat16(v.at[j]);
    }
  }
}

template <bool kVector>
__device__ __forceinline__ void store_chunk(float* row, int i, int n, const Chunk& v) {
  if constexpr (kVector) {
    if (i >= n) return;
    store_16(row + i, __float_as_uint(v.at[0]), __float_as_uint(v.at[1]), __float_as_uint(v.at[2]),
             __float_as_uint(v.at[3]));
    store_16(row + i + 4, __float_as_uint(v.at[4]), __float_as_uint(v.at[5]), __float_as_uint(v.at[6]),
             __float_as_uint(v.at[7]));
  } else {
#pragma unroll
    for (int j = 0; j < kChunk; ++j) {
      if (i + j < n) row[i + j] = v.at[j];
    }
  }
}

}  // namespace skein::cuda
