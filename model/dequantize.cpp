#include "model/dequantize.h"

#include <cstring>

#include "base/check.h"
#include "base/half.h"

namespace skein {
namespace {

constexpr int kBlock = 32;

uint16_t load_u16(const std::byte* at) {
  uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// One block of 4-bit numbers: w = scale * (q - zero) + minimum.
void dequantize_nibbles(const std::byte* nibbles, float scale, int zero, float minimum,
                        float* out) {
  for (int i = 0; i < kBlock / 2; ++i) {
    const int both = std::to_integer<int>(nibbles[i]);
    out[i] = static_cast<float>((both & 15) - zero) * scale + minimum;
    out[i + kBlock / 2] = static_cast<float>((both >> 4) - zero) * scale + minimum;
  }
}

void dequantize_block(Format format, const std::byte* block, float* out) {
  const float scale = f16_to_f32(load_u16(block));
  if (format == Format::kQ4_0) return dequantize_nibbles(block + 2, scale, 8, 0.0f, out);
  if (format == Format::kQ4_1) {
    return dequantize_nibbles(block + 4, scale, 0, f16_to_f32(load_u16(block + 2)), out);
  }
  CHECK(format == Format::kQ8_0);
  for (int i = 0; i < kBlock; ++i) {
    out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * scale;
  }
}

}  // namespace

void dequantize_row(Format format, const std::byte* row, int64_t columns, float* out) {
  switch (format) {
    case Format::kF32: std::memcpy(out, row, static_cast<size_t>(columns) * sizeof(float)); return;
    case Format::kF16:
      for (int64_t i = 0; i < columns; ++i) out[i] = f16_to_f32(load_u16(row + 2 * i));
      return;
    case Format::kBF16:
      for (int64_t i = 0; i < columns; ++i) out[i] = bf16_to_f32(load_u16(row + 2 * i));
      return;
    case Format::kQ8_0:
    case Format::kQ4_0:
    case Format::kQ4_1: {
      const int64_t blocks = row_bytes(format, columns) / info(format).block_bytes;
      for (int64_t i = 0; i < blocks; ++i) {
        dequantize_block(format, row + i * info(format).block_bytes, out + i * kBlock);
      }
      return;
    }
    case Format::kI8Block32:
    case Format::kI32: break;
  }
  CHECK(false);
}

}  // namespace skein
