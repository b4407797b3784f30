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

// Threads that run one function together and wait for each other. A thread that waits spins for some tens
// of microseconds (not at all where threads outnumber cores), then sleeps in the kernel. Single-owner: run()
// is called from one thread at a time, which takes part as thread 0.
class ThreadTeam {
 public:
  // Pins the calling thread too. kInvalidArgument if a core to pin to isn't available to this process.
  static Result<std::unique_ptr<ThreadTeam>> start(const TeamConfig& config);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(thread) on every thread, 0 to size() - 1, and returns when all have returned.
  template <typename Body>
  void run(const Body& body) {
    if (threads_.empty()) {
      body(0);
      return;
    }
    dispatch([](const void* data, int thread) { (*static_cast<const Body*>(data))(thread); }, &body);
  }

 private:
  using Call = void (*)(const void* data, int thread);

  ThreadTeam() = default;
  void dispatch(Call call, const void* data);
  void work(int thread);
  bool wait_for_job(uint32_t seen);  // false: stop

  int64_t spin_ns_ = 0;
  Call call_ = nullptr;
  const void* data_ = nullptr;
  bool stop_ = false;  // published by jobs_, as call_ and data_ are
  alignas(64) std::atomic<uint32_t> jobs_{0};  // how many were published
  std::atomic<uint32_t> sleepers_{0};
  alignas(64) std::atomic<uint32_t> pending_{0};  // threads that haven't finished the job
  std::atomic<uint32_t> owner_sleeps_{0};
  std::vector<std::thread> threads_;
};

}  // namespace skein
