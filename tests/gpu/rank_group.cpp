#include "tests/gpu/rank_group.h"

#include <cuda_runtime.h>

#include <thread>

#include "base/check.h"

namespace skein::test {

bool RankGroup::there(int size) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count < size) return false;
  for (int from = 0; from < size; ++from) {
    for (int to = 0; to < size; ++to) {
      int can = 0;
      if (from != to && (cudaDeviceCanAccessPeer(&can, from, to) != cudaSuccess || can == 0)) return false;
    }
  }
  return true;
}

RankGroup::RankGroup(int size, const Setup& setup) : barrier_(size), ranks_(static_cast<size_t>(size)) {
  on_threads([&](int rank) {
    Member& member = ranks_[static_cast<size_t>(rank)];
    auto device = cuda::CudaDevice::open({.index = rank, .deterministic = setup.deterministic});
    CHECK(device.ok());
    member.device = std::move(*device);
    const auto gather = [this, rank](const std::string& bytes) { return all_gather(rank, bytes); };
    const auto group = cuda::device_of(*member.device)
                           .join_peers({.rank = rank, .size = size, .rows = setup.rows, .row_bytes = setup.row_bytes,
                                        .shared_bytes = setup.shared_bytes, .patience_ns = setup.patience_ns,
                                        .all_gather = gather});
    CHECK(group.ok() && *group != nullptr);
    member.group = *group;
  });
}

RankGroup::~RankGroup() {
  run([](const Rank& rank) { (void)rank.device.synchronize(); });
  on_threads([&](int rank) { ranks_[static_cast<size_t>(rank)].device.reset(); });
}

void RankGroup::run(const std::function<void(const Rank&)>& body) {
  on_threads([&](int rank) {
    const Member& member = ranks_[static_cast<size_t>(rank)];
    body({rank, cuda::device_of(*member.device), *member.group});
  });
}

void RankGroup::on_threads(const std::function<void(int)>& body) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size(); ++rank) {
    threads.emplace_back([&, rank] {
      CHECK_EQ(static_cast<int>(cudaSetDevice(rank)), static_cast<int>(cudaSuccess));
      body(rank);
    });
  }
}

std::vector<std::string> RankGroup::all_gather(int rank, const std::string& bytes) {
  ranks_[static_cast<size_t>(rank)].gathered = bytes;
  meet();
  std::vector<std::string> all;
  for (const Member& member : ranks_) all.push_back(member.gathered);
  meet();
  return all;
}

}  // namespace skein::test
