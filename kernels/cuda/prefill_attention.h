#pragma once

#include "kernels/cuda/device.h"

namespace skein::cuda {

// Whether prefill_attention() serves these arguments: bf16, head_dim 64 or 128, pages of 16, 32 or 64 tokens, no tree
// mask.
bool prefill_attention_fits(const AttentionArgs& args);

// Attention of the rows [first_row, args.step.rows), each with any number of queries, whose keys and values, the
// queries' own included, are in the pages already. f32 softmax and accumulation; probabilities are rounded to bf16.
// out (tokens, q_heads * head_dim) bf16: rows of other tokens are left alone; a padding row gets zeros. out must not
// overlap q. The same arguments give the same bits. step.query_begin_host is read during the call, so the launch can be
// recorded only for steps with the same query counts. Uses counters()[0]. Not for replays with other counts of queries.
// FlashAttention-3 (Shah et al., 2024): TMA, warp specialisation, two warpgroups that take turns at the tensor cores.
void prefill_attention(CudaDevice& device, const AttentionArgs& args, int first_row);

}  // namespace skein::cuda
