#pragma once

#include "kernels/cpu/packed.h"
#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

// out = x W^T for quantised panels and kI8Block32 activations x = dx (256 high + low). With u the unsigned
// weight byte of the panel, w = d u + m (Q4_0: m = -8 d, Q8_0: m = -128 d), so a block of 32 columns contributes
//   (d dx) (exact integer sum of u x)  +  m (dx sum of x),
// two fused multiply-adds per block, blocks in rising order.

namespace skein {
namespace {

// A core alone can't keep enough reads in flight for its share of the memory's bandwidth: what comes next,
// panels lie end to end, is asked for this far ahead.
constexpr int64_t kPrefetchBytes = 12 * 1024;
constexpr int kFewTokens = 4;  // where products wait for weights

struct Int8Tile {
  const uint8_t* panel;  // the first; others follow at panel_stride bytes
  int64_t panel_stride;
  const int8_t* x;       // the first token's; others follow at 64 * blocks bytes
  const float* scales;   // {dx, dx sum}; others follow at 2 * blocks floats
  int64_t blocks;
};

template <Format kFormat, int kPanels, int kTokens>
inline void int8_products(const Int8Tile& tile, Vec (&sums)[kPanels][kTokens]) {
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) sums[p][t] = zero();
  }
  const int64_t scales_at = tile.blocks * panel_quant_bytes(kFormat);
  for (int64_t b = 0; b < tile.blocks; ++b) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* panel = tile.panel + p * tile.panel_stride;
      const uint8_t* quants = panel + b * panel_quant_bytes(kFormat);
      const auto* halves = reinterpret_cast<const uint16_t*>(panel + scales_at +
                                                             b * panel_scale_bytes(kFormat));
      constexpr bool kWide = kFormat == Format::kQ8_0;
      const BlockWeights w = kWide ? load_bytes(quants) : load_nibbles(quants);
      if constexpr (kTokens <= kFewTokens) {
        constexpr int64_t kBytes = panel_quant_bytes(kFormat) + panel_scale_bytes(kFormat);
        for (int64_t line = 0; line < kBytes; line += 64) {
          prefetch(panel + b * kBytes + line + kPrefetchBytes);
        }
      }
      const Vec d = load_f16(halves);
      const Vec m = kFormat == Format::kQ4_1 ? load_f16(halves + kPanelRows)
                                             : mul(d, set1(kWide ? -128.0f : -8.0f));
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        const int8_t* high = tile.x + (t * tile.blocks + b) * 2 * kBlock;
        const int8_t* low = high + kBlock;
        const float* dx = tile.scales + (t * tile.blocks + b) * 2;
        const IntVec coarse = kWide ? dot_bytes(w, high) : dot_nibbles(w, high);
        const IntVec fine = kWide ? dot_bytes(w, low) : dot_nibbles(w, low);
        const Vec products = to_float(int_add(shift_left(coarse, 8), fine));
        sums[p][t] = fma(mul(d, set1(dx[0])), products, sums[p][t]);
        sums[p][t] = fma(m, set1(dx[1]), sums[p][t]);
      }
    }
  }
}

}  // namespace
}  // namespace skein
