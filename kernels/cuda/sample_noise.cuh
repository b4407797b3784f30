#pragma once

#include "kernels/cuda/sample_row.cuh"
#include "kernels/philox.h"

// Draws by noise, as the CPU's (kernels/cpu/noise.h), with the device's fast logarithms: two tokens would have to be
// within 2^-16 of each other in logit / temperature + noise for both to choose differently.

namespace skein::cuda {

// Philox4x32-10.
__device__ __forceinline__ uint4 philox(uint64_t seed, uint4 c) {
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t a = uint64_t{kPhiloxM0} * c.x;
    const uint64_t b = uint64_t{kPhiloxM1} * c.z;
    c = make_uint4(static_cast<uint32_t>(b >> 32) ^ c.y ^ key0, static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ c.w ^ key1, static_cast<uint32_t>(a));
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  return c;
}

__device__ __forceinline__ float gumbel(uint32_t bits) {
  constexpr float kLn2 = 0.693147182f;
  const float v = fmaf(__uint2float_rn(bits), 0x1p-32f, 0x1p-33f);
  const float u = fmaf(__uint2float_rn(~bits), 0x1p-32f, 0x1p-33f);
  float series = fmaf(v, 1.0f / 5, 1.0f / 4);
  series = fmaf(v, series, 1.0f / 3);
  series = fmaf(v, series, 1.0f / 2);
  series = fmaf(v * v, series, v);
  return -kLn2 * __log2f(v < 0x1p-5f ? series : -kLn2 * __log2f(u));
}

// How a row is drawn.
struct Draw {
  float factor;  // 1 / temperature
  uint64_t seed;
  uint32_t index;
};

__device__ __forceinline__ Draw draw_of(const SlotSampling& s, int32_t known) {
  return {.factor = __fdiv_rn(1.0f, s.temperature),
          .seed = s.seed,
          .index = static_cast<uint32_t>(known - s.prompt_tokens)};
}

// What the four tokens from `token` on, a multiple of four, have with their noise; at most FLT_MAX.
__device__ __forceinline__ float4 with_noise(const Draw& draw, int token, const float4& x) {
  const uint4 bits = philox(draw.seed, make_uint4(draw.index, static_cast<uint32_t>(token) / 4, 0, 1));
  const auto key = [&](float logit, uint32_t word) {
    return fminf(fmaf(logit, draw.factor, gumbel(word)), FLT_MAX);
  };
  return {key(x.x, bits.x), key(x.y, bits.y), key(x.z, bits.z), key(x.w, bits.w)};
}

}  // namespace skein::cuda
