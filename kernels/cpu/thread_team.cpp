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
#include "base/time_slice.h"

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
  std::unique_ptr<ThreadTeam> team(new ThreadTeam(config.threads));
  if (config.threads <= CPU_COUNT(&allowed)) team->spin_ns_ = config.pin ? kPinnedSpinNs : kSpinNs;
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
  stop_.store(true);
  jobs_.fetch_add(1);
  wake_all(jobs_);
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::dispatch(Call call, const void* data, int64_t pieces) {
  CHECK_LE(pieces, INT32_MAX);  // claims in vain can't overflow the half, either
  call_ = call;
  data_ = data;
  done_.store(0, std::memory_order_relaxed);
  ticket_.store(static_cast<uint64_t>(pieces) << 32, std::memory_order_release);
  // Sequentially consistent, as in wait_for_job: either we see the sleeper, or it sees the job.
  jobs_.fetch_add(1);
  if (sleepers_.load() > 0) wake_all(jobs_);
  take_pieces(0);
  const auto count = static_cast<uint32_t>(pieces);
  if (spin_until(spin_ns_, [&] { return done_.load(std::memory_order_acquire) == count; })) return;
  owner_sleeps_.store(1);
  for (uint32_t done = done_.load(); done != count; done = done_.load()) sleep_while(done_, done);
  owner_sleeps_.store(0);
}

void ThreadTeam::take_pieces(int thread) {
  for (;;) {
    const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
    const auto pieces = static_cast<uint32_t>(ticket >> 32);
    const auto piece = static_cast<uint32_t>(ticket);
    if (piece >= pieces) return;
    call_(data_, piece, thread);
    const uint32_t done = done_.fetch_add(1) + 1;
    if (done == pieces && owner_sleeps_.load() != 0) wake_all(done_);
  }
}

bool ThreadTeam::wait_for_job(uint32_t seen) {
  const auto published = [&] { return jobs_.load(std::memory_order_acquire) != seen; };
  if (!spin_until(spin_ns_, published)) {
    sleepers_.fetch_add(1);
    while (jobs_.load() == seen) sleep_while(jobs_, seen);
    sleepers_.fetch_sub(1);
  }
  return !stop_.load();
}

void ThreadTeam::work(int thread) {
  set_time_slice(TimeSlice::kSystem);
  uint32_t seen = 0;
  while (wait_for_job(seen)) {
    seen = jobs_.load();
    take_pieces(thread);
  }
}

}  // namespace skein
