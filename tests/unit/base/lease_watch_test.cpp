#include "base/lease_watch.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

TEST(LeaseWatch, CountsTheTimeSinceTheLastSign) {
  LeaseWatch watch;
  watch.heard(1000);
  EXPECT_EQ(watch.silent_ms(1050), 50);
  EXPECT_EQ(watch.silent_ms(1400), 400);
  watch.heard(1410);
  EXPECT_EQ(watch.silent_ms(1420), 10);
}

TEST(LeaseWatch, DoesNotCountWhatItSleptThrough) {
  LeaseWatch watch;
  watch.heard(0);
  EXPECT_EQ(watch.silent_ms(100), 100);
  EXPECT_EQ(watch.silent_ms(60'000), 100 + LeaseWatch::kLookMsMax);
  EXPECT_EQ(watch.silent_ms(60'100), 200 + LeaseWatch::kLookMsMax);
}

}  // namespace
}  // namespace skein
