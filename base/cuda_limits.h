#pragma once

#include <cstdint>

// What the CUDA backend's kernels take. Plans refuse the rest before anything starts.

namespace skein {

constexpr bool cuda_takes_head_dim(int head_dim) { return head_dim > 0 && head_dim % 8 == 0 && head_dim <= 256; }
inline constexpr int64_t kCudaHiddenMax = 16384;
// Blocks of as many tokens have the fast attention kernels; others a plain one.
constexpr bool cuda_block_is_fast(int64_t tokens) { return tokens == 16 || tokens == 32 || tokens == 64; }

}  // namespace skein
