#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/linear_int8.h"
#include "kernels/cpu/linear_plain.h"

// Walks the tiles of a product: for a slab of tokens that stays in the second-level cache, every panel;
// for every panel, the slab's tokens in register tiles.

namespace skein {
namespace {

constexpr int kTileTokens = kManyRegisters ? 8 : 4;
constexpr int64_t kSlabTokens = 64;

template <int kPanels, int kTokens>
inline void store_tile(const LinearArgs& args, int64_t panel, int64_t token,
                       const Vec (&sums)[kPanels][kTokens]) {
#pragma GCC unroll 8
  for (int p = 0; p < kPanels; ++p) {
    const int64_t row = (panel + p) * kPanelRows;
    const int64_t left = args.weight.rows - row;
    const int lanes = left < kLanes ? static_cast<int>(left) : kLanes;
    float* out = static_cast<float*>(args.out.data) + token * args.out.row_stride + row;
    const Vec bias = args.bias == nullptr ? zero() : load_n(args.bias + row, lanes);
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
      const Vec value = args.bias == nullptr ? sums[p][t] : add(sums[p][t], bias);
      if (lanes == kLanes) {
        store(out + t * args.out.row_stride, value);
      } else {
        store_n(out + t * args.out.row_stride, value, lanes);
      }
    }
  }
}

template <Format kFormat, int kPanels, int kTokens>
void linear_tile(const LinearArgs& args, int64_t panel, int64_t token) {
  const int64_t columns = args.weight.columns;
  const int64_t stride = panel_bytes(kFormat, columns);
  const uint8_t* weights = static_cast<const uint8_t*>(args.weight.data) + panel * stride;
  Vec sums[kPanels][kTokens];
  if constexpr (is_block_format(kFormat)) {
    const int64_t blocks = columns / kBlock;
    const Int8Tile tile = {weights, stride, static_cast<const int8_t*>(args.x.data) + token * columns * 2,
                           static_cast<const float*>(args.x.scales) + token * blocks * 2, blocks};
    int8_products<kFormat>(tile, sums);
  } else {
    const PlainTile tile = {weights, stride,
                            static_cast<const float*>(args.x.data) + token * args.x.row_stride,
                            args.x.row_stride, columns};
    plain_products<kFormat>(tile, sums);
  }
  store_tile(args, panel, token, sums);
}

using TileFunction = void (*)(const LinearArgs&, int64_t panel, int64_t token);

// How many panels one tile takes: enough independent chains for few tokens, few enough registers for many.
template <Format kFormat>
constexpr int panels_per_tile(int tokens) {
  if (is_block_format(kFormat)) return 1;
  if (tokens == 1) return 4;
  return kManyRegisters || tokens <= 3 ? 2 : 1;
}

struct TileFunctions {
  TileFunction wide[kTileTokens + 1];    // panels_per_tile panels
  TileFunction single[kTileTokens + 1];  // one panel
};

template <Format kFormat, int kTokens>
constexpr void fill_tile_functions(TileFunctions* out) {
  out->wide[kTokens] = linear_tile<kFormat, panels_per_tile<kFormat>(kTokens), kTokens>;
  out->single[kTokens] = linear_tile<kFormat, 1, kTokens>;
  if constexpr (kTokens > 1) fill_tile_functions<kFormat, kTokens - 1>(out);
}

template <Format kFormat>
constexpr TileFunctions tile_functions() {
  TileFunctions out = {};
  fill_tile_functions<kFormat, kTileTokens>(&out);
  return out;
}

template <Format kFormat>
void linear_slab(const LinearArgs& args, Range panels, Range tokens) {
  static constexpr TileFunctions kTiles = tile_functions<kFormat>();
  const int64_t count = tokens.end - tokens.begin;
  const int step = count < kTileTokens ? static_cast<int>(count) : kTileTokens;
  const int wide = panels_per_tile<kFormat>(step);
  for (int64_t panel = panels.begin; panel < panels.end;) {
    const int taken = panels.end - panel >= wide ? wide : 1;
    for (int64_t token = tokens.begin; token < tokens.end; token += kTileTokens) {
      const int64_t left = tokens.end - token;
      const int tile_tokens = left < kTileTokens ? static_cast<int>(left) : kTileTokens;
      if (taken > 1 && panels_per_tile<kFormat>(tile_tokens) == taken) {
        kTiles.wide[tile_tokens](args, panel, token);
      } else {
        for (int p = 0; p < taken; ++p) kTiles.single[tile_tokens](args, panel + p, token);
      }
    }
    panel += taken;
  }
}

template <Format kFormat>
void linear_format(const LinearArgs& args, Range panels, Range tokens) {
  for (int64_t begin = tokens.begin; begin < tokens.end; begin += kSlabTokens) {
    const int64_t end = tokens.end - begin < kSlabTokens ? tokens.end : begin + kSlabTokens;
    linear_slab<kFormat>(args, panels, {begin, end});
  }
}

void linear(const LinearArgs& args, Range panels, Range tokens) {
  switch (args.weight.format) {
    case Format::kF32: return linear_format<Format::kF32>(args, panels, tokens);
    case Format::kF16: return linear_format<Format::kF16>(args, panels, tokens);
    case Format::kBF16: return linear_format<Format::kBF16>(args, panels, tokens);
    case Format::kQ8_0: return linear_format<Format::kQ8_0>(args, panels, tokens);
    case Format::kQ4_0: return linear_format<Format::kQ4_0>(args, panels, tokens);
    case Format::kQ4_1: return linear_format<Format::kQ4_1>(args, panels, tokens);
    case Format::kI8Block32:
    case Format::kI32: break;  // refused by the launcher
  }
}

}  // namespace
}  // namespace skein
