#include "kernels/cpu/thread_team.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>
#include <string>

#include "base/check.h"

namespace skein {
namespace {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

// Long enough to bridge a step's serial operations, short enough not to matter to a neighbour.
constexpr int64_t kSpinNs = 30'000;
constexpr int64_t kPinnedSpinNs = 60'000;

void sleep_while(std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

// Whether `done` came true within the time.
template <typename Done>
bool spin_until(int64_t spin_ns, const Done& done) {
  if (done()) return true;
  if (spin_ns == 0) return false;
  const int64_t deadline = now_ns() + spin_ns;
  do {
    for (int i = 0; i < 16; ++i) {
      __builtin_ia32_pause();
      if (done()) return true;
    }
  } while (now_ns() < deadline);
  return false;
}

Status pin(pthread_t thread, const cpu_set_t& allowed, int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (core >= 0 && core < CPU_SETSIZE && CPU_ISSET(core, &allowed)) {
    CPU_SET(core, &set);
    if (pthread_setaffinity_np(thread, sizeof(set), &set) == 0) return {};
  }
  return invalid_argument("a worker thread can't be pinned to core " + std::to_string(core) +
                          ", which this process may not use: lower the thread count or don't pin");
}

}  // namespace

Result<std::unique_ptr<ThreadTeam>> ThreadTeam::start(const TeamConfig& config) {
  CHECK_GE(config.threads, 1);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  CHECK_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  std::unique_ptr<ThreadTeam> team(new ThreadTeam);
  if (config.threads <= CPU_COUNT(&allowed)) team->spin_ns_ = config.pin ? kPinnedSpinNs : kSpinNs;
  // threads_ must not change once a thread looks at the team, so it is complete before the first job.
  team->threads_.reserve(static_cast<size_t>(config.threads - 1));
  for (int i = 1; i < config.threads; ++i) {
    team->threads_.emplace_back([team = team.get(), i] { team->work(i); });
  }
  if (config.pin) {
    RETURN_IF_ERROR(pin(pthread_self(), allowed, config.first_core));
    for (int i = 1; i < config.threads; ++i) {
      RETURN_IF_ERROR(pin(team->threads_[static_cast<size_t>(i - 1)].native_handle(), allowed,
                          config.first_core + i));
    }
  }
  return team;
}

ThreadTeam::~ThreadTeam() {
  stop_ = true;
  jobs_.fetch_add(1);
  wake_all(jobs_);
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::dispatch(Call call, const void* data) {
  call_ = call;
  data_ = data;
  pending_.store(static_cast<uint32_t>(threads_.size()), std::memory_order_relaxed);
  // Sequentially consistent, as in wait_for_job: either we see the sleeper, or it sees the job.
  jobs_.fetch_add(1);
  if (sleepers_.load() > 0) wake_all(jobs_);
  call(data, 0);
  if (spin_until(spin_ns_, [&] { return pending_.load(std::memory_order_acquire) == 0; })) return;
  owner_sleeps_.store(1);
  for (uint32_t left = pending_.load(); left != 0; left = pending_.load()) {
    sleep_while(pending_, left);
  }
  owner_sleeps_.store(0);
}

bool ThreadTeam::wait_for_job(uint32_t seen) {
  const auto published = [&] { return jobs_.load(std::memory_order_acquire) != seen; };
  if (!spin_until(spin_ns_, published)) {
    sleepers_.fetch_add(1);
    while (jobs_.load() == seen) sleep_while(jobs_, seen);
    sleepers_.fetch_sub(1);
  }
  return !stop_;
}

void ThreadTeam::work(int thread) {
  for (uint32_t seen = 0; wait_for_job(seen); ++seen) {
    call_(data_, thread);
    if (pending_.fetch_sub(1) == 1 && owner_sleeps_.load() != 0) wake_all(pending_);
  }
}

}  // namespace skein
