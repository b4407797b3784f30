#include <cuda_runtime.h>
#include <nccl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/parse_number.h"
#include "kernels/cuda/launch.cuh"
#include "tests/bench/gpu/bench.h"
#include "tests/gpu/rank_group.h"

// gpu_all_reduce_bench [--ranks N]: sums over N GPUs (two unless told), alone, with residual and norm in one launch,
// and through NCCL. Chains of one graph on each rank, all running; hidden 4096. Medians of rank 0. `add_norm on two`
// is the norm without a sum: what the sum adds to it is the difference of two lines.

namespace skein::bench {
namespace {

using test::RankGroup;

constexpr int64_t kHidden = 4096;
constexpr int64_t kTokensMax = 8192;
constexpr int kRounds = 9;
constexpr const char* kNames[] = {"two", "three", "four", "five", "six", "seven", "eight"};

void check(cudaError_t error) { CHECK_EQ(static_cast<int>(error), static_cast<int>(cudaSuccess)); }
void check(ncclResult_t result) { CHECK_EQ(static_cast<int>(result), static_cast<int>(ncclSuccess)); }

Tensor matrix(void* data, Format format, int64_t rows) {
  return {.data = data, .rows = rows, .columns = kHidden, .format = format, .row_stride = kHidden};
}

class RankBench {
 public:
  RankBench(RankGroup& group, const RankGroup::Rank& rank, ncclComm_t nccl)
      : group_(group), name_(kNames[group.size() - 2]), rank_(rank), nccl_(nccl) {
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
      group_.meet();
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

  // In as many launches as a step takes (worker/forward.cpp).
  void add_norm(int64_t tokens, const PeerGroup* sum) {
    const int64_t rows = sum == nullptr ? tokens : sum->rows_normed(kHidden * 2);
    for (int64_t first = 0; first < tokens; first += rows) {
      const auto part = [&](void* data, Format format) {
        return matrix(static_cast<std::byte*>(data) + first * row_bytes(format, kHidden), format,
                      std::min(rows, tokens - first));
      };
      cuda::add_norm(rank_.device, {.out = part(out_, Format::kBF16), .residual = part(residual_, Format::kF32),
                                    .x = part(x_, Format::kBF16), .weight = weight_, .epsilon = 1e-5f, .sum = sum});
    }
  }
  void sum(int64_t tokens) {
    cuda::peer_sum(rank_.device, {.x = matrix(x_, Format::kBF16, tokens), .group = &rank_.group});
  }
  void nccl_sum(int64_t tokens) {
    check(ncclAllReduce(x_, x_, static_cast<size_t>(tokens * kHidden), ncclBfloat16, ncclSum, nccl_,
                        rank_.device.stream()));
  }
  void meet() { cuda::peer_meet(rank_.device, {.group = &rank_.group}); }

  // To the next rank, while each does the same.
  double copy_rate() {
    constexpr size_t kBytes = size_t{256} << 20;
    const void* from = allocate(kBytes);
    void* arriving = allocate(kBytes);
    const std::vector<std::string> all =
        group_.all_gather(rank_.index, {reinterpret_cast<const char*>(&arriving), sizeof arriving});
    void* to = nullptr;
    std::memcpy(&to, all[static_cast<size_t>((rank_.index + 1) % group_.size())].data(), sizeof to);
    const double us =
        time(5, [&] { check(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, rank_.device.stream())); });
    return static_cast<double>(kBytes) / us * 1e6;
  }

  void lines(int64_t tokens) {
    const int calls = tokens <= 128 ? 200 : 40;
    const auto part = static_cast<double>(tokens * kHidden * 2);  // bytes that each rank has
    const double others = group_.size() - 1;
    const double pushed = others * part;
    const double in_ring = 2 * others / group_.size() * part;
    const std::string size = " 4096 m=" + std::to_string(tokens);
    const auto line = [&](const std::string& name, double bytes, double link_bytes, const std::function<void()>& body) {
      const double us = time(calls, body);
      if (rank_.index == 0) report({.name = name + size, .us = us, .bytes = bytes, .link_bytes = link_bytes});
    };
    const PeerGroup& peers = rank_.group;
    if (tokens <= peers.rows_held(kHidden * 2)) line("sum of " + name_, 2 * part, pushed, [&] { sum(tokens); });
    line("sum of " + name_ + ", add_norm", 6 * part, peers.two_trips(tokens * kHidden * 2) ? in_ring : pushed,
         [&] { add_norm(tokens, &peers); });
    line("add_norm on " + name_, 6 * part, 0, [&] { add_norm(tokens, nullptr); });
    line(" NCCL sum of " + name_, 2 * part, in_ring, [&] { nccl_sum(tokens); });
    line(" NCCL sum of " + name_ + ", add_norm", 8 * part, in_ring, [&] {
      nccl_sum(tokens);
      add_norm(tokens, nullptr);
    });
  }

 private:
  void* allocate(int64_t bytes) {
    auto memory = rank_.device.allocate(bytes);
    CHECK(memory.ok());
    check(cudaMemset(*memory, 0, static_cast<size_t>(bytes)));
    return *memory;
  }

  RankGroup& group_;
  const std::string name_;
  const RankGroup::Rank& rank_;
  const ncclComm_t nccl_;
  void* x_;
  void* out_;
  void* residual_;
  float* weight_;
  cudaEvent_t begin_, end_;
};

void run(int ranks) {
  RankGroup group(ranks, {.rows = peer_sum_bytes_max(ranks) / (kHidden * 2), .row_bytes = kHidden * 2});
  ncclUniqueId id;
  check(ncclGetUniqueId(&id));
  group.run([&](const RankGroup::Rank& rank) {
    ncclComm_t nccl;
    check(ncclCommInitRank(&nccl, ranks, id, rank.index));
    RankBench bench(group, rank, nccl);
    const double rate = bench.copy_rate();
    if (rank.index == 0) set_link_ceiling(rate);
    for (int64_t tokens = 1; tokens <= kTokensMax; tokens *= 2) bench.lines(tokens);
    const double meeting = bench.time(200, [&] { bench.meet(); });
    if (rank.index == 0) report({.name = std::string(" meeting of ") + kNames[ranks - 2], .us = meeting});
    check(ncclCommDestroy(nccl));
  });
}

}  // namespace
}  // namespace skein::bench

int main(int argc, char** argv) {
  int ranks = 2;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::string_view(argv[i]) == "--ranks") ranks = skein::parse_number<int>(argv[i + 1]).value_or(0);
  }
  if (ranks < 2 || ranks > skein::PeerGroup::kRanksMax) {
    std::fprintf(stderr, "--ranks takes 2 to %d\n", skein::PeerGroup::kRanksMax);
    return 1;
  }
  if (!skein::test::RankGroup::there(ranks)) {
    std::printf("skipped: there are no %d GPUs that reach each other's memory\n", ranks);
    return 77;
  }
  setenv("NCCL_NVLS_ENABLE", "0", 1);  // docs/decisions/0006-gpus-of-a-replica.md
  if (const int status = skein::bench::open_bench(argc, argv)) return status;
  skein::bench::run(ranks);
  return 0;
}
