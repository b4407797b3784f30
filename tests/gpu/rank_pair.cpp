#include "tests/gpu/rank_pair.h"

#include <cuda_runtime.h>

#include <thread>

#include "base/check.h"

namespace skein::test {

bool RankPair::there() {
  int count = 0;
  int can = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count >= 2 &&
         cudaDeviceCanAccessPeer(&can, 0, 1) == cudaSuccess && can != 0;
}

RankPair::RankPair(int64_t rows, int64_t row_bytes, int64_t shared_bytes, int64_t patience_ns) {
  on_threads([&](int rank) {
    auto device = cuda::CudaDevice::open({.index = rank});
    CHECK(device.ok());
    devices_[rank] = std::move(*device);
    const auto gather = [this, rank](const std::string& bytes) { return all_gather(rank, bytes); };
    const auto group = cuda::device_of(*devices_[rank])
                           .join_peers({.rank = rank, .size = 2, .rows = rows, .row_bytes = row_bytes,
                                        .shared_bytes = shared_bytes, .patience_ns = patience_ns,
                                        .all_gather = gather});
    CHECK(group.ok() && *group != nullptr);
    groups_[rank] = *group;
  });
}

RankPair::~RankPair() {
  run([](const Rank& rank) { (void)rank.device.synchronize(); });
  on_threads([&](int rank) { devices_[rank].reset(); });
}

void RankPair::run(const std::function<void(const Rank&)>& body) {
  on_threads([&](int rank) { body({rank, cuda::device_of(*devices_[rank]), *groups_[rank]}); });
}

void RankPair::on_threads(const std::function<void(int)>& body) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      CHECK_EQ(static_cast<int>(cudaSetDevice(rank)), static_cast<int>(cudaSuccess));
      body(rank);
    });
  }
}

std::vector<std::string> RankPair::all_gather(int rank, const std::string& bytes) {
  gathered_[static_cast<size_t>(rank)] = bytes;
  meet();
  std::vector<std::string> all = gathered_;
  meet();
  return all;
}

}  // namespace skein::test
