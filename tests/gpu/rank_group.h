#pragma once

#include <barrier>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"

// GPUs as the ranks of a group, each driven by a thread of this process.

namespace skein::test {

class RankGroup {
 public:
  struct Rank {
    int index;
    cuda::CudaDevice& device;
    const PeerGroup& group;
  };
  struct Setup {
    int64_t rows;
    int64_t row_bytes;
    int64_t shared_bytes = 0;
    int64_t patience_ns = 5'000'000'000;
    bool deterministic = false;
  };

  static bool there(int size);  // so many GPUs that reach each other's memory

  RankGroup(int size, const Setup& setup);
  ~RankGroup();
  int size() const { return static_cast<int>(ranks_.size()); }
  // The body on all ranks' threads at once; their devices are current there.
  void run(const std::function<void(const Rank&)>& body);
  // All threads of a body.
  void meet() { barrier_.arrive_and_wait(); }
  std::vector<std::string> all_gather(int rank, const std::string& bytes);

 private:
  struct Member {
    std::unique_ptr<Device> device;
    const PeerGroup* group = nullptr;
    std::string gathered;
  };
  void on_threads(const std::function<void(int)>& body);
  std::barrier<> barrier_;
  std::vector<Member> ranks_;
};

}  // namespace skein::test
