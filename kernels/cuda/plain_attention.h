#pragma once

#include "kernels/cuda/device.h"

namespace skein::cuda {

// Attention of the rows [first_row, args.step.rows) in the plainest way: one warp for each query and head, f32
// throughout. For what the fast kernels do not serve: any head_dim that is a multiple of 8 up to 256, any group size
// and page size, tree masks; and to compare them with. out bf16; a padding row gets zeros.
void plain_attention(CudaDevice& device, const AttentionArgs& args, int first_row);

}  // namespace skein::cuda
