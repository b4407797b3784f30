#include "worker/probe_timer.h"

#include <gtest/gtest.h>

namespace skein {
namespace {

double joined(const std::vector<double>& times) {
  std::vector<std::vector<ProbeSample>> passes;
  for (const double us : times) passes.push_back({{.what = "read", .us = 7}, {.what = "product", .us = us}});
  const std::vector<ProbeSample> samples = join_passes(passes);
  EXPECT_EQ(samples.at(0).us, 7);
  EXPECT_EQ(samples.at(1).what, "product");
  return samples.at(1).us;
}

TEST(JoinPasses, TheMedianOfThoseNotFarFromTheBest) {
  EXPECT_EQ(joined({12, 10, 11}), 11);
  EXPECT_EQ(joined({10}), 10);
  EXPECT_EQ(joined({30, 10, 12}), 10) << "one does not count";
  EXPECT_EQ(joined({30, 31, 10}), 10) << "the median would be one that does not";
  EXPECT_EQ(joined({15, 10, 15}), 15) << "half as long again is not too far";
}

}  // namespace
}  // namespace skein
