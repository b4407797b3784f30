#pragma once

#include "kernels/cpu/packed.h"
#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

// out = x W^T for F32, F16 and BF16 panels and f32 activations. Each element is one chain of fused
// multiply-adds over rising columns, whatever the tile that it falls into.

namespace skein {
namespace {

// With few tokens a core has enough reads in flight by itself; with more it is the products that fill its window, and
// what comes next, panels lie end to end, is asked for this far ahead.
constexpr int kPlainTokensAhead = 3;
constexpr int64_t kPlainPrefetchBytes = 12 * 1024;

template <Format kFormat>
inline Vec load_weights(const uint8_t* panel, int64_t column) {
  if constexpr (kFormat == Format::kF32) {
    return load(reinterpret_cast<const float*>(panel) + column * kPanelRows);
  } else if constexpr (kFormat == Format::kF16) {
    return load_f16(reinterpret_cast<const uint16_t*>(panel) + column * kPanelRows);
  } else {
    return load_bf16(reinterpret_cast<const uint16_t*>(panel) + column * kPanelRows);
  }
}

struct PlainTile {
  const uint8_t* panel;  // the first; others follow at panel_stride bytes
  int64_t panel_stride;
  const float* x;        // the first token's; others follow at x_stride floats
  int64_t x_stride;
  int64_t columns;
};

template <Format kFormat, int kPanels, int kTokens>
inline void plain_products(const PlainTile& tile, Vec (&sums)[kPanels][kTokens]) {
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) sums[p][t] = zero();
  }
  constexpr int64_t kBytes = kPanelRows * (kFormat == Format::kF32 ? 4 : 2);
  for (int64_t k = 0; k < tile.columns; ++k) {
    Vec w[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* panel = tile.panel + p * tile.panel_stride;
      w[p] = load_weights<kFormat>(panel, k);
      if constexpr (kTokens >= kPlainTokensAhead) prefetch_to_second(panel + k * kBytes + kPlainPrefetchBytes);
    }
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const Vec xk = set1(tile.x[t * tile.x_stride + k]);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) sums[p][t] = fma(w[p], xk, sums[p][t]);
    }
  }
}

}  // namespace
}  // namespace skein
