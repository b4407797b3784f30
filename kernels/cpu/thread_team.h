#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "base/status.h"

namespace skein {

struct TeamConfig {
  int threads = 1;  // the calling one included
  bool pin = false;
  int first_core = 0;
};

// Threads that share the pieces of a job. Whoever is free takes the next piece, the calling thread too: a
// thread that the system has put aside delays nothing but the piece that it is in. Idle threads spin for some
// tens of microseconds (not at all where threads outnumber cores), then sleep in the kernel. Single-owner:
// run() is called from one thread at a time, which counts as thread 0.
class ThreadTeam {
 public:
  // Pins the calling thread too. kInvalidArgument if a core to pin to isn't available to this process.
  static Result<std::unique_ptr<ThreadTeam>> start(const TeamConfig& config);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return size_; }

  // Calls body(piece, thread) once for each piece, 0 to pieces - 1, on any threads of 0 to size() - 1, and
  // returns when all calls have. Requires: 0 <= pieces < 2^31.
  template <typename Body>
  void run(int64_t pieces, const Body& body) {
    if (size_ == 1 || pieces <= 1) {
      for (int64_t piece = 0; piece < pieces; ++piece) body(piece, 0);
      return;
    }
    dispatch(
        [](const void* data, int64_t piece, int thread) {
          (*static_cast<const Body*>(data))(piece, thread);
        },
        &body, pieces);
  }

 private:
  using Call = void (*)(const void* data, int64_t piece, int thread);

  explicit ThreadTeam(int size) : size_(size) {}
  void dispatch(Call call, const void* data, int64_t pieces);
  void take_pieces(int thread);
  void work(int thread);
  bool wait_for_job(uint32_t seen);  // false: stop

  const int size_;
  int64_t spin_ns_ = 0;
  // Written while no piece is open, published by ticket_.
  Call call_ = nullptr;
  const void* data_ = nullptr;
  // Pieces of the job (high half) and the next one to take. One addition claims a piece of whatever job is
  // open; that job can't end, nor call_ and data_ change, before the piece is done.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> done_{0};  // pieces of the job that are done
  std::atomic<uint32_t> owner_sleeps_{0};
  alignas(64) std::atomic<uint32_t> jobs_{0};  // how many were published; what idle threads watch
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace skein
