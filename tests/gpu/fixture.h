#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/check.h"
#include "base/half.h"
#include "kernels/cuda/device.h"

// What the GPU tests share. Every program's main ends with status 77, "skipped", where there is no GPU; with
// --deterministic its device is.

namespace skein::test {

// Fills scratch() with 0xff (NaN as floats, -1 as integers): nothing may survive in it from one launch to the next.
void poison_scratch(cuda::CudaDevice& device);

// Device memory of its own, filled with 0xff, with a guard behind it.
class GpuMemory {
 public:
  GpuMemory(cuda::CudaDevice& device, int64_t bytes);
  ~GpuMemory();
  GpuMemory(const GpuMemory&) = delete;
  GpuMemory(GpuMemory&& other) noexcept;
  template <typename T = void>
  T* as() const { return static_cast<T*>(data_); }
  int64_t bytes() const { return bytes_; }
  void poison();  // and the scratch
  bool intact() const;  // the 256 bytes behind it

 private:
  cuda::CudaDevice* device_;
  void* data_ = nullptr;
  int64_t bytes_;
};

template <typename T>
GpuMemory upload(cuda::CudaDevice& device, const std::vector<T>& values) {
  GpuMemory memory(device, static_cast<int64_t>(values.size() * sizeof(T)));
  device.copy_to_device(memory.as<void>(), values.data(), memory.bytes());
  return memory;
}

template <typename T>
std::vector<T> download(cuda::CudaDevice& device, const void* from, int64_t count) {
  const auto bytes = static_cast<int64_t>(static_cast<size_t>(count) * sizeof(T));
  auto host = device.allocate_host(bytes);
  CHECK(host.ok());
  device.copy_to_host(*host, from, bytes);
  const Status status = device.synchronize();
  EXPECT_TRUE(status.ok()) << status.message();
  std::vector<T> values(static_cast<size_t>(count));
  if (bytes > 0) std::memcpy(values.data(), *host, static_cast<size_t>(bytes));
  device.release_host(*host);
  return values;
}

std::vector<uint16_t> to_bf16(const std::vector<float>& values);
std::vector<float> from_bf16(const std::vector<uint16_t>& values);
// Normal numbers that bf16 holds exactly.
std::vector<float> bf16_normals(std::mt19937& random, int64_t count, float scale = 1);

// ||a - b|| / ||b||; infinite if a has a NaN.
double relative_error(const std::vector<float>& a, const std::vector<double>& b);

// What products raise LinearArgs::largest to.
uint64_t largest_key(float value, int32_t token);

// The one device of the test program.
cuda::CudaDevice& gpu();

Tensor matrix(void* data, Format format, int64_t rows, int64_t columns);

}  // namespace skein::test
