#include "tests/gpu/fixture.h"

#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string_view>

namespace skein::test {
namespace {

constexpr int64_t kGuardBytes = 256;
constexpr int kSkipped = 77;
std::unique_ptr<Device> the_gpu;

}  // namespace

void poison_scratch(cuda::CudaDevice& device) {
  device.check(cudaMemsetAsync(device.scratch(), 0xff, cuda::CudaDevice::kScratchBytes, device.stream()),
               "cudaMemsetAsync");
}

GpuMemory::GpuMemory(cuda::CudaDevice& device, int64_t bytes) : device_(&device), bytes_(bytes) {
  auto data = device.allocate(bytes + kGuardBytes);
  CHECK(data.ok());
  data_ = *data;
  poison();
}

GpuMemory::GpuMemory(GpuMemory&& other) noexcept : device_(other.device_), data_(other.data_), bytes_(other.bytes_) {
  other.data_ = nullptr;
}

GpuMemory::~GpuMemory() {
  if (data_ != nullptr) device_->release(data_);
}

void GpuMemory::poison() {
  const std::vector<uint8_t> pattern(static_cast<size_t>(bytes_ + kGuardBytes), 0xff);
  device_->copy_to_device(data_, pattern.data(), bytes_ + kGuardBytes);
  poison_scratch(*device_);
}

bool GpuMemory::intact() const {
  for (const uint8_t byte : download<uint8_t>(*device_, static_cast<uint8_t*>(data_) + bytes_, kGuardBytes)) {
    if (byte != 0xff) return false;
  }
  return true;
}

std::vector<uint16_t> to_bf16(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  out.reserve(values.size());
  for (const float value : values) out.push_back(f32_to_bf16(value));
  return out;
}

std::vector<float> from_bf16(const std::vector<uint16_t>& values) {
  std::vector<float> out;
  out.reserve(values.size());
  for (const uint16_t value : values) out.push_back(bf16_to_f32(value));
  return out;
}

std::vector<float> bf16_normals(std::mt19937& random, int64_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) value = bf16_to_f32(f32_to_bf16(normal(random)));
  return out;
}

double relative_error(const std::vector<float>& a, const std::vector<double>& b) {
  CHECK_EQ(a.size(), b.size());
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return std::numeric_limits<double>::infinity();
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

uint64_t largest_key(float value, int32_t token) {
  const auto bits = std::bit_cast<uint32_t>(value == 0 ? 0.0f : value);
  const uint32_t order = std::isnan(value) ? ~0u : value < 0 ? ~bits : bits | 0x80000000u;
  return uint64_t{order} << 32 | (0xffffffffu - static_cast<uint32_t>(token));
}

cuda::CudaDevice& gpu() { return cuda::device_of(*the_gpu); }

Tensor matrix(void* data, Format format, int64_t rows, int64_t columns) {
  return {.data = data, .rows = rows, .columns = columns, .format = format, .row_stride = columns};
}

}  // namespace skein::test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  const bool deterministic = argc == 2 && std::string_view(argv[1]) == "--deterministic";
  auto device = skein::cuda::CudaDevice::open({.deterministic = deterministic});
  if (!device.ok()) {
    std::printf("skipped: %s\n", device.status().message().c_str());
    return skein::test::kSkipped;
  }
  skein::test::the_gpu = std::move(*device);
  const int status = RUN_ALL_TESTS();
  skein::test::the_gpu.reset();
  return status;
}
