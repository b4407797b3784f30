#include "kernels/cpu/pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace skein {
namespace {

uint16_t load_u16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

float half_to_float(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int mantissa = half & 1023;
  float value = 0;
  if (exponent == 31) {
    value = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    value = std::bit_cast<float>(static_cast<uint32_t>(exponent + 112) << 23 |
                                 static_cast<uint32_t>(mantissa) << 13);
  }
  return (half & 0x8000) != 0 ? -value : value;
}

uint16_t float_to_bf16(float value) {
  if (std::isnan(value)) return 0x7fc0;
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Nearest even; beyond 65504 infinity.
uint16_t float_to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (std::isnan(value)) return sign | 0x7e00;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) {  // below the normal halves: multiples of 2^-24
    return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
  }
  const uint32_t rounded = (bits & 0x7fffffff) + 0xfff + (bits >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded - (112u << 23)) >> 13);
}

// Element i of a row in a file's format.
float element(Format format, const uint8_t* row, int64_t i) {
  if (format == Format::kF32) {
    float value;
    std::memcpy(&value, row + 4 * i, sizeof(value));
    return value;
  }
  if (format == Format::kF16) return half_to_float(load_u16(row + 2 * i));
  if (format == Format::kBF16) {
    return std::bit_cast<float>(static_cast<uint32_t>(load_u16(row + 2 * i)) << 16);
  }
  const uint8_t* block = row + i / kBlock * info(format).block_bytes;
  const int64_t j = i % kBlock;
  const float d = half_to_float(load_u16(block));
  if (format == Format::kQ8_0) return d * static_cast<float>(static_cast<int8_t>(block[2 + j]));
  const int64_t header = format == Format::kQ4_1 ? 4 : 2;
  const int byte = block[header + j % 16];
  const int nibble = j < 16 ? byte & 15 : byte >> 4;
  if (format == Format::kQ4_0) return d * static_cast<float>(nibble - 8);
  return d * static_cast<float>(nibble) + half_to_float(load_u16(block + 2));
}

void store_element(Format format, uint8_t* out, float value) {
  if (format == Format::kF32) {
    std::memcpy(out, &value, sizeof(value));
    return;
  }
  const uint16_t half = format == Format::kF16 ? float_to_half(value) : float_to_bf16(value);
  std::memcpy(out, &half, sizeof(half));
}

void pack_plain_row(const PackArgs& args, const uint8_t* source, uint8_t* panel, int64_t lane) {
  const Format format = args.out.format;
  const int64_t bytes = info(format).block_bytes;
  const int64_t columns = args.out.columns;
  panel += lane * bytes;
  if (source == nullptr) {
    for (int64_t k = 0; k < columns; ++k) std::memset(panel + k * kPanelRows * bytes, 0, static_cast<size_t>(bytes));
  } else if (format != args.source_format) {
    for (int64_t k = 0; k < columns; ++k) {
      store_element(format, panel + k * kPanelRows * bytes, element(args.source_format, source, k));
    }
  } else if (bytes == 4) {
    for (int64_t k = 0; k < columns; ++k) std::memcpy(panel + k * kPanelRows * 4, source + 4 * k, 4);
  } else {
    for (int64_t k = 0; k < columns; ++k) std::memcpy(panel + k * kPanelRows * 2, source + 2 * k, 2);
  }
}

// A source row of null is a row of zeros.
void pack_block_row(const PackArgs& args, const uint8_t* source, uint8_t* panel, int64_t lane) {
  const Format format = args.out.format;
  const int64_t blocks = args.out.columns / kBlock;
  const int64_t quant_bytes = panel_quant_bytes(format);
  const int64_t scale_bytes = panel_scale_bytes(format);
  const int64_t header = format == Format::kQ4_1 ? 4 : 2;
  const uint32_t flip = format == Format::kQ8_0 ? 0x80808080 : 0;
  uint8_t* scales = panel + blocks * quant_bytes + lane * 2;
  panel += lane * 4;
  for (int64_t b = 0; b < blocks; ++b, panel += quant_bytes, scales += scale_bytes) {
    uint8_t zeros[34] = {};
    const uint8_t* block = source == nullptr ? zeros : source + b * info(format).block_bytes;
    for (int64_t at = 0; at < quant_bytes; at += 4 * kPanelRows) {
      uint32_t four;
      std::memcpy(&four, block + header + at / kPanelRows, 4);
      four ^= flip;
      std::memcpy(panel + at, &four, 4);
    }
    std::memcpy(scales, block, 2);
    if (format == Format::kQ4_1) std::memcpy(scales + 2 * kPanelRows, block + 2, 2);
  }
}

}  // namespace

int64_t linear_bytes(Format format, int64_t rows, int64_t columns) {
  CHECK(format != Format::kI8Block32 && format != Format::kI32);
  CHECK_GE(rows, 0);
  CHECK_EQ(columns % info(format).block_elements, 0);
  return panel_count(rows) * panel_bytes(format, columns);
}

void pack_panels(const PackArgs& args, int64_t begin, int64_t end) {
  const Tensor& out = args.out;
  const int64_t last = args.first_row + args.row_count;
  for (int64_t panel = begin; panel < end; ++panel) {
    uint8_t* data = static_cast<uint8_t*>(out.data) + panel * panel_bytes(out.format, out.columns);
    for (int64_t lane = 0; lane < kPanelRows; ++lane) {
      const int64_t row = panel * kPanelRows + lane;
      const bool padding = row >= out.rows && last == out.rows;
      if (!padding && (row < args.first_row || row >= last)) continue;
      const auto* source =
          padding ? nullptr : static_cast<const uint8_t*>(args.source_rows[row - args.first_row]);
      if (is_block_format(out.format)) {
        pack_block_row(args, source, data, lane);
      } else {
        pack_plain_row(args, source, data, lane);
      }
    }
  }
}

}  // namespace skein
