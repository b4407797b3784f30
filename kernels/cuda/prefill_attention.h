#pragma once

#include "kernels/cuda/device.h"

namespace skein::cuda {

// Whether prefill_attention() serves these arguments: bf16, head_dim 64 or 128, pages of 16, 32 or 64 tokens, no tree
// mask, at most 2048 rows and 2048 blocks of 128 queries (a row's last block may be short).
bool prefill_attention_fits(const AttentionArgs& args);

// How many of the rows from first_row on one launch takes: at least one, even if that is longer than a launch.
int prefill_attention_rows(const StepView& step, int first_row);

// Attention of the rows [first_row, args.step.rows), each with any number of queries, whose keys and values, the
// queries' own included, are in the pages already. f32 softmax and accumulation; probabilities are rounded to bf16.
// out (tokens, q_heads * head_dim) bf16: rows of other tokens are left alone; a padding row (slot -1) gets zeros. out
// must not overlap q. The same arguments give the same bits. On a deterministic device a query's bits depend on what it
// and its keys are alone: not on the chunk that it came in, nor on the other rows.
// The grid follows step.query_begin_host, so a recorded launch serves only steps with the same counts of queries;
// positions, slots and block tables are read on the device, before the launch before this one is complete: what wrote
// them must be further back. Uses counters() and scratch().
// After FlashAttention-3 (Shah et al., 2024): TMA, warp specialisation, products under the softmax.
void prefill_attention(CudaDevice& device, const AttentionArgs& args, int first_row);

}  // namespace skein::cuda
