#pragma once

#include <cstddef>
#include <cstdint>

#include "base/tensor.h"

namespace skein {

// The values of one row-major row as float32, each computed as GGML's reference does. `row` needs
// no alignment. Requires: a weight format (F32, F16, BF16, Q8_0, Q4_0, Q4_1); columns a multiple of
// its block.
void dequantize_row(Format format, const std::byte* row, int64_t columns, float* out);

}  // namespace skein
