#pragma once

#include <memory>
#include <vector>

#include "kernels/ops.h"

namespace skein::cuda {

// This rank's inbox and shared memory, and those of its peers, mapped: between processes by CUDA IPC, within one
// process by peer access. Single-owner: the executor thread.
class Peers {
 public:
  // Null where a device of the group cannot reach another one's memory. `deterministic`: all sums go one way.
  // Collective over the group.
  static Result<std::unique_ptr<Peers>> join(int device_index, bool deterministic, const PeerSetup& setup);
  // Requires: no rank has launches under way.
  ~Peers();

  const PeerGroup& group() const { return group_; }
  // Whether every peer has come in time so far.
  Status status() const;

  // Messages that each channel has room for, by turns.
  static constexpr int kSlots = 3;
  // Blocks of a launch that wait for peers, so many per multiprocessor: all of them run at once.
  static int blocks_per_multiprocessor(int threads) { return threads <= 512 ? 2 : 1; }
  static int row_threads(int64_t row_bytes);

 private:
  struct Introduction;
  Peers() = default;
  static bool exchange(const PeerSetup& setup, const Introduction& mine, std::vector<Introduction>* all);
  bool allocate(const PeerSetup& setup);
  bool reach(int device_index, int peer, const Introduction& introduction);
  int64_t inbox_bytes() const;

  PeerGroup group_;
  std::byte* memory_ = nullptr;  // inbox, then shared
  void* opened_[PeerGroup::kRanksMax] = {};
  std::vector<int> accessed_;    // devices that this one was given access to
};

class CudaDevice;
// add_norm with a `sum`.
void add_norm_over_peers(CudaDevice& device, const AddNormArgs& args);

}  // namespace skein::cuda
