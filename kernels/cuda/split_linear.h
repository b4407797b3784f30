#pragma once

#include "kernels/cuda/device.h"

namespace skein::cuda {

// Products of 17 to 128 tokens. A multiprocessor can take in little more than its share of what memory gives, so
// activations must not be read again and again, as many tiles of few weights would: four blocks of a cluster make a
// tile of many outputs together, each from a quarter of the columns. Then each adds up a quarter of the tokens, whose
// parts the others store into its shared memory, while weights of the next tile come in.
//
// Sums are f32, their order depends on the number of columns alone: a token's row of the result is bitwise the same
// whatever the other tokens are and however many.

inline constexpr int kSplitTokensMax = 128;

// Rows that the copy engine can read, more than 192 columns; gated: a multiple of eight pairs.
bool split_linear_fits(const Tensor& x, const Tensor& weight, bool gated);

// How a product is cut.
struct SplitPlan {
  int tokens = 0;       // of a tile: 32, 64 or 128
  int warpgroups = 0;   // with up to 64 rows of weights each: 2 or 3, with 128 tokens 2
  int tile_rows = 0;    // rows of weights of a tile, a multiple of 8 (16 if gated)
  int tiles = 0;
  int clusters = 0;
};
SplitPlan plan_split(const Tensor& x, const Tensor& weight, bool gated, int multiprocessors);

// Require: split_linear_fits(), up to kSplitTokensMax tokens. out bf16 or f32; gated: bf16.
void split_linear(CudaDevice& device, const LinearArgs& args, const SplitPlan& plan);
void split_gated_linear(CudaDevice& device, const GatedLinearArgs& args, const SplitPlan& plan);

}  // namespace skein::cuda
