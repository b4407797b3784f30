#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "base/bounded_queue.h"

namespace skein {

// Threads for tokenizing and templates, so that the loop never waits for a long text. submit() belongs to the loop.
class TextPool {
 public:
  using Post = std::function<void(std::function<void()>)>;  // hands a call to the loop; thread-safe

  TextPool(int threads, size_t jobs_max, Post post);
  ~TextPool();  // finishes what is queued
  TextPool(const TextPool&) = delete;
  TextPool& operator=(const TextPool&) = delete;

  // Runs `work` on a thread of the pool, then `done` on the loop. False: the queue is full, nothing happens.
  [[nodiscard]] bool submit(std::function<void()> work, std::function<void()> done);

 private:
  struct Job {
    std::function<void()> work, done;
  };

  void run();

  const Post post_;
  BoundedQueue<Job> jobs_;
  std::vector<std::thread> threads_;
};

}  // namespace skein
