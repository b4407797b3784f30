#pragma once

#include <cstdint>

// The largest of a row of logits as one integer that atomics can raise: the order of its value, then ~token, so that
// the smaller token wins ties, and a NaN wins over all. Never 0. Products write them, the sampler reads them.

namespace skein::cuda {

inline constexpr int kLargestTokensMax = 16;  // of a product that writes them: up to here ours alone multiply

// Floats as integers in the same order; zeros are equal.
__device__ __forceinline__ uint32_t order_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of(uint32_t order) {
  return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

__device__ __forceinline__ uint64_t largest_key(float value, int32_t token) {
  const uint32_t order = value == value ? order_of(value) : 0xffffffff;
  return uint64_t{order} << 32 | ~static_cast<uint32_t>(token);
}
__device__ __forceinline__ float value_of_key(uint64_t key) { return value_of(static_cast<uint32_t>(key >> 32)); }
__device__ __forceinline__ int32_t token_of_key(uint64_t key) { return static_cast<int32_t>(~key); }

// Raises *largest, which lane 0 has seen at `known`, to the largest key of the warp's `lanes`, all of which call it;
// lane 0 is one of them. Tens of thousands of atomics on one word would take longer than all else does.
__device__ __forceinline__ void raise_largest(uint64_t* largest, uint64_t known, uint64_t key, uint32_t lanes) {
  const auto order = static_cast<uint32_t>(key >> 32);
  const uint32_t top = __reduce_max_sync(lanes, order);
  const uint32_t low = __reduce_max_sync(lanes, order == top ? static_cast<uint32_t>(key) : 0);
  const uint64_t most = uint64_t{top} << 32 | low;
  if (threadIdx.x % 32 == 0 && most > known) atomicMax(reinterpret_cast<unsigned long long*>(largest), most);
}

}  // namespace skein::cuda
