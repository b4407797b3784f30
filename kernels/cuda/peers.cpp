#include "kernels/cuda/peers.h"

#include <cuda_runtime.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/checked.h"
#include "base/log.h"

namespace skein::cuda {
namespace {

constexpr int64_t kAlignment = 256;
constexpr int64_t kThreadBytes = 16;
constexpr int64_t kChannelBytesMin = 4096;  // peer_meet()'s values
constexpr int64_t kOneTripBytes = int64_t{768} << 10;  // of all ranks; more take less time in two trips
constexpr int kThreadsMax = 1024;

// A call whose failure means that the group does without: the error is not left behind for the next launch.
bool works(cudaError_t error) {
  if (error == cudaSuccess) return true;
  cudaGetLastError();
  return false;
}

}  // namespace

// What a rank tells the others, as bytes.
struct Peers::Introduction {
  int32_t ready;
  int32_t multiprocessors;
  int32_t process;
  int32_t device_index;
  std::byte* memory;
  cudaIpcMemHandle_t handle;
};

int Peers::row_threads(int64_t row_bytes) {
  const int64_t chunks = ceil_div(row_bytes, kThreadBytes);
  const int64_t threads = chunks <= kThreadsMax ? chunks : ceil_div<int64_t>(chunks, 2);
  return static_cast<int>(round_up<int64_t>(threads, 32));
}

int64_t Peers::inbox_bytes() const { return group_.channels * kSlots * (group_.size - 1) * group_.channel_bytes; }

bool Peers::allocate(const PeerSetup& setup) {
  const int64_t bytes = inbox_bytes() + round_up(setup.shared_bytes, kAlignment);
  void* memory = nullptr;
  if (!works(cudaMalloc(&memory, static_cast<size_t>(bytes)))) return false;
  memory_ = static_cast<std::byte*>(memory);
  void* states = nullptr;
  const size_t state_bytes = static_cast<size_t>(group_.channels + 1) * sizeof(uint64_t);
  if (!works(cudaMalloc(&states, state_bytes))) return false;
  group_.states = static_cast<uint64_t*>(states);
  group_.gave_up = reinterpret_cast<uint32_t*>(group_.states + group_.channels);
  void* failed = nullptr;
  if (!works(cudaMallocHost(&failed, sizeof(uint32_t)))) return false;
  group_.failed = static_cast<uint32_t*>(failed);
  *group_.failed = 0;
  // Words of an inbox are all ones while nothing has come (peers.cuh).
  return works(cudaMemset(memory_, 0xff, static_cast<size_t>(inbox_bytes()))) &&
         works(cudaMemset(states, 0, state_bytes)) && works(cudaDeviceSynchronize());
}

bool Peers::reach(int device_index, int peer, const Introduction& introduction) {
  std::byte* memory = introduction.memory;
  if (peer == group_.rank) {
    memory = memory_;
  } else if (introduction.process == getpid()) {
    int can = 0;
    if (!works(cudaDeviceCanAccessPeer(&can, device_index, introduction.device_index)) || can == 0) return false;
    const cudaError_t error = cudaDeviceEnablePeerAccess(introduction.device_index, 0);
    if (works(error)) {
      accessed_.push_back(introduction.device_index);
    } else if (error != cudaErrorPeerAccessAlreadyEnabled) {
      return false;
    }
  } else {
    if (!works(cudaIpcOpenMemHandle(&opened_[peer], introduction.handle, cudaIpcMemLazyEnablePeerAccess))) return false;
    memory = static_cast<std::byte*>(opened_[peer]);
  }
  group_.inboxes[peer] = memory;
  group_.shared[peer] = memory + inbox_bytes();
  return true;
}

// Every rank's introduction, by rank; whether all of them are ready.
bool Peers::exchange(const PeerSetup& setup, const Introduction& mine, std::vector<Introduction>* all) {
  all->clear();
  for (const std::string& bytes : setup.all_gather({reinterpret_cast<const char*>(&mine), sizeof mine})) {
    CHECK_EQ(bytes.size(), sizeof mine);
    std::memcpy(&all->emplace_back(), bytes.data(), sizeof mine);
  }
  CHECK_EQ(static_cast<int>(all->size()), setup.size);
  return std::ranges::all_of(*all, [](const Introduction& rank) { return rank.ready != 0; });
}

// Always three exchanges: all_gather may serve several groups at once, and each of them ends as it ends.
Result<std::unique_ptr<Peers>> Peers::join(int device_index, bool deterministic, const PeerSetup& setup) {
  CHECK(setup.size > 1 && setup.rank >= 0 && setup.rank < setup.size);
  CHECK(setup.rows > 0 && setup.row_bytes > 0 && setup.shared_bytes >= 0);
  std::unique_ptr<Peers> peers(new Peers);
  PeerGroup& group = peers->group_;
  std::vector<Introduction> all;

  // Who is there: inboxes must be cut in the same way everywhere.
  Introduction mine{};
  mine.process = getpid();
  mine.device_index = device_index;
  mine.ready = setup.one_host && setup.size <= PeerGroup::kRanksMax && setup.row_bytes % kThreadBytes == 0 &&
               setup.row_bytes <= 2 * kThreadsMax * kThreadBytes &&
               works(cudaDeviceGetAttribute(&mine.multiprocessors, cudaDevAttrMultiProcessorCount, device_index));
  bool good = exchange(setup, mine, &all);

  // Memory; nobody writes to it before all have emptied their inboxes.
  if (good) {
    group.rank = setup.rank;
    group.size = setup.size;
    group.patience_ns = setup.patience_ns;
    const auto least = std::ranges::min_element(all, {}, &Introduction::multiprocessors);
    group.channels = least->multiprocessors * blocks_per_multiprocessor(row_threads(setup.row_bytes));
    int64_t rows = ceil_div<int64_t>(setup.rows, group.channels);
    if (setup.size > 2) {
      const int64_t one_trip_bytes = kOneTripBytes / setup.size;
      rows = std::max(2 * ceil_div<int64_t>(rows, setup.size),
                      ceil_div(one_trip_bytes, group.channels * setup.row_bytes));
      if (!deterministic) group.one_trip_bytes = one_trip_bytes;
    }
    group.channel_bytes = std::max(rows, ceil_div(kChannelBytesMin, setup.row_bytes)) * setup.row_bytes;
    good = peers->allocate(setup) && works(cudaIpcGetMemHandle(&mine.handle, peers->memory_));
  }
  mine.memory = peers->memory_;
  mine.ready = good;
  good = exchange(setup, mine, &all);

  for (int peer = 0; good && peer < setup.size; ++peer) {
    good = peers->reach(device_index, peer, all[static_cast<size_t>(peer)]);
  }
  mine.ready = good;
  if (exchange(setup, mine, &all)) return peers;
  if (setup.rank == 0) log_info("the GPUs cannot write to each other's memory: NCCL carries all sums");
  return std::unique_ptr<Peers>();
}

Peers::~Peers() {
  for (void* memory : opened_) {
    if (memory != nullptr) cudaIpcCloseMemHandle(memory);
  }
  for (const int device : accessed_) cudaDeviceDisablePeerAccess(device);
  cudaFree(memory_);
  cudaFree(group_.states);
  cudaFreeHost(group_.failed);
}

Status Peers::status() const {
  if (*static_cast<const volatile uint32_t*>(group_.failed) == 0) return {};
  return {Code::kUnavailable,
          "another GPU of the replica did not send its part of a sum within " +
              std::to_string(group_.patience_ns / 1'000'000) + " ms",
          Scope::kReplica};
}

}  // namespace skein::cuda
