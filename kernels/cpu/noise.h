#pragma once

#include <cfloat>
#include <cmath>

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/simd.h"
#include "kernels/philox.h"

// Draws by noise: the largest of x / temperature + g, g = -log(-log u) with a uniform u of each token's own (Gumbel),
// is distributed as softmax(x / temperature). One pass, and no sum over the row.

namespace skein {
namespace {

constexpr int kNoiseTokens = 4 * kLanes;  // at a time: a counter in each lane

// Of normal x > 0, to 2^-23 of it (coefficients: Cephes, logf).
inline Vec logarithm(Vec x) {
  const IntVec root_half = int_set1(0x3f3504f3);
  const IntVec shifted = int_sub(as_int(x), root_half);
  const Vec exponent = to_float(shift_right_signed(shifted, 23));
  const Vec f = sub(as_float(int_add(int_and(shifted, int_set1(0x007fffff)), root_half)), set1(1));
  Vec p = set1(7.0376836292e-2f);
  p = fma(p, f, set1(-1.1514610310e-1f));
  p = fma(p, f, set1(1.1676998740e-1f));
  p = fma(p, f, set1(-1.2420140846e-1f));
  p = fma(p, f, set1(1.4249322787e-1f));
  p = fma(p, f, set1(-1.6668057665e-1f));
  p = fma(p, f, set1(2.0000714765e-1f));
  p = fma(p, f, set1(-2.4999993993e-1f));
  p = fma(p, f, set1(3.3333331174e-1f));
  const Vec square = mul(f, f);
  Vec low = mul(p, mul(f, square));
  low = fma(exponent, set1(-2.12194440e-4f), low);
  low = fma(square, set1(-0.5f), low);
  return fma(exponent, set1(0.693359375f), add(f, low));
}

// (bits + 1/2) / 2^32
inline Vec fraction(IntVec bits) {
  const Vec high = to_float(shift_right(bits, 8));
  const Vec low = add(to_float(int_and(bits, int_set1(0xff))), set1(0.5f));
  return fma(low, set1(0x1p-32f), mul(high, set1(0x1p-24f)));
}

// -log(-log u) of u = 1 - v, v being the fraction: the smallest v, which win, are as exact as any.
inline Vec gumbel(IntVec bits) {
  const Vec v = fraction(bits);
  const Vec u = fraction(int_sub(int_set1(-1), bits));
  Vec series = fma(v, set1(1.0f / 5), set1(1.0f / 4));
  series = fma(v, series, set1(1.0f / 3));
  series = fma(v, series, set1(1.0f / 2));
  series = fma(mul(v, v), series, v);
  const Vec far = sub(zero(), logarithm(u));
  return sub(zero(), logarithm(select(not_less(v, set1(0x1p-5f)), far, series)));
}

// Token 4 c + k takes word k of counter c.
inline void noise_of(uint32_t first_counter, uint64_t seed, uint32_t index, float* noise) {
  alignas(64) static constexpr int32_t kRising[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  IntVec c[4] = {int_set1(static_cast<int32_t>(index)),
                 int_add(int_set1(static_cast<int32_t>(first_counter)),
                         as_int(load(reinterpret_cast<const float*>(kRising)))),
                 int_zero(), int_set1(1)};
  auto key0 = static_cast<uint32_t>(seed);
  auto key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    IntVec high0, low0, high1, low1;
    multiply_wide(c[0], kPhiloxM0, &high0, &low0);
    multiply_wide(c[2], kPhiloxM1, &high1, &low1);
    c[0] = int_xor(int_xor(high1, c[1]), int_set1(static_cast<int32_t>(key0)));
    c[1] = low1;
    c[2] = int_xor(int_xor(high0, c[3]), int_set1(static_cast<int32_t>(key1)));
    c[3] = low0;
    key0 += kPhiloxW0;
    key1 += kPhiloxW1;
  }
  float words[4][kLanes];
  for (int k = 0; k < 4; ++k) store(words[k], gumbel(c[k]));
  for (int j = 0; j < kLanes; ++j) {
    for (int k = 0; k < 4; ++k) noise[4 * j + k] = words[k][j];
  }
}

int32_t draw(const float* x, int64_t n, float factor, uint64_t seed, uint32_t index) {
  int32_t drawn = 0;
  float best = -INFINITY;
  for (int64_t begin = 0; begin < n; begin += kNoiseTokens) {
    const int count = static_cast<int>(n - begin < kNoiseTokens ? n - begin : kNoiseTokens);
    float keys[kNoiseTokens];
    noise_of(static_cast<uint32_t>(begin / 4), seed, index, keys);
    Vec highest = set1(-INFINITY);
    for (int i = 0; i < count; i += kLanes) {
      Vec key = min(fma(load_at(x + begin, i, count), set1(factor), load(keys + i)), set1(FLT_MAX));
      if (count - i < kLanes) key = select(first_lanes(count - i), key, set1(-INFINITY));
      store(keys + i, key);
      highest = max(key, highest);
    }
    const float largest = reduce_max(highest);
    if (largest <= best) continue;
    best = largest;
    int at = 0;
    while (keys[at] != largest) ++at;
    drawn = static_cast<int32_t>(begin) + at;
  }
  return drawn;
}

}  // namespace
}  // namespace skein
