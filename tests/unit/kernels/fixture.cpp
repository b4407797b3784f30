#include "tests/unit/kernels/fixture.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/check.h"

namespace skein::test {
namespace {

Result<std::unique_ptr<Device>> open_as(const std::string& isa, int threads) {
  setenv("SKEIN_CPU_ISA", isa.c_str(), 1);
  auto device = cpu_ops().open({.threads = threads});
  unsetenv("SKEIN_CPU_ISA");
  return device;
}

uint16_t load_u16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, 2);
  return value;
}

void store_u16(uint8_t* p, uint16_t value) { std::memcpy(p, &value, 2); }

uint16_t float_to_bf16(float value) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16); }

}  // namespace

const std::vector<std::string>& instruction_sets() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names;
    for (const char* name : {"avx2", "avx512", "vnni"}) {
      if (open_as(name, 1).ok()) names.emplace_back(name);
    }
    return names;
  }();
  return kNames;
}

Rank::Rank(const std::string& isa, int threads) {
  auto device = open_as(isa, threads);
  CHECK(device.ok());
  device_ = std::move(*device);
}

std::vector<float> Random::normals(int64_t count, float scale) {
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) value = scale * normal();
  return out;
}

Memory::Memory(int64_t bytes) : bytes_(bytes), bytes_and_guard_(static_cast<size_t>(bytes) + 128, 0xff) {
  offset_ = (64 - reinterpret_cast<uintptr_t>(bytes_and_guard_.data()) % 64) % 64;
}

uint8_t* Memory::data() {
  const size_t aligned = (64 - reinterpret_cast<uintptr_t>(bytes_and_guard_.data()) % 64) % 64;
  CHECK_EQ(aligned, offset_);
  return bytes_and_guard_.data() + offset_;
}

bool Memory::intact() const {
  for (size_t i = offset_ + static_cast<size_t>(bytes_); i < bytes_and_guard_.size(); ++i) {
    if (bytes_and_guard_[i] != 0xff) return false;
  }
  return true;
}

Owned::Owned(Format format, int64_t rows, int64_t columns)
    : memory(cpu_ops().tensor_bytes(format, rows, columns)),
      tensor(cpu_ops().make_tensor(memory.as<>(), format, rows, columns)) {}

Owned f32_tensor(const std::vector<float>& values, int64_t rows, int64_t columns) {
  CHECK_EQ(static_cast<int64_t>(values.size()), rows * columns);
  Owned out(Format::kF32, rows, columns);
  std::memcpy(out.tensor.data, values.data(), values.size() * sizeof(float));
  return out;
}

double half_to_double(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int mantissa = half & 1023;
  const double sign = (half & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return mantissa != 0 ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

uint16_t double_to_half(double value) {
  // The nearest of all finite halves: slow and obviously right. Even mantissas win ties.
  const double magnitude = std::fabs(value);
  uint16_t low = 0;
  uint16_t high = 0x7c00;
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (half_to_double(middle) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - half_to_double(low);
  const double above = (high == 0x7c00 ? 65536.0 : half_to_double(high)) - magnitude;
  const bool up = above < below || (above == below && low % 2 == 1);
  return static_cast<uint16_t>((up ? high : low) | (std::signbit(value) ? 0x8000 : 0));
}

double bf16_to_double(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

double Weight::at(int64_t row, int64_t column) const {
  const uint8_t* data = bytes.data() + row * row_bytes(format, columns);
  if (format == Format::kF32) {
    float value;
    std::memcpy(&value, data + 4 * column, 4);
    return value;
  }
  if (format == Format::kF16) return half_to_double(load_u16(data + 2 * column));
  if (format == Format::kBF16) return bf16_to_double(load_u16(data + 2 * column));
  const uint8_t* block = data + column / 32 * info(format).block_bytes;
  const int64_t j = column % 32;
  const double d = half_to_double(load_u16(block));
  if (format == Format::kQ8_0) return d * static_cast<int8_t>(block[2 + j]);
  const uint8_t byte = block[(format == Format::kQ4_1 ? 4 : 2) + j % 16];
  const int nibble = j < 16 ? byte & 15 : byte >> 4;
  if (format == Format::kQ4_0) return d * (nibble - 8);
  return d * nibble + half_to_double(load_u16(block + 2));
}

Weight random_weight(Format format, int64_t rows, int64_t columns, Random* random) {
  Weight out = {format, rows, columns, {}};
  out.bytes.resize(static_cast<size_t>(rows * row_bytes(format, columns)));
  const int block_bytes = info(format).block_bytes;
  for (size_t at = 0; at < out.bytes.size(); at += static_cast<size_t>(block_bytes)) {
    uint8_t* block = out.bytes.data() + at;
    const float value = random->normal();
    if (format == Format::kF32) {
      std::memcpy(block, &value, 4);
    } else if (format == Format::kF16) {
      store_u16(block, double_to_half(value));
    } else if (format == Format::kBF16) {
      store_u16(block, float_to_bf16(value));
    } else {
      for (int i = 0; i < block_bytes; ++i) block[i] = static_cast<uint8_t>(random->below(0, 256));
      store_u16(block, double_to_half(0.05 * value));
      if (format == Format::kQ4_1) store_u16(block + 2, double_to_half(0.3 * random->normal()));
    }
  }
  return out;
}

Packed pack(Rank* rank, const Weight& weight, Format format, int64_t rows_per_call) {
  const Ops& ops = cpu_ops();
  Packed out = {Memory(ops.linear_bytes(format, weight.rows, weight.columns)), {}};
  out.tensor = {.data = out.memory.as<>(), .rows = weight.rows, .columns = weight.columns,
                .format = format, .layout = Layout::kPacked};
  for (int64_t first = 0; first < weight.rows; first += rows_per_call) {
    std::vector<const void*> rows;
    for (int64_t r = first; r < std::min(first + rows_per_call, weight.rows); ++r) {
      rows.push_back(weight.bytes.data() + r * row_bytes(weight.format, weight.columns));
    }
    ops.pack_linear(rank->device(), {.out = out.tensor, .first_row = first,
                                     .row_count = static_cast<int64_t>(rows.size()),
                                     .source_rows = rows.data(), .source_format = weight.format});
  }
  return out;
}

Owned activation(Format weight_format, const std::vector<float>& values, int64_t rows, int64_t columns) {
  if (cpu_ops().activation_format(weight_format) == Format::kF32) return f32_tensor(values, rows, columns);
  Owned out(Format::kI8Block32, rows, columns);
  auto* q = static_cast<int8_t*>(out.tensor.data);
  auto* scales = static_cast<float*>(out.tensor.scales);
  for (int64_t b = 0; b < rows * columns / 32; ++b) {
    float amax = 0;
    for (int i = 0; i < 32; ++i) amax = std::max(amax, std::fabs(values[static_cast<size_t>(b * 32 + i)]));
    int sum = 0;
    for (int i = 0; i < 32; ++i) {
      const float x = values[static_cast<size_t>(b * 32 + i)];
      const int level = static_cast<int>(amax == 0 ? 0 : std::nearbyint(x * (127 * 256 / amax)));
      const int high = (level + 128) >> 8;
      q[b * 64 + i] = static_cast<int8_t>(high);
      q[b * 64 + 32 + i] = static_cast<int8_t>(level - 256 * high);
      sum += level;
    }
    scales[2 * b] = amax / (127 * 256);
    scales[2 * b + 1] = scales[2 * b] * static_cast<float>(sum);
  }
  return out;
}

double activation_at(const Tensor& x, int64_t row, int64_t column) {
  if (x.format == Format::kF32) return static_cast<const float*>(x.data)[row * x.row_stride + column];
  const auto* q = static_cast<const int8_t*>(x.data) + row * x.columns * 2 + column / 32 * 64 + column % 32;
  const auto* scales = static_cast<const float*>(x.scales) + row * (x.columns / 32) * 2;
  return static_cast<double>(scales[column / 32 * 2]) * (256 * q[0] + q[32]);
}

}  // namespace skein::test
