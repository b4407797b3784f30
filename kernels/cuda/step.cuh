#pragma once

#include <cstdint>

namespace skein::cuda {

// The row of a token of the step: the last one that begins at or before it. By all lanes of a warp.
__device__ inline int row_of(const int32_t* query_begin, int rows, int decode_rows, int token) {
  if (token < decode_rows) return token;
  int before = 0;
  for (int row = static_cast<int>(threadIdx.x % 32); row < rows; row += 32) before += query_begin[row] <= token;
  return __reduce_add_sync(0xffffffff, before) - 1;
}

}  // namespace skein::cuda
