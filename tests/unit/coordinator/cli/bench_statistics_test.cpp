#include "coordinator/cli/bench_statistics.h"

#include <gtest/gtest.h>

#include <limits>

namespace skein {
namespace {

TEST(Median, OfOddAndEvenNumbers) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
}

TEST(Durations, HaveNoFiguresWithoutSamples) {
  const Durations none;
  EXPECT_EQ(none.count(), 0);
  EXPECT_EQ(none.percentile_ms(0.99), 0);
  EXPECT_EQ(none.mean_ms(), 0);
}

TEST(Durations, PercentilesAreThoseOfTheNearestRank) {
  Durations durations;
  for (int ms = 100; ms >= 1; --ms) durations.add(ms * 1e-3);
  EXPECT_NEAR(durations.percentile_ms(0.5), 50, 0.05);
  EXPECT_NEAR(durations.percentile_ms(0.9), 90, 0.09);
  EXPECT_NEAR(durations.percentile_ms(0.95), 95, 0.095);
  EXPECT_NEAR(durations.percentile_ms(0.99), 99, 0.099);
  EXPECT_NEAR(durations.percentile_ms(0), 1, 0.001);
  EXPECT_NEAR(durations.mean_ms(), 50.5, 1e-9);
  EXPECT_EQ(durations.max_ms(), 100);
  EXPECT_EQ(durations.count(), 100);
}

TEST(Durations, AreRightToATenthOfAPercentFromNanosecondsToHours) {
  for (double seconds = 1e-9; seconds < 15000; seconds *= 1.37) {
    Durations durations;
    durations.add(seconds / 100);  // so that the one asked for is not the least or the greatest
    durations.add(seconds);
    durations.add(seconds * 100);
    EXPECT_NEAR(durations.percentile_ms(0.5), seconds * 1e3, seconds * 1.0001 + 1e-6) << seconds;
  }
}

TEST(Durations, CountASampleSeveralTimes) {
  Durations durations;
  durations.add(0.010, 3);
  durations.add(0.050);
  durations.add(1, 0);
  EXPECT_EQ(durations.count(), 4);
  EXPECT_NEAR(durations.percentile_ms(0.75), 10, 0.01);
  EXPECT_NEAR(durations.mean_ms(), 20, 1e-9);
  EXPECT_EQ(durations.max_ms(), 50);
}

TEST(Durations, TakeWhatNoClockShouldSay) {
  Durations durations;
  durations.add(-1);
  durations.add(1e12);
  EXPECT_EQ(durations.percentile_ms(0.5), 0);
  EXPECT_EQ(durations.max_ms(), 1e15);
}

TEST(Range, IsOneNumberOrTwo) {
  EXPECT_EQ(parse_range("7")->least, 7);
  EXPECT_EQ(parse_range("7")->most, 7);
  EXPECT_EQ(parse_range("7:9")->most, 9);
  EXPECT_EQ(parse_range("0:9", 0)->least, 0);
  for (const char* bad : {"", ":", "0", "9:7", "7:", ":7", "7:8:9", "a", "-1", "1e3", "2000000"}) {
    EXPECT_FALSE(parse_range(bad).ok()) << bad;
  }
}

TEST(Range, IsDrawnFromEvenly) {
  BenchRandom random(3);
  int counts[4] = {};
  for (int i = 0; i < 40000; ++i) ++counts[random.within({2, 5}) - 2];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);
}

TEST(Schedule, IsAPoissonProcessOfTheAskedRate) {
  constexpr int kArrivals = 100000;
  ArrivalSchedule schedule(20, kArrivals, 1);
  double before = schedule.next_s();
  EXPECT_EQ(before, 0);
  int longer_than_mean = 0;
  for (int i = 1; i < kArrivals; ++i) {
    const double next = schedule.next_s();
    ASSERT_GE(next, before);
    longer_than_mean += next - before > 0.05;
    before = next;
  }
  EXPECT_NEAR(before, (kArrivals - 1) / 20.0, 1e-6);
  EXPECT_NEAR(longer_than_mean, kArrivals * 0.3679, kArrivals * 0.01);  // 1 / e
}

TEST(Schedule, FollowsFromItsSeed) {
  ArrivalSchedule one(5, 10, 1), same(5, 10, 1), other(5, 10, 2);
  one.next_s(), same.next_s(), other.next_s();
  const double second = one.next_s();
  EXPECT_EQ(second, same.next_s());
  EXPECT_NE(second, other.next_s());
}

TEST(Schedule, SendsAllAtOnceAtAnInfiniteRate) {
  ArrivalSchedule schedule(std::numeric_limits<double>::infinity(), 3, 1);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(schedule.next_s(), 0);
  EXPECT_EQ(ArrivalSchedule(5, 1, 1).next_s(), 0);
}

TEST(Goodput, IsReadAndRefused) {
  const Result<GoodputLimits> limits = parse_goodput("ttft:500,e2e:9000.5");
  ASSERT_TRUE(limits.ok());
  EXPECT_EQ(limits->ttft_ms, 500);
  EXPECT_FALSE(limits->itl_ms.has_value());
  EXPECT_EQ(limits->e2e_ms, 9000.5);
  for (const char* bad : {"", "ttft", "ttft:", "ttft:0", "ttft:-1", "ttft:x", "ttft:1,ttft:2", "ttf:1", "ttft:inf",
                          "ttft:nan", ",ttft:1"}) {
    EXPECT_FALSE(parse_goodput(bad).ok()) << bad;
  }
}

TEST(Goodput, NeedsEveryLimitMet) {
  const GoodputLimits limits{.ttft_ms = 500, .itl_ms = 30, .e2e_ms = 9000};
  const RequestTimes good{.ttft_s = 0.5, .e2e_s = 9, .tpot_s = 0.03};
  EXPECT_TRUE(limits.met_by(good));
  EXPECT_FALSE(limits.met_by({.ttft_s = 0.501, .e2e_s = 9, .tpot_s = 0.03}));
  EXPECT_FALSE(limits.met_by({.ttft_s = 0.5, .e2e_s = 9, .tpot_s = 0.031}));
  EXPECT_FALSE(limits.met_by({.ttft_s = 0.5, .e2e_s = 9.1, .tpot_s = 0.03}));
  EXPECT_TRUE(limits.met_by({.ttft_s = 0.5, .e2e_s = 9, .tpot_s = {}}));
  EXPECT_TRUE(GoodputLimits().met_by(good));
}

}  // namespace
}  // namespace skein
