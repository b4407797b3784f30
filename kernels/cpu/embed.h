#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/simd.h"

// Rows of an embedding table, in its file's layout or packed (a table tied to the output weights is kept
// once). One token is one row, so this is short and scalar but for the conversions.

namespace skein {
namespace {

inline float half_to_float(uint16_t half) { return _cvtsh_ss(half); }

inline uint16_t load_u16(const uint8_t* p) {
  uint16_t value;
  __builtin_memcpy(&value, p, sizeof(value));
  return value;
}

inline float plain_element(Format format, const uint8_t* p) {
  if (format == Format::kF16) return half_to_float(load_u16(p));
  uint32_t bits;
  if (format == Format::kBF16) {
    bits = static_cast<uint32_t>(load_u16(p)) << 16;
  } else {
    __builtin_memcpy(&bits, p, sizeof(bits));
  }
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// Where the pieces of one row are: quantised byte j of a block at quants[j / 4 * step + j % 4].
struct BlockRow {
  const uint8_t* quants;
  int64_t quant_stride;  // from block to block
  int64_t step;          // from four bytes to the next four
  const uint8_t* scales; // d, then m at min_offset
  int64_t scale_stride;
  int64_t min_offset;
  int offset;            // what was added to a Q8_0 byte
};

inline BlockRow packed_row(const Tensor& table, int64_t row) {
  const int64_t lane = row % kPanelRows;
  const auto* panel = static_cast<const uint8_t*>(table.data) +
                      row / kPanelRows * panel_bytes(table.format, table.columns);
  const int64_t quants = panel_quant_bytes(table.format);
  return {panel + lane * 4, quants, 4 * kPanelRows,
          panel + table.columns / kBlock * quants + lane * 2, panel_scale_bytes(table.format),
          2 * kPanelRows, 128};
}

inline BlockRow file_row(const Tensor& table, int64_t row) {
  const int64_t header = table.format == Format::kQ4_1 ? 4 : 2;
  const int64_t bytes = header + (table.format == Format::kQ8_0 ? kBlock : kBlock / 2);
  const auto* data = static_cast<const uint8_t*>(table.data) + row * (table.columns / kBlock) * bytes;
  return {data + header, bytes, 4, data, bytes, 2, 0};
}

inline void embed_blocks(const BlockRow& row, Format format, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b, out += kBlock) {
    const uint8_t* quants = row.quants + b * row.quant_stride;
    const uint8_t* scales = row.scales + b * row.scale_stride;
    const float d = half_to_float(load_u16(scales));
    const float m = format == Format::kQ4_1 ? half_to_float(load_u16(scales + row.min_offset)) : 0.0f;
    for (int j = 0; j < kBlock; ++j) {
      if (format == Format::kQ8_0) {
        const int byte = quants[j / 4 * row.step + j % 4];
        out[j] = d * static_cast<float>(row.offset != 0 ? byte - row.offset
                                                         : static_cast<int8_t>(byte));
        continue;
      }
      const int low = j % 16;
      const int byte = quants[low / 4 * row.step + low % 4];
      const int nibble = j < 16 ? byte & 15 : byte >> 4;
      out[j] = format == Format::kQ4_0 ? d * static_cast<float>(nibble - 8)
                                       : d * static_cast<float>(nibble) + m;
    }
  }
}

inline void embed_plain(const Tensor& table, int64_t row, float* out) {
  const int64_t bytes = table.format == Format::kF32 ? 4 : 2;
  const auto* data = static_cast<const uint8_t*>(table.data);
  int64_t step = bytes;
  if (table.layout == Layout::kPacked) {
    data += row / kPanelRows * panel_bytes(table.format, table.columns) + row % kPanelRows * bytes;
    step = kPanelRows * bytes;
  } else {
    data += row * table.row_stride * bytes;
  }
  for (int64_t i = 0; i < table.columns; ++i) out[i] = plain_element(table.format, data + i * step);
}

void embed(const EmbedArgs& args, Range tokens) {
  const Tensor& table = args.table;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    float* out = static_cast<float*>(args.out.data) + t * args.out.row_stride;
    const int64_t row = args.token_ids[t] - args.first_token;
    if (row < 0 || row >= table.rows) {
      for (int64_t i = 0; i < table.columns; ++i) out[i] = 0;
    } else if (is_block_format(table.format)) {
      const BlockRow blocks =
          table.layout == Layout::kPacked ? packed_row(table, row) : file_row(table, row);
      embed_blocks(blocks, table.format, table.columns / kBlock, out);
    } else {
      embed_plain(table, row, out);
    }
  }
}

}  // namespace
}  // namespace skein
