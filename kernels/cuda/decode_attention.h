#pragma once

#include "kernels/cuda/device.h"

namespace skein::cuda {

// Whether decode_attention() serves these arguments: bf16, head_dim 64 or 128, at most 16 q heads per KV head, pages of
// 16, 32 or 64 tokens, no tree mask.
bool decode_attention_fits(const AttentionArgs& args);

// Whether it can also do what args.append asks for in the same launch: a rotation in whole vectors of 8 elements, every
// KV head read by some q head.
bool decode_attention_fuses_append(const AttentionArgs& args);

// Attention of the rows [0, args.step.decode_rows), of one query each; a padding row (position -1) gets zeros. f32
// softmax and accumulation; probabilities are rounded to bf16. out (tokens, q_heads * head_dim) bf16, must not overlap
// q.
//
// `append`: with rotation and append in the same launch. Then the launch right before must not be the one that writes
// positions, slots, the block table or the pages of earlier tokens: these are read before it has ended.
//
// Keys are cut into chunks by the row's own length, and chunks are folded in order: a row's output is the same bits
// whatever the rest of the batch, and the same with and without `append`. The grid depends on the number of rows alone.
//
// XQA (TensorRT-LLM): the q heads of a KV head are the narrow side of the products. A warp of a block feeds a ring of
// tiles by TMA; four warps take 16 tokens of each tile.
void decode_attention(CudaDevice& device, const AttentionArgs& args, bool append);

}  // namespace skein::cuda
