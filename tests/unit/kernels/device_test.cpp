#include <gtest/gtest.h>

#include <time.h>

#include <cstdlib>
#include <cstring>
#include <set>
#include <thread>

#include "kernels/cpu/thread_team.h"
#include "tests/unit/kernels/fixture.h"

namespace skein::test {
namespace {

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

TEST(ThreadTeam, RunsEveryThreadOncePerJob) {
  for (int threads : {1, 2, 3, 7}) {
    auto team = ThreadTeam::start({.threads = threads});
    ASSERT_TRUE(team.ok());
    std::vector<int64_t> runs(static_cast<size_t>(threads) * 16);
    int64_t expected = 0;
    for (int job = 0; job < 2000; ++job) {
      (*team)->run([&](int thread) { runs[static_cast<size_t>(thread) * 16] += job; });
      expected += job;
    }
    for (int i = 0; i < threads; ++i) EXPECT_EQ(runs[static_cast<size_t>(i) * 16], expected);
  }
}

// Every job starts on threads that have gone to sleep: the wake-up may not be lost.
TEST(ThreadTeam, WakesSleepers) {
  auto team = ThreadTeam::start({.threads = 4});
  ASSERT_TRUE(team.ok());
  for (int job = 0; job < 100; ++job) {
    timespec pause = {0, 200'000};
    nanosleep(&pause, nullptr);  // longer than they spin; nothing depends on it but what is covered
    std::atomic<int> ran{0};
    (*team)->run([&](int) { ran.fetch_add(1); });
    ASSERT_EQ(ran.load(), 4);
  }
}

TEST(ThreadTeam, UsesNoProcessorTimeWhenIdle) {
  auto team = ThreadTeam::start({.threads = 3});
  ASSERT_TRUE(team.ok());
  (*team)->run([](int) {});
  timespec before, after;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  timespec pause = {0, 100'000'000};
  nanosleep(&pause, nullptr);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  const double used = static_cast<double>(after.tv_sec - before.tv_sec) +
                      1e-9 * static_cast<double>(after.tv_nsec - before.tv_nsec);
  EXPECT_LT(used, 0.02);
}

}  // namespace
}  // namespace skein::test
