#pragma once

#include "kernels/cuda/device.h"

namespace skein::cuda {

// Products of any number of tokens. A block streams weights through a ring of most of its shared memory; they take the
// M side of wgmma, tokens the N side. From 17 tokens on, the two blocks of a cluster have the same tokens and read half
// of them each, for both. SwiGLU is in the epilogue: groups of eight gate rows and their up rows alternate in shared
// memory, which puts both values of a pair into one thread.
//
// Two ways to cut a product:
// - plan_invariant(): a token's row of the result is bitwise the same whatever the other tokens are, however many and
//   wherever among them it stands. An element is one chain of tensor-core products, K rising by 16, in one f32
//   accumulator; only the width N differs, on which an element's bits do not depend (gpu_invariant_test looks at every
//   width).
// - plan_streaming(): up to 128 tokens, in tiles of many outputs, since a multiprocessor can take in little more than
//   its share of what memory gives, and activations that come again with every tile are part of that. A product of few
//   outputs has such tiles for all multiprocessors if two of them take half of the columns each; the second to end
//   adds up both. A token's bits are then not those of other cuts.

// Whether the copy engine can read the operands: rows of whole 16-byte chunks at 16-byte addresses. The answer must
// depend on nothing that changes with the number of tokens.
bool tiled_linear_fits(const Tensor& x, const Tensor& weight);
// Also with SwiGLU: a multiple of eight pairs.
bool tiled_gated_fits(const Tensor& x, const Tensor& weight);

// How the outputs (pairs of them, if gated), columns and tokens of a product are cut.
struct TiledPlan {
  int tokens = 0;       // of a tile: 8, 16, 32, 64, 128 or 256
  int warpgroups = 1;   // with up to 64 rows of weights each: 1 up to 32 tokens, 2 with 256
  int splits = 1;       // blocks that take a part of the columns each: 2 only with 32, 64 or 128 tokens
  int tile_rows = 0;    // rows of weights of a tile, a multiple of 8 (16 if gated)
  int row_tiles = 0;
  int token_tiles = 0;
  int blocks = 0;  // of the grid
};
TiledPlan plan_invariant(const Tensor& x, const Tensor& weight, bool gated, int multiprocessors);

inline constexpr int kStreamingTokensMax = 128;
// Columns enough for two parts, and not so many outputs that there are tiles enough without.
bool splits_fit(const Tensor& weight);
TiledPlan plan_streaming(const Tensor& x, const Tensor& weight, bool gated, int splits, int multiprocessors);

// out bf16 or f32; gated: bf16.
void tiled_linear(CudaDevice& device, const LinearArgs& args, const TiledPlan& plan);
void tiled_gated_linear(CudaDevice& device, const GatedLinearArgs& args, const TiledPlan& plan);

}  // namespace skein::cuda
