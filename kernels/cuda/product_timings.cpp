#include "kernels/cuda/product_timings.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <limits>
#include <ranges>
#include <utility>

#include "base/cache_file.h"
#include "kernels/cuda/cublas.h"

namespace skein::cuda {
namespace {

constexpr int kRounds = 3;
constexpr size_t kCalls = 8;  // of a round
constexpr size_t kCallsOfMany = 2;
constexpr int64_t kManyTokens = 1024;  // from here on a call takes a millisecond

// A device that does not answer is nobody's; its launches will tell.
std::string current_machine() {
  int index = 0;
  int driver = 0;
  cudaDeviceProp properties{};
  cudaGetDevice(&index);
  cudaDriverGetVersion(&driver);
  cudaGetDeviceProperties(&properties, index);
  return std::string(properties.name) + "\t" + std::to_string(driver) + "\t" + std::to_string(CublasLt::version());
}

int64_t bucket(int64_t tokens) {
  const int64_t power = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens)));
  return tokens <= power / 4 * 3 ? power / 4 * 3 : power;
}

}  // namespace

ProductShape shape_of(const Tensor& x, const Tensor& weight, bool out_f32) {
  return {.outputs = weight.rows, .inputs = weight.columns, .tokens = bucket(x.rows), .out_f32 = out_f32};
}

std::string name_of(const ProductShape& shape) {
  return std::to_string(shape.outputs) + "\t" + std::to_string(shape.inputs) + "\t" + std::to_string(shape.tokens) +
         "\t" + (shape.out_f32 ? "f32" : "bf16");
}

ProductTimings::ProductTimings(std::string path) : path_(std::move(path)), machine_(current_machine()) {
  std::ifstream in(path_);
  for (std::string line; std::getline(in, line);) {
    if (in.eof()) break;  // cut off: nothing behind the line's last character, not even its end
    if (line.starts_with(machine_ + "\t")) known_.push_back(line.substr(machine_.size() + 1));
  }
}

std::optional<std::string> ProductTimings::find(const std::string& key) const {
  for (const std::string& line : std::views::reverse(known_)) {
    if (line.starts_with(key + "\t")) return line.substr(key.size() + 1);
  }
  return std::nullopt;
}

void ProductTimings::add(const std::string& key, const std::string& value) {
  added_ += machine_ + "\t" + key + "\t" + value + "\n";
}

Status ProductTimings::save() const {
  if (added_.empty() || path_.empty()) return {};
  return add_to_cache_file(path_, added_);
}

std::vector<double> product_times_us(CudaDevice& device, int64_t tokens, size_t count,
                                     const std::function<bool(size_t, size_t)>& body) {
  const size_t calls = tokens < kManyTokens ? kCalls : kCallsOfMany;
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  device.check(cudaEventCreate(&begin), "cudaEventCreate");
  device.check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<bool> runs;
  for (size_t way = 0; way < count; ++way) {
    runs.push_back(body(way, 0));  // loads code, which a recording must not
    if (!runs[way] || !device.synchronize().ok()) continue;
    device.record(way);
    for (size_t i = 0; i < calls; ++i) runs[way] = body(way, i) && runs[way];
    if (!device.end_record().ok()) runs[way] = false;  // and so is the device
  }
  std::vector<std::vector<float>> times(count);
  for (int round = 0; round < kRounds; ++round) {
    for (size_t way = 0; way < count; ++way) {
      if (!runs[way]) continue;
      // Meanwhile the host queues the rest.
      device.check(cudaMemsetAsync(device.scratch(), 0, CudaDevice::kScratchBytes, device.stream()), "cudaMemsetAsync");
      device.check(cudaEventRecord(begin, device.stream()), "cudaEventRecord");
      device.replay(way);
      device.check(cudaEventRecord(end, device.stream()), "cudaEventRecord");
      device.check(cudaEventSynchronize(end), "cudaEventSynchronize");
      float ms = 0;
      device.check(cudaEventElapsedTime(&ms, begin, end), "cudaEventElapsedTime");
      times[way].push_back(ms * 1e3f / static_cast<float>(calls));
    }
  }
  device.forget_recorded();
  device.check(cudaEventDestroy(begin), "cudaEventDestroy");
  device.check(cudaEventDestroy(end), "cudaEventDestroy");
  std::vector<double> medians;
  for (size_t way = 0; way < count; ++way) {
    std::ranges::sort(times[way]);
    medians.push_back(runs[way] ? times[way][kRounds / 2] : std::numeric_limits<double>::infinity());
  }
  return medians;
}

}  // namespace skein::cuda
