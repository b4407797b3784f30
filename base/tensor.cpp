#include "base/tensor.h"

#include <algorithm>

#include "base/check.h"

namespace skein {

const FormatInfo& info(Format format) {
  static constexpr FormatInfo kInfo[] = {
      {"F32", 1, 4},   {"F16", 1, 2},   {"BF16", 1, 2},    {"Q8_0", 32, 34},
      {"Q4_0", 32, 18}, {"Q4_1", 32, 20}, {"I8_BLOCK32", 32, 64}, {"I32", 1, 4},
  };
  return kInfo[static_cast<size_t>(format)];
}

int64_t row_bytes(Format format, int64_t columns) {
  const FormatInfo& format_info = info(format);
  CHECK_GE(columns, 0);
  CHECK_EQ(columns % format_info.block_elements, 0);
  return columns / format_info.block_elements * format_info.block_bytes;
}

Tensor rows_from(Tensor tensor, int64_t first, int64_t rows) {
  if (tensor.data != nullptr) {
    tensor.data = static_cast<std::byte*>(tensor.data) + first * row_bytes(tensor.format, tensor.row_stride);
  }
  tensor.rows = std::min(rows, tensor.rows - first);
  return tensor;
}

}  // namespace skein
