#pragma once

#include <barrier>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"

// Two GPUs as the ranks of a group, each driven by a thread of this process.

namespace skein::test {

class RankPair {
 public:
  struct Rank {
    int index;
    cuda::CudaDevice& device;
    const PeerGroup& group;
  };

  static bool there();  // two GPUs that reach each other's memory

  RankPair(int64_t rows, int64_t row_bytes, int64_t shared_bytes = 0, int64_t patience_ns = 5'000'000'000);
  ~RankPair();
  // The body on both ranks' threads at once; their devices are current there.
  void run(const std::function<void(const Rank&)>& body);
  // Both threads of a body.
  void meet() { barrier_.arrive_and_wait(); }
  std::vector<std::string> all_gather(int rank, const std::string& bytes);

 private:
  void on_threads(const std::function<void(int)>& body);
  std::barrier<> barrier_{2};
  std::vector<std::string> gathered_ = std::vector<std::string>(2);
  std::unique_ptr<Device> devices_[2];
  const PeerGroup* groups_[2] = {};
};

}  // namespace skein::test
