#include "base/half.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "model/dequantize.h"
#include "tests/unit/model/file_pieces.h"

namespace skein {
namespace {

using test::le;

TEST(Half, ReadsKnownValues) {
  EXPECT_EQ(f16_to_f32(0x3C00), 1.0f);
  EXPECT_EQ(f16_to_f32(0xC000), -2.0f);
  EXPECT_EQ(f16_to_f32(0x7BFF), 65504.0f);
  EXPECT_EQ(f16_to_f32(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_f32(0x0400), 0x1p-14f);
  EXPECT_EQ(f16_to_f32(0x7C00), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::signbit(f16_to_f32(0x8000)));
  EXPECT_EQ(bf16_to_f32(0x3F80), 1.0f);
  EXPECT_EQ(bf16_to_f32(0xC040), -3.0f);
}

TEST(Half, EverySixteenBitValueSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if (const float value = f16_to_f32(half); std::isnan(value)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(value))));
    } else {
      ASSERT_EQ(f32_to_f16(value), half);
    }
    if (const float value = bf16_to_f32(half); std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(value))));
    } else {
      ASSERT_EQ(f32_to_bf16(value), half);
    }
  }
}

TEST(Half, RoundsToNearestAndTiesToEven) {
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), 0x3C00);             // tie, even below
  EXPECT_EQ(f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3C02);         // tie, even above
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f + 0x1p-20f), 0x3C01);  // above the tie
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7BFF);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7C00);
  EXPECT_EQ(f32_to_f16(-1e9f), 0xFC00);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000);             // tie with zero
  EXPECT_EQ(f32_to_f16(3 * 0x1p-25f), 0x0002);         // tie among subnormals
  EXPECT_EQ(f32_to_f16(0x1p-14f - 0x1p-26f), 0x0400);  // rounds up to a normal number
  EXPECT_EQ(f32_to_bf16(1.0f + 0x1p-8f), 0x3F80);
  EXPECT_EQ(f32_to_bf16(1.0f + 3 * 0x1p-8f), 0x3F82);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7F80);
}

std::array<float, 32> dequantized(Format format, const std::string& block) {
  std::array<float, 32> out;
  // An odd address: rows of mapped files are aligned to bytes only.
  const std::string shifted = "x" + block;
  dequantize_row(format, reinterpret_cast<const std::byte*>(shifted.data() + 1), 32, out.data());
  return out;
}

TEST(Dequantize, Q8) {
  std::string block = le(f32_to_f16(0.5f));
  for (int i = 0; i < 32; ++i) block += static_cast<char>(i * 8 - 128);
  const auto out = dequantized(Format::kQ8_0, block);
  for (int i = 0; i < 32; ++i)
    EXPECT_EQ(out[static_cast<size_t>(i)], 0.5f * static_cast<float>(i * 8 - 128));
}

TEST(Dequantize, Q4) {
  std::string nibbles;
  for (int i = 0; i < 16; ++i) nibbles += static_cast<char>(i | (15 - i) << 4);
  const auto q4_0 = dequantized(Format::kQ4_0, le(f32_to_f16(2.0f)) + nibbles);
  const auto q4_1 =
      dequantized(Format::kQ4_1, le(f32_to_f16(2.0f)) + le(f32_to_f16(-1.5f)) + nibbles);
  for (size_t i = 0; i < 16; ++i) {
    const auto low = static_cast<float>(i);
    EXPECT_EQ(q4_0[i], 2.0f * (low - 8));
    EXPECT_EQ(q4_0[i + 16], 2.0f * (15 - low - 8));
    EXPECT_EQ(q4_1[i], 2.0f * low - 1.5f);
    EXPECT_EQ(q4_1[i + 16], 2.0f * (15 - low) - 1.5f);
  }
}

TEST(Dequantize, PlainFormats) {
  std::string f32, f16, bf16;
  for (int i = 0; i < 32; ++i) {
    const auto value = static_cast<float>(i - 16) * 0.25f;
    f32 += le(value);
    f16 += le(f32_to_f16(value));
    bf16 += le(f32_to_bf16(value));
  }
  const auto expected = dequantized(Format::kF32, f32);
  EXPECT_EQ(expected[0], -4.0f);
  EXPECT_EQ(dequantized(Format::kF16, f16), expected);
  EXPECT_EQ(dequantized(Format::kBF16, bf16), expected);
}

}  // namespace
}  // namespace skein
