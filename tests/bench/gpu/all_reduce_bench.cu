#include <cuda_runtime.h>
#include <nccl.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>

#include "base/check.h"
#include "kernels/cuda/launch.cuh"
#include "tests/gpu/rank_pair.h"

// Sums over two GPUs: with residual and norm in one launch, alone, and through NCCL. Chains of one graph on each rank,
// both running; hidden 4096. Columns: microseconds a call, medians of rank 0; `others`: the sum alone, the better of
// SGLang 0.5.14 and TensorRT-LLM 1.3 on two H200, as NVIDIA's AIConfigurator has them.

namespace skein::bench {
namespace {

using test::RankPair;

constexpr int64_t kHidden = 4096;
constexpr int64_t kTokensMax = 2048;
constexpr int kRounds = 9;

struct Size {
  int64_t tokens;
  double others_us;  // 0: not known
};
constexpr Size kSizes[] = {{1, 2.5},   {2, 0},     {4, 2.6},   {8, 2.9},    {16, 3.1},   {32, 3.6},
                           {64, 4.3},  {128, 5.9}, {256, 9.1}, {512, 16.6}, {1024, 29.5}, {2048, 55.5}};

void check(cudaError_t error) { CHECK_EQ(static_cast<int>(error), static_cast<int>(cudaSuccess)); }
void check(ncclResult_t result) { CHECK_EQ(static_cast<int>(result), static_cast<int>(ncclSuccess)); }

Tensor matrix(void* data, Format format, int64_t rows) {
  return {.data = data, .rows = rows, .columns = kHidden, .format = format, .row_stride = kHidden};
}

class RankBench {
 public:
  RankBench(RankPair& pair, const RankPair::Rank& rank, ncclComm_t nccl) : pair_(pair), rank_(rank), nccl_(nccl) {
    x_ = allocate(kTokensMax * kHidden * 2);
    out_ = allocate(kTokensMax * kHidden * 2);
    residual_ = allocate(kTokensMax * kHidden * 4);
    weight_ = static_cast<float*>(allocate(kHidden * 4));
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }

  // Microseconds of one call in a chain.
  double time(int calls, const std::function<void()>& body) {
    cudaStream_t stream = rank_.device.stream();
    body();
    CHECK(rank_.device.synchronize().ok());
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < calls; ++i) body();
    check(cudaStreamEndCapture(stream, &graph));
    check(cudaGraphInstantiate(&executable, graph, 0));
    std::vector<double> times;
    for (int i = 0; i < kRounds + 2; ++i) {
      CHECK(rank_.device.synchronize().ok());
      pair_.meet();
      check(cudaEventRecord(begin_, stream));
      check(cudaGraphLaunch(executable, stream));
      check(cudaEventRecord(end_, stream));
      check(cudaEventSynchronize(end_));
      float ms = 0;
      check(cudaEventElapsedTime(&ms, begin_, end_));
      if (i >= 2) times.push_back(ms * 1e3 / calls);
    }
    check(cudaGraphExecDestroy(executable));
    check(cudaGraphDestroy(graph));
    std::ranges::sort(times);
    return times[times.size() / 2];
  }

  void add_norm(int64_t tokens, const PeerGroup* sum) {
    cuda::add_norm(rank_.device, {.out = matrix(out_, Format::kBF16, tokens),
                                  .residual = matrix(residual_, Format::kF32, tokens),
                                  .x = matrix(x_, Format::kBF16, tokens), .weight = weight_, .epsilon = 1e-5f,
                                  .sum = sum});
  }
  void sum(int64_t tokens) {
    cuda::peer_sum(rank_.device, {.x = matrix(x_, Format::kBF16, tokens), .group = &rank_.group});
  }
  void nccl_sum(int64_t tokens) {
    check(ncclAllReduce(x_, x_, static_cast<size_t>(tokens * kHidden), ncclBfloat16, ncclSum, nccl_,
                        rank_.device.stream()));
  }
  void meet() { cuda::peer_meet(rank_.device, {.group = &rank_.group}); }

  void line(const Size& size) {
    const int64_t tokens = size.tokens;
    const int calls = tokens <= 128 ? 200 : 40;
    const double fused = time(calls, [&] { add_norm(tokens, &rank_.group); });
    const double plain = time(calls, [&] { add_norm(tokens, nullptr); });
    const double alone = time(calls, [&] { sum(tokens); });
    const double nccl = time(calls, [&] { nccl_sum(tokens); });
    const double nccl_norm = time(calls, [&] {
      nccl_sum(tokens);
      add_norm(tokens, nullptr);
    });
    if (rank_.index != 0) return;
    const double bytes = static_cast<double>(tokens * kHidden * 2);
    std::printf("%8.0f KiB  fused %7.2f  add_norm %7.2f  difference %7.2f (%4.0f GB/s)  alone %7.2f  "
                "others %5.1f  nccl %7.2f  nccl + add_norm %7.2f\n",
                bytes / 1024, fused, plain, fused - plain, bytes / fused / 1e3, alone, size.others_us, nccl, nccl_norm);
  }

 private:
  void* allocate(int64_t bytes) {
    auto memory = rank_.device.allocate(bytes);
    CHECK(memory.ok());
    check(cudaMemset(*memory, 0, static_cast<size_t>(bytes)));
    return *memory;
  }

  RankPair& pair_;
  const RankPair::Rank& rank_;
  const ncclComm_t nccl_;
  void* x_;
  void* out_;
  void* residual_;
  float* weight_;
  cudaEvent_t begin_, end_;
};

void run() {
  RankPair pair(kTokensMax, kHidden * 2);
  ncclUniqueId id;
  check(ncclGetUniqueId(&id));
  pair.run([&](const RankPair::Rank& rank) {
    ncclComm_t nccl;
    check(ncclCommInitRank(&nccl, 2, id, rank.index));
    RankBench bench(pair, rank, nccl);
    for (const Size& size : kSizes) bench.line(size);
    const double meeting = bench.time(200, [&] { bench.meet(); });
    if (rank.index == 0) std::printf("meeting %.2f\n", meeting);
    check(ncclCommDestroy(nccl));
  });
}

}  // namespace
}  // namespace skein::bench

int main() {
  if (!skein::test::RankPair::there()) {
    std::printf("skipped: there are no two GPUs that reach each other's memory\n");
    return 77;
  }
  cudaDeviceProp properties{};
  (void)cudaGetDeviceProperties(&properties, 0);
  std::printf("# two %s\n", properties.name);
  skein::bench::run();
}
