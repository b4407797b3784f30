#include <cuda_runtime.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

#include "base/check.h"
#include "kernels/cuda/pack.h"
#include "tests/bench/gpu/bench.h"

// How fast weights come from the page cache to the device: matrices of Llama-3.1-8B in a file of 4 GiB, against the
// rate at which threads read the same mapping, and the rate at which page-locked memory goes to the device.

namespace skein::bench {
namespace {

constexpr int64_t kFileBytes = int64_t{4} << 30;
constexpr int kReaders = 8;
constexpr int kRounds = 3;

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// A file in the page cache.
int make_file(const char* path) {
  const int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
  CHECK(file >= 0);
  unlink(path);
  std::vector<uint32_t> part(16 << 20);
  for (size_t i = 0; i < part.size(); ++i) part[i] = static_cast<uint32_t>(i * 2654435761u) & 0x3fff3fff;
  const auto bytes = static_cast<int64_t>(part.size() * 4);
  for (int64_t at = 0; at < kFileBytes; at += bytes) CHECK_EQ(pwrite(file, part.data(), part.size() * 4, at), bytes);
  return file;
}

const uint8_t* map(int file) {
  void* data = mmap(nullptr, kFileBytes, PROT_READ, MAP_SHARED, file, 0);
  CHECK(data != MAP_FAILED);
  return static_cast<const uint8_t*>(data);
}

double median(std::array<double, kRounds> rates) {
  std::sort(rates.begin(), rates.end());
  return rates[kRounds / 2];
}

// Page-locked memory to the device.
double bus_rate() {
  constexpr int64_t kBytes = int64_t{64} << 20;
  constexpr int kCopies = 32;
  const auto from = gpu().allocate_host(kBytes);
  CHECK(from.ok());
  void* to = device_memory(kBytes);
  const auto copy = [&](int times) {
    for (int i = 0; i < times; ++i) cudaMemcpyAsync(to, *from, kBytes, cudaMemcpyHostToDevice, gpu().stream());
    CHECK(gpu().synchronize().ok());
  };
  copy(2);
  const auto begin = std::chrono::steady_clock::now();
  copy(kCopies);
  const double rate = static_cast<double>(kCopies * kBytes) / seconds_since(begin);
  gpu().release_host(*from);
  return rate;
}

// Threads copy the mapping into their own small buffers.
double read_rate(int file) {
  const uint8_t* data = map(file);
  const auto begin = std::chrono::steady_clock::now();
  {
    std::vector<std::jthread> readers;
    for (int i = 0; i < kReaders; ++i) {
      readers.emplace_back([&, i] {
        std::vector<uint8_t> buffer(1 << 20);
        const auto part = static_cast<int64_t>(buffer.size());
        for (int64_t at = i * part; at < kFileBytes; at += kReaders * part) {
          std::memcpy(buffer.data(), data + at, buffer.size());
        }
      });
    }
  }
  const double rate = static_cast<double>(kFileBytes) / seconds_since(begin);
  munmap(const_cast<uint8_t*>(data), kFileBytes);
  return rate;
}

double load_rate(int file, int64_t rows, int64_t columns, Format format) {
  const uint8_t* data = map(file);
  const int64_t stride = row_bytes(format, columns);
  const Tensor out = {.data = device_memory(rows * columns * 2), .rows = rows, .columns = columns,
                      .format = Format::kBF16, .layout = Layout::kPacked};
  const auto begin = std::chrono::steady_clock::now();
  int64_t loaded = 0;
  for (; loaded + rows * stride <= kFileBytes; loaded += rows * stride) {
    std::vector<const void*> sources;
    for (int64_t r = 0; r < rows; ++r) sources.push_back(data + loaded + r * stride);
    cuda::pack_linear(gpu(), {.out = out, .row_count = rows, .source_rows = sources.data(), .source_format = format});
  }
  CHECK(gpu().synchronize().ok());
  const double rate = static_cast<double>(loaded) / seconds_since(begin);
  munmap(const_cast<uint8_t*>(data), kFileBytes);
  return rate;
}

void run(const char* path) {
  const int file = make_file(path);
  const auto begin = std::chrono::steady_clock::now();
  gpu().weight_upload();
  std::printf("threads and page-locked memory, once: %.0f ms\n", 1e3 * seconds_since(begin));
  std::array<double, kRounds> reads;
  for (double& rate : reads) rate = read_rate(file);
  const double read = median(reads);
  const double bus = bus_rate();
  std::printf("page cache, %d threads: %.1f GB/s; page-locked memory to the device: %.1f GB/s\n", kReaders, read / 1e9,
              bus / 1e9);
  const struct {
    int64_t rows, columns;
    Format format;
  } cases[] = {{14336, 4096, Format::kBF16}, {4096, 14336, Format::kBF16}, {1024, 4096, Format::kBF16},
               {14336, 4096, Format::kF32},  {14336, 4096, Format::kF16},  {14336, 4096, Format::kQ8_0},
               {14336, 4096, Format::kQ4_1}};
  for (const auto& c : cases) {
    std::array<double, kRounds> rates;
    for (double& rate : rates) rate = load_rate(file, c.rows, c.columns, c.format);
    const double rate = median(rates);
    std::printf("load %lld x %lld %s: %.1f GB/s of file = %.0f %% of the page cache, %.0f %% of the bus\n",
                static_cast<long long>(c.rows), static_cast<long long>(c.columns),
                std::string(info(c.format).name).c_str(), rate / 1e9, 100 * rate / read, 100 * rate / bus);
  }
  close(file);
}

}  // namespace
}  // namespace skein::bench

int main(int argc, char** argv) {
  if (const int status = skein::bench::open_bench(argc, argv)) return status;
  skein::bench::run("load_bench.tmp");
  return 0;
}
