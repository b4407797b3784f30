#include "coordinator/api/text_pool.h"

#include <utility>

namespace skein {

TextPool::TextPool(int threads, size_t jobs_max, Post post)
    : post_(std::move(post)), jobs_(jobs_max) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
}

TextPool::~TextPool() {
  jobs_.close();
  for (std::thread& thread : threads_) thread.join();
}

bool TextPool::submit(std::function<void()> work, std::function<void()> done) {
  return jobs_.try_push({std::move(work), std::move(done)});
}

void TextPool::run() {
  while (std::optional<Job> job = jobs_.pop()) {
    job->work();
    job->work = nullptr;  // what it holds goes before the loop hears of it
    post_(std::move(job->done));
  }
}

}  // namespace skein
