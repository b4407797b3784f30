#include "base/time_slice.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <thread>

namespace skein {
namespace {

struct Attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

Attributes of_this_thread() {
  Attributes attributes{};
  EXPECT_EQ(syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0), 0);
  return attributes;
}

// On threads of their own, so that this one keeps its slice.
class TimeSlices : public ::testing::Test {
 protected:
  void SetUp() override {
    bool has_slices = false;
    on_a_thread([&] {
      Attributes attributes{};
      if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0 || attributes.policy != 0) return;
      attributes.runtime = 200'000;
      if (syscall(SYS_sched_setattr, 0, &attributes, 0) != 0) return;
      has_slices = of_this_thread().runtime == 200'000;
    });
    if (!has_slices) GTEST_SKIP() << "this system has no slices of a thread's own (Linux 6.12)";
  }

  template <typename Body>
  static void on_a_thread(const Body& body) {
    std::thread(body).join();
  }
};

TEST_F(TimeSlices, AreThoseOfTheThreadAndOfThoseThatItStarts) {
  const uint64_t own = of_this_thread().runtime;
  on_a_thread([] {
    EXPECT_TRUE(set_time_slice(TimeSlice::kShort));
    EXPECT_EQ(of_this_thread().runtime, 100'000u);
    on_a_thread([] {
      EXPECT_EQ(of_this_thread().runtime, 100'000u);
      EXPECT_TRUE(set_time_slice(TimeSlice::kSystem));
      EXPECT_GT(of_this_thread().runtime, 100'000u);
    });
    EXPECT_EQ(of_this_thread().runtime, 100'000u);
  });
  EXPECT_EQ(of_this_thread().runtime, own);
}

TEST_F(TimeSlices, LeaveHowNiceAThreadIs) {
  on_a_thread([] {
    ASSERT_EQ(setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), 3), 0);
    EXPECT_TRUE(set_time_slice(TimeSlice::kShort));
    EXPECT_EQ(of_this_thread().nice, 3);
    EXPECT_TRUE(set_time_slice(TimeSlice::kSystem));
    EXPECT_EQ(of_this_thread().nice, 3);
  });
}

}  // namespace
}  // namespace skein
