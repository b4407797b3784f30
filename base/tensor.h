#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace skein {

// How numbers are stored. Block formats hold 32 consecutive elements of a row:
//   kQ8_0 {f16 d; int8 q[32]} 34 B, w = d q          kQ4_0 {f16 d; 16 B} 18 B, w = d (q - 8)
//   kQ4_1 {f16 d; f16 m; 16 B} 20 B, w = d q + m     (low nibbles: elements 0-15, high: 16-31)
// as GGUF defines them. kI8Block32 is an activation format: 32 elements share a scale and are two int8 planes,
//   {int8 high[32]; int8 low[32]} 64 B, x = scale (256 high + low)
// so that int8 instructions multiply what has nearly 16 bits (docs/decisions/0003).
enum class Format : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kI8Block32, kI32 };

// Whose element order a tensor has: rows one after another, or what a backend's pack_linear made.
enum class Layout : uint8_t { kRowMajor, kPacked };

struct FormatInfo {
  std::string_view name;
  int block_elements;  // elements that share a block; 1 for plain formats
  int block_bytes;
};
const FormatInfo& info(Format format);

// Bytes of one row-major row of `columns` elements. Requires: columns >= 0 and a multiple of the block.
int64_t row_bytes(Format format, int64_t columns);

// A matrix in some device's memory; does not own it. Activations: rows = tokens, columns = features.
// Linear weights: rows = output features, columns = input features. Vectors have one row.
struct Tensor {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  Format format = Format::kF32;
  Layout layout = Layout::kRowMajor;
  int64_t row_stride = 0;  // elements from row to row; of plain formats
  void* scales = nullptr;  // kI8Block32: f32 {scale, scale * sum of the block} (rows, columns / 32, 2)
};

// `rows` rows from `first` on, or what is left of them. Of plain formats; null stays null.
Tensor rows_from(Tensor tensor, int64_t first, int64_t rows);

}  // namespace skein
