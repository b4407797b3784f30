#include <gtest/gtest.h>

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "kernels/cpu/thread_team.h"
#include "tests/unit/kernels/fixture.h"

namespace skein::test {
namespace {

void busy(std::chrono::nanoseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

// Processor time of all threads but the calling one.
double seconds_of_others() {
  timespec process, thread;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &process);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &thread);
  return static_cast<double>(process.tv_sec - thread.tv_sec) +
         1e-9 * static_cast<double>(process.tv_nsec - thread.tv_nsec);
}

TEST(Device, RefusesAnUnknownInstructionSet) {
  setenv("SKEIN_CPU_ISA", "sse9", 1);
  const auto device = cpu_ops().open({});
  unsetenv("SKEIN_CPU_ISA");
  ASSERT_FALSE(device.ok());
  EXPECT_EQ(device.status().code(), Code::kInvalidArgument);
  EXPECT_NE(device.status().message().find("sse9"), std::string::npos);
}

TEST(Device, RefusesBadThreadCountsAndCores) {
  EXPECT_FALSE(cpu_ops().open({.threads = 0}).ok());
  EXPECT_FALSE(cpu_ops().open({.threads = 2, .pin_threads = true, .first_core = 100000}).ok());
}

// Replicas whose instruction sets differ must not take each other's requests over.
TEST(Device, NamesWhatBitsDependOn) {
  Rank rank("avx2");
  EXPECT_EQ(cpu_ops().numerics(rank.device()), "cpu avx2");
}

TEST(Device, AllocatesAlignedMemoryAndSaysWhenThereIsNone) {
  Rank rank("avx2");
  const Ops& ops = cpu_ops();
  auto small = ops.allocate(rank.device(), 100);
  auto large = ops.allocate(rank.device(), 40 << 20);
  ASSERT_TRUE(small.ok() && large.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(*small) % 64, 0u);
  std::memset(*large, 1, 40 << 20);
  ops.release(rank.device(), *small);
  ops.release(rank.device(), *large);
  const auto too_large = ops.allocate(rank.device(), int64_t{1} << 60);
  ASSERT_FALSE(too_large.ok());
  EXPECT_EQ(too_large.status().code(), Code::kResourceExhausted);
}

TEST(ThreadTeam, RunsEveryPieceOnce) {
  for (int threads : {1, 2, 3, 7}) {
    auto team = ThreadTeam::start({.threads = threads});
    ASSERT_TRUE(team.ok());
    std::vector<int> runs(17);  // plain: what run() returns after must be visible
    for (int job = 0; job < 3000; ++job) {
      const int pieces = job % 18;
      (*team)->run(pieces, [&](int64_t piece, int thread) {
        ASSERT_LT(thread, threads);
        ++runs[static_cast<size_t>(piece)];
      });
    }
    for (int i = 0; i < 17; ++i) {
      const int expected = 3000 / 18 * (17 - i) + std::max(0, 3000 % 18 - 1 - i);
      EXPECT_EQ(runs[static_cast<size_t>(i)], expected);
    }
  }
}

// Two pieces that wait for each other: the second thread must come, also when it had gone to sleep.
TEST(ThreadTeam, WakesSleepers) {
  auto team = ThreadTeam::start({.threads = 2});
  ASSERT_TRUE(team.ok());
  for (int job = 0; job < 100; ++job) {
    busy(std::chrono::microseconds(200));  // longer than they spin; only what is covered depends on it
    std::atomic<int> arrived{0};
    (*team)->run(2, [&](int64_t, int) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield();
    });
    ASSERT_EQ(arrived.load(), 2);
  }
}

TEST(ThreadTeam, UsesNoProcessorTimeWhenIdle) {
  auto team = ThreadTeam::start({.threads = 3});
  ASSERT_TRUE(team.ok());
  (*team)->run(3, [](int64_t, int) {});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  double used = 1;
  while (used > 0.0005 && std::chrono::steady_clock::now() < deadline) {
    const double before = seconds_of_others();
    busy(std::chrono::milliseconds(50));
    used = seconds_of_others() - before;
  }
  EXPECT_LE(used, 0.0005);
}

}  // namespace
}  // namespace skein::test
