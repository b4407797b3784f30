#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/simd.h"

// Passes over one row of logits.

namespace skein {
namespace {

constexpr int64_t kSumSpan = 1024;  // floats summed in f32 before they go into a double

RowMaximum maximum(const float* x, int64_t n) {
  Vec highest = set1(-__builtin_inff());
  uint32_t nan_lanes = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = lanes_at(i, n);
    Vec a = load_at(x, i, n);
    if (lanes < kLanes) a = select(first_lanes(lanes), a, set1(-__builtin_inff()));
    nan_lanes |= bits_of(unordered(a));
    highest = max(a, highest);
  }
  const float value = reduce_max(highest);
  return {value, nan_lanes == 0 && value < __builtin_inff() && value > -__builtin_inff()};
}

double exp_sum(const float* x, int64_t n, float max) {
  const Vec top = set1(max);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kSumSpan) {
    const int64_t end = n - begin < kSumSpan ? n : begin + kSumSpan;
    Vec sum = zero();
    for (int64_t i = begin; i < end; i += kLanes) {
      Vec e = exp(sub(load_at(x, i, end), top));
      if (end - i < kLanes) e = select(first_lanes(lanes_at(i, end)), e, zero());
      sum = add(sum, e);
    }
    total += static_cast<double>(reduce_add(sum));
  }
  return total;
}

int64_t count_not_less(const float* x, int64_t n, float bound) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const uint32_t bits = bits_of(not_less(load_at(x, i, n), set1(bound)));
    count += __builtin_popcount(bits & ((1u << lanes_at(i, n)) - 1));
  }
  return count;
}

int64_t find_not_less(const float* x, int64_t begin, int64_t n, float bound) {
  for (int64_t i = begin; i < n; i += kLanes) {
    const uint32_t bits = bits_of(not_less(load_at(x, i, n), set1(bound)));
    const uint32_t valid = bits & ((1u << lanes_at(i, n)) - 1);
    if (valid != 0) return i + __builtin_ctz(valid);
  }
  return n;
}

double sum(const float* x, int64_t n) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kSumSpan) {
    const int64_t end = n - begin < kSumSpan ? n : begin + kSumSpan;
    Vec lanes = zero();
    for (int64_t i = begin; i < end; i += kLanes) lanes = add(lanes, load_at(x, i, end));
    total += static_cast<double>(reduce_add(lanes));
  }
  return total;
}

void exp_row(float* out, const float* x, int64_t n, float max, float factor) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec scaled = mul(sub(load_at(x, i, n), set1(max)), set1(factor));
    store_at(out, exp(scaled), i, n);
  }
}

}  // namespace
}  // namespace skein
