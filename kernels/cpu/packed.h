#pragma once

#include <cstdint>

#include "base/tensor.h"

// Packed linear weights: panels of 16 output rows, one after another, each 64-byte aligned; rows beyond
// the matrix are zero. Within a panel
//   F32, F16, BF16: [column][row of 16]
//   Q8_0: [block]{[column / 4 of 8][row][column % 4] u8 = q + 128}, then [block]{f16 d [row]}
//   Q4_x: [block]{[byte / 4 of 4][row][byte % 4] as GGUF's nibbles}, then [block]{f16 d [row], Q4_1: f16 m [row]}
// A weight takes as many bits as in its file.

namespace skein {

inline constexpr int kPanelRows = 16;
inline constexpr int kBlock = 32;  // columns that share a scale

constexpr bool is_block_format(Format format) {
  return format == Format::kQ8_0 || format == Format::kQ4_0 || format == Format::kQ4_1;
}

// Bytes of the 16 rows' quantised values of one block, and of their scales.
constexpr int64_t panel_quant_bytes(Format format) {
  return kPanelRows * (format == Format::kQ8_0 ? kBlock : kBlock / 2);
}
constexpr int64_t panel_scale_bytes(Format format) {
  return kPanelRows * (format == Format::kQ4_1 ? 4 : 2);
}

constexpr int64_t panel_bytes(Format format, int64_t columns) {
  int64_t bytes = 0;
  if (is_block_format(format)) {
    bytes = columns / kBlock * (panel_quant_bytes(format) + panel_scale_bytes(format));
  } else {
    bytes = columns * kPanelRows * (format == Format::kF32 ? 4 : 2);
  }
  return (bytes + 63) / 64 * 64;
}

constexpr int64_t panel_count(int64_t rows) { return (rows + kPanelRows - 1) / kPanelRows; }

}  // namespace skein
