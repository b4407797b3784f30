#pragma once

#include "kernels/cuda/device.h"

namespace skein::cuda {

// Batch-invariant products: a token's row of the result is bitwise the same whatever the other tokens are, however
// many and wherever among them it stands. An element is one chain of tensor-core products, K rising by 16, in one f32
// accumulator; nothing is split over K and summed up later. Weights take the M side of wgmma and tokens the N side at
// every number of tokens, so that only the width N differs, on which an element's bits do not depend
// (gpu_invariant_test looks at every width).
//
// Up to 64 tokens a block streams tiles of up to 64 outputs through a ring of most of its shared memory, as
// narrow_linear does; beyond, tiles are up to 128 outputs by 64 to 256 tokens. From 17 tokens on, the two blocks of a
// cluster have the same tokens and read half of them each, for both. SwiGLU is in the epilogue: groups of eight gate
// rows and their up rows alternate in shared memory, which puts both values of a pair into one thread.

// Whether the copy engine can read the operands: rows of whole 16-byte chunks at 16-byte addresses. The answer must
// depend on nothing that changes with the number of tokens.
bool invariant_linear_fits(const Tensor& x, const Tensor& weight);
// Also with SwiGLU: a multiple of eight pairs.
bool invariant_gated_fits(const Tensor& x, const Tensor& weight);

// How the outputs (pairs of them, if gated) and tokens of a product are cut.
struct InvariantPlan {
  int tokens = 0;       // of a tile: 8, 16, 32, 64, 128 or 256
  int warpgroups = 1;   // with 64 rows of weights each: 1 up to 64 tokens, 2 with 256
  int tile_rows = 0;    // rows of weights of a tile, a multiple of 8 (16 if gated) up to 64 for each warpgroup
  int row_tiles = 0;
  int token_tiles = 0;
  int blocks = 0;  // of the grid
};
InvariantPlan plan_invariant(const Tensor& x, const Tensor& weight, bool gated, int multiprocessors);

// Any number of tokens. out bf16 or f32; gated: bf16.
void invariant_linear(CudaDevice& device, const LinearArgs& args, const InvariantPlan& plan);
void invariant_gated_linear(CudaDevice& device, const GatedLinearArgs& args, const InvariantPlan& plan);

}  // namespace skein::cuda
