#pragma once

#include "kernels/cuda/ptx.cuh"

// Norm and rotation of one head by the lanes of a warp, shared by rope_append and the fused decode kernel so that both
// give the same bits.

namespace skein::cuda {

// kWidth neighbouring bf16 elements, loaded and stored at once.
template <int kWidth>
struct Bf16Vector;

template <>
struct Bf16Vector<8> {
  uint4 bits;
  __device__ __forceinline__ void unpack(float (&x)[8]) const {
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = low_bf16(words[i]);
      x[2 * i + 1] = high_bf16(words[i]);
    }
  }
  __device__ __forceinline__ static Bf16Vector pack(const float (&x)[8]) {
    return {{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])}};
  }
};

template <>
struct Bf16Vector<1> {
  uint16_t bits;
  __device__ __forceinline__ void unpack(float (&x)[1]) const {
    x[0] = __uint_as_float(static_cast<uint32_t>(bits) << 16);
  }
  __device__ __forceinline__ static Bf16Vector pack(const float (&x)[1]) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(x[0]))};
  }
};

// Pair vector i of a head: the elements [low, low + width) and [high, high + width). Below rotary_dim these are each
// other's partners in the rotation; above they are neighbours that are left as they are.
struct PairVector {
  int low;
  int high;
  bool rotated;
};

__device__ __forceinline__ PairVector pair_vector(int index, int width, int rotary_half) {
  const int first = index * width;
  if (first < rotary_half) return {first, first + rotary_half, true};
  return {2 * first, 2 * first + width, false};
}

// (cos, sin) of the vector's pairs: `row` is the position's row of the table, aligned to kWidth pairs.
template <int kWidth>
__device__ __forceinline__ void load_rotation(const float* row, const PairVector& at, float (&cos_sin)[2 * kWidth]) {
  if constexpr (kWidth == 8) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 two =
          at.rotated ? reinterpret_cast<const float4*>(row + 2 * at.low)[i] : make_float4(1, 0, 1, 0);
      cos_sin[4 * i] = two.x;
      cos_sin[4 * i + 1] = two.y;
      cos_sin[4 * i + 2] = two.z;
      cos_sin[4 * i + 3] = two.w;
    }
  } else {
    static_assert(kWidth == 1);
    cos_sin[0] = at.rotated ? row[2 * at.low] : 1;
    cos_sin[1] = at.rotated ? row[2 * at.low + 1] : 0;
  }
}

template <int kWidth>
__device__ __forceinline__ void rotate(float (&low)[kWidth], float (&high)[kWidth],
                                       const float (&cos_sin)[2 * kWidth]) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float a = low[i];
    const float b = high[i];
    low[i] = a * cos_sin[2 * i] - b * cos_sin[2 * i + 1];
    high[i] = b * cos_sin[2 * i] + a * cos_sin[2 * i + 1];
  }
}

template <int kWidth>
__device__ __forceinline__ float square_sum(const float (&low)[kWidth], const float (&high)[kWidth]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) sum += low[i] * low[i] + high[i] * high[i];
  return sum;
}

// Over groups of `lanes` lanes, a power of two; by all lanes of the warp.
__device__ __forceinline__ float sum_over_lanes(float value, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffff, value, distance);
  return value;
}

template <int kWidth>
__device__ __forceinline__ void scale_by(float (&x)[kWidth], float scale, const float* weight) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) x[i] = weight[i] * (x[i] * scale);
}

}  // namespace skein::cuda
