#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops.h"

// What the kernel tests share: a rank of a given instruction set and thread count, random data, and
// double-precision readers of every format.

namespace skein::test {

// The names of the instruction sets that this machine has.
const std::vector<std::string>& instruction_sets();

class Rank {
 public:
  explicit Rank(const std::string& isa, int threads = 1);
  Device& device() { return *device_; }

 private:
  std::unique_ptr<Device> device_;
};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  float normal() { return normal_(engine_); }
  // In [begin, end).
  int below(int begin, int end) { return std::uniform_int_distribution<int>(begin, end - 1)(engine_); }
  std::vector<float> normals(int64_t count, float scale = 1);

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// Memory filled with 0xff (NaN as floats); writing past its end is for the address sanitizer to see, and
// intact() looks at the 64 bytes behind it.
class Memory {
 public:
  explicit Memory(int64_t bytes);
  template <typename T = void>
  T* as() { return reinterpret_cast<T*>(data()); }
  uint8_t* data();
  bool intact() const;

 private:
  int64_t bytes_;
  std::vector<uint8_t> bytes_and_guard_;
  size_t offset_;
};

// A tensor with its own memory.
struct Owned {
  Owned(Format format, int64_t rows, int64_t columns);
  Memory memory;
  Tensor tensor;
};

Owned f32_tensor(const std::vector<float>& values, int64_t rows, int64_t columns);

// Rows of a weight in a file's format, as a model file would hold them.
struct Weight {
  Format format;
  int64_t rows, columns;
  std::vector<uint8_t> bytes;
  double at(int64_t row, int64_t column) const;
};
Weight random_weight(Format format, int64_t rows, int64_t columns, Random* random);

// Packs it with one call per `rows_per_call` rows.
struct Packed {
  Memory memory;
  Tensor tensor;
};
Packed pack(Rank* rank, const Weight& weight, Format format, int64_t rows_per_call);

// An activation for a weight of that format, made by add_norm-like quantisation in the test itself.
Owned activation(Format weight_format, const std::vector<float>& values, int64_t rows, int64_t columns);
double activation_at(const Tensor& x, int64_t row, int64_t column);

double half_to_double(uint16_t half);
uint16_t double_to_half(double value);
double bf16_to_double(uint16_t bits);

inline const Format kWeightFormats[] = {Format::kF32,  Format::kF16,  Format::kBF16,
                                        Format::kQ8_0, Format::kQ4_0, Format::kQ4_1};

}  // namespace skein::test
