#pragma once

#include <cstdint>

#include "kernels/cuda/device.h"

// Products of up to 32 tokens: bound by reading the weights once, so everything serves an unbroken stream of reads.
//
// A block makes tiles of up to 64 outputs: weights take the M side of wgmma, tokens the N side (8, 16 or 32). One
// thread keeps a ring of most of an SM's shared memory full through the copy engine; two warpgroups multiply half of a
// stage's columns each and add their sums in shared memory. The grid is one block an SM: with two on some SMs, as
// launches that overlap would have it, those decide how long all takes. The ring is filled with weights before the wait
// for the launch before: next to a launch that uses little memory (a norm, attention) up to 27 MB are read ahead.
// From 17 tokens on, two blocks of a cluster read half of the activations each, for both. Blocks that make many tiles
// take them one by one from a counter, for some SMs get more of the memory's rate than others.
//
// Sums are f32. Their order depends on nothing but the number of columns: a token's row of the result is bitwise the
// same whatever the other tokens are and however many.

namespace skein::cuda {

inline constexpr int kNarrowTokensMax = 32;

struct NarrowPlan {
  int tile_rows = 0;  // outputs of a tile, a multiple of 8 up to 64; gated: pairs of a gate and an up row, up to 32
  int tiles = 0;
  int blocks = 0;  // of the grid
};
// rows: outputs, or pairs.
NarrowPlan plan_narrow(int64_t rows, int64_t tokens, bool gated, int multiprocessors);

// Whether the copy engine can read the operands: 16-byte aligned rows of a multiple of 64 columns.
bool narrow_can(const Tensor& x, const Tensor& weight);

// Requires: narrow_can(), 1 to kNarrowTokensMax tokens.
void narrow_linear(CudaDevice& device, const LinearArgs& args, const NarrowPlan& plan);
void narrow_gated_linear(CudaDevice& device, const GatedLinearArgs& args, const NarrowPlan& plan);

}  // namespace skein::cuda
