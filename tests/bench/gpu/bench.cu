#include "tests/bench/gpu/bench.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <string_view>

#include "base/check.h"
#include "kernels/cuda/ptx.cuh"

namespace skein::bench {
namespace {

std::unique_ptr<Device> the_gpu;
Ceilings the_ceilings;
std::vector<void*> allocations;
std::map<std::string, std::pair<double, std::string>> peers;  // microseconds, whose

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "bench: %s\n", cudaGetErrorString(error));
  std::exit(1);
}

__global__ void read_all(const uint4* from, int64_t count, uint32_t* out) {
  uint32_t sum = 0;
  const uint64_t policy = cuda::evict_first_policy();
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 7 * stride < count; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) v[j] = cuda::load_once(from + i + j * stride, policy);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 0x12345678) *out = sum;  // keeps the loads
}

__global__ void fill_normal(__nv_bfloat16* out, int64_t count, float scale, uint32_t seed) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint64_t x = (static_cast<uint64_t>(i) + 1) * 0x9E3779B97F4A7C15u + seed * 0xD1B54A32D192ED03u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    x ^= x >> 31;
    const float u = (static_cast<float>(x >> 40) + 0.5f) * 0x1p-24f;
    const float v = static_cast<float>(x & 0xffffff) * 0x1p-24f;
    out[i] = __float2bfloat16(scale * sqrtf(-2 * logf(u)) * cospif(2 * v));
  }
}

void measure_read() {
  constexpr int64_t kBytes = int64_t{4} << 30;
  void* data = random_bf16(kBytes / 2);
  void* out = device_memory(4);
  const double us = time_us(
      [&](int) {
        read_all<<<gpu().multiprocessors() * 8, 512, 0, gpu().stream()>>>(
            static_cast<const uint4*>(data), kBytes / 16, static_cast<uint32_t*>(out));
      },
      3, 5);
  the_ceilings.read_bytes_per_s = static_cast<double>(kBytes) / us * 1e6;
}

void measure_products() {
  constexpr int kSize = 8192;
  void* a = random_bf16(int64_t{kSize} * kSize, 1, 1);
  void* b = random_bf16(int64_t{kSize} * kSize, 1, 2);
  void* c = device_memory(int64_t{kSize} * kSize * 2);
  cublasLtHandle_t handle;
  cublasLtMatmulDesc_t description;
  cublasLtMatrixLayout_t layout;
  cublasLtMatmulPreference_t preference;
  CHECK_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
  cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
  cublasLtMatrixLayoutCreate(&layout, CUDA_R_16BF, kSize, kSize, kSize);
  cublasLtMatmulPreferenceCreate(&preference);
  const size_t workspace = cuda::CudaDevice::kScratchBytes;
  cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                       sizeof workspace);
  cublasLtMatmulHeuristicResult_t choice;
  int found = 0;
  cublasLtMatmulAlgoGetHeuristic(handle, description, layout, layout, layout, layout, preference, 1, &choice, &found);
  CHECK_EQ(found, 1);
  const float one = 1, zero = 0;
  const double us = time_us(
      [&](int) {
        cublasLtMatmul(handle, description, &one, a, layout, b, layout, &zero, c, layout, c, layout, &choice.algo,
                       gpu().scratch(), workspace, gpu().stream());
      },
      50, 5);
  the_ceilings.bf16_flops_per_s = 2.0 * kSize * kSize * kSize / us * 1e6;
}

struct Gap {
  std::string name;
  std::string what;
};
std::vector<Gap> gaps;  // over 5 %

// Of the longest line "beginning of the name<TAB>cause" that fits.
std::string cause_of(const std::string& name, const std::string& path) {
  std::ifstream file(path);
  std::string line;
  size_t longest = 0;
  std::string cause = "cause not known";
  while (std::getline(file, line)) {
    const size_t tab = line.find('\t');
    if (tab == std::string::npos || tab < longest || !name.starts_with(line.substr(0, tab))) continue;
    longest = tab;
    cause = line.substr(tab + 1);
  }
  return cause;
}

void list_gaps() {
  if (gaps.empty()) return;
  std::printf("gaps over 5 %%\n");
  for (const Gap& gap : gaps) {
    std::printf("  %-50s %s: %s\n", gap.name.c_str(), gap.what.c_str(),
                cause_of(gap.name, "tests/bench/gpu/causes.tsv").c_str());
  }
}

// Lines "name<TAB>microseconds<TAB>whose"; the machine's name is part of `whose`.
void read_peers(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    const size_t first = line.find('\t');
    const size_t second = line.find('\t', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    double us = 0;
    std::from_chars(line.data() + first + 1, line.data() + second, us);
    peers[line.substr(0, first)] = {us, line.substr(second + 1)};
  }
}

}  // namespace

const Ceilings& ceilings() { return the_ceilings; }
void set_link_ceiling(double bytes_per_s) {
  the_ceilings.link_bytes_per_s = bytes_per_s;
  std::printf("# between the GPUs, each way while as much goes the other way: %.0f GB/s\n", bytes_per_s / 1e9);
}
cuda::CudaDevice& gpu() { return cuda::device_of(*the_gpu); }

double time_us(const std::function<void(int)>& body, int calls, int rounds) {
  cudaStream_t stream = gpu().stream();
  body(0);  // whatever happens once
  CHECK(gpu().synchronize().ok());
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) body(i);
  cudaGraph_t graph;
  check(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t executable;
  check(cudaGraphInstantiate(&executable, graph, 0));
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));
  std::vector<double> times;
  for (int i = 0; i < rounds + 2; ++i) {  // two to warm up
    check(cudaEventRecord(begin, stream));
    check(cudaGraphLaunch(executable, stream));
    check(cudaEventRecord(end, stream));
    check(cudaEventSynchronize(end));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(ms * 1e3 / calls);
  }
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  check(cudaGraphExecDestroy(executable));
  check(cudaGraphDestroy(graph));
  std::ranges::sort(times);
  return times[times.size() / 2];
}

int rotations(int64_t bytes) {
  return static_cast<int>(std::clamp<int64_t>(4 * gpu().l2_bytes() / std::max<int64_t>(bytes, 1) + 1, 1, 64));
}

void* device_memory(int64_t bytes) {
  const auto memory = gpu().allocate(bytes);
  if (!memory.ok()) {
    std::fprintf(stderr, "bench: %s\n", memory.status().message().c_str());
    std::exit(1);
  }
  allocations.push_back(*memory);
  return *memory;
}

void* random_bf16(int64_t elements, double scale, uint32_t seed) {
  auto* memory = static_cast<__nv_bfloat16*>(device_memory(elements * 2));
  fill_normal<<<1024, 256, 0, gpu().stream()>>>(memory, elements, static_cast<float>(scale), seed);
  check(cudaGetLastError());
  return memory;
}

void report(const Line& line) {
  double floor_us = (line.bytes / the_ceilings.read_bytes_per_s + line.flops / the_ceilings.bf16_flops_per_s) * 1e6;
  if (line.link_bytes > 0) floor_us += line.link_bytes / the_ceilings.link_bytes_per_s * 1e6;
  const double all_bytes = line.bytes + line.link_bytes;
  std::printf("%-52s %9.2f us %11.3f MB %10.3f GFLOP %7.0f GB/s %7.1f TFLOP/s  floor %8.2f us = %5.1f %%",
              line.name.c_str(), line.us, all_bytes / 1e6, line.flops / 1e9, all_bytes / line.us / 1e3,
              line.flops / line.us / 1e6, floor_us, 100 * floor_us / line.us);
  const auto peer = peers.find(line.name);
  if (peer != peers.end()) std::printf("  %s %.2f us", peer->second.second.c_str(), peer->second.first);
  std::printf("\n");
  char what[64];
  if (peer != peers.end() && line.us > 1.05 * peer->second.first) {
    std::snprintf(what, sizeof what, "%.0f %% slower than the peer", 100 * (line.us / peer->second.first - 1));
    gaps.push_back({line.name, what});
  } else if (floor_us < 0.95 * line.us && !line.name.starts_with(" ")) {
    std::snprintf(what, sizeof what, "%.0f %% of the floor", 100 * floor_us / line.us);
    gaps.push_back({line.name, what});
  }
  std::fflush(stdout);
}

int open_bench(int argc, char** argv) {
  std::string commit = "unknown";
  bool deterministic = false;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) == "--deterministic") deterministic = true;
    if (std::string_view(argv[i]) == "--commit" && i + 1 < argc) commit = argv[i + 1];
  }
  auto device = cuda::CudaDevice::open({.deterministic = deterministic});
  if (!device.ok()) {
    std::printf("skipped: %s\n", device.status().message().c_str());
    return 77;
  }
  the_gpu = std::move(*device);
  read_peers("tests/bench/gpu/peers.tsv");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0));
  measure_read();
  measure_products();
  std::printf("# %s, commit %s; ceilings measured now: read %.0f GB/s, bf16 products %.0f TFLOP/s\n", properties.name,
              commit.c_str(), the_ceilings.read_bytes_per_s / 1e9, the_ceilings.bf16_flops_per_s / 1e12);
  std::atexit([] {
    list_gaps();
    for (void* memory : allocations) gpu().release(memory);
    the_gpu.reset();
  });
  return 0;
}

}  // namespace skein::bench
