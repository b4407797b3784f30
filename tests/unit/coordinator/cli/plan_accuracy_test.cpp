#include "coordinator/cli/plan_accuracy.h"

#include <gtest/gtest.h>

#include "coordinator/cli/placement.h"

namespace skein {
namespace {

class PlanAccuracyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ServeConfig config;
    const OptionTable table = serve_options(&config);
    const Status parsed = parse_serve_config({"configs/models/llama-3.1-8b", "--cluster", "configs/clusters/h200-pair.yaml",
                                              "--tensor-parallel-size", "2", "--pipeline-parallel-size", "2"},
                                             table, &config);
    ASSERT_TRUE(parsed.ok()) << parsed.message();
    const Status made = make_placement(config, &placement_);
    ASSERT_TRUE(made.ok()) << made.message();
    ASSERT_EQ(placement_.plan.replicas.size(), 4u);
  }

  std::unique_ptr<Forecast> forecast() const {
    return std::make_unique<Forecast>(placement_.request, placement_.plan.replicas);
  }
  PlanAccuracy accuracy() const { return PlanAccuracy(forecast(), placement_.plan.replicas.size()); }
  // A lone sequence in the middle of its answer.
  StepLoad lone() const {
    const Load& load = placement_.request.models[0].load;
    return {.decodes = 1, .context = load.input_tokens + 0.5 * load.output_tokens};
  }
  // That many steps of lone(), each `slower` times as slow as foretold.
  ReplicaStatus after(uint64_t steps, double slower, uint64_t launch = 1) const {
    const double us = *forecast()->step_us(0, lone(), 1);
    ReplicaStatus status{.launch = launch};
    status.decode_work = {.steps = steps, .seconds = slower * us * 1e-6 * static_cast<double>(steps), .lanes = steps,
                          .decodes = steps, .decode_keys = steps * static_cast<uint64_t>(lone().context)};
    return status;
  }

  Placement placement_;
};

TEST_F(PlanAccuracyTest, TheForecastIsThePlans) {
  const auto steps = forecast();
  for (size_t i = 0; i < placement_.plan.replicas.size(); ++i) {
    const std::optional<double> us = steps->step_us(i, lone(), 1);
    ASSERT_TRUE(us.has_value());
    EXPECT_DOUBLE_EQ(*us / 1e3, placement_.plan.replicas[i].lone.itl_ms);
  }
}

TEST_F(PlanAccuracyTest, TwoLanesShareTheStages) {
  const auto steps = forecast();
  const double one = *steps->step_us(0, lone(), 1);
  const double two = *steps->step_us(0, lone(), 2);
  EXPECT_LT(two, one);
  EXPECT_GE(two, one / 2 * (1 - 1e-9));
  const double half_way = *steps->step_us(0, lone(), 1.5);
  EXPECT_LT(half_way, one);
  EXPECT_GT(half_way, two);
  EXPECT_EQ(*steps->step_us(0, lone(), 7), two) << "there are no more lanes than stages";
}

TEST_F(PlanAccuracyTest, DividesForetoldByMeasuredTime) {
  PlanAccuracy plan = accuracy();
  plan.observe(0, after(0, 1), 0);
  const PlanAccuracy::Ratios ratios = plan.observe(0, after(100, 1.25), 5'000);
  ASSERT_TRUE(ratios.decode.has_value());
  EXPECT_NEAR(*ratios.decode, 0.8, 1e-9);
  EXPECT_FALSE(ratios.prefill.has_value());
  EXPECT_FALSE(plan.observe(1, after(0, 1), 5'000).decode.has_value()) << "another replica";
}

TEST_F(PlanAccuracyTest, AFewStepsSayNothing) {
  PlanAccuracy plan = accuracy();
  plan.observe(0, after(0, 1), 0);
  EXPECT_FALSE(plan.observe(0, after(9, 1), 5'000).decode.has_value());
  EXPECT_TRUE(plan.observe(0, after(10, 1), 10'000).decode.has_value());
}

TEST_F(PlanAccuracyTest, WhatIsLongAgoIsForgotten) {
  PlanAccuracy plan = accuracy();
  plan.observe(0, after(0, 1), 0);
  EXPECT_NEAR(*plan.observe(0, after(1'000, 4), 10'000).decode, 0.25, 1e-9);
  // From here on as foretold.
  ReplicaStatus status = after(1'000, 4);
  const StepWork faster = after(1'000, 1).decode_work;
  for (int64_t at = 20'000; at <= 80'000; at += 10'000) {
    status.decode_work.steps += faster.steps;
    status.decode_work.seconds += faster.seconds;
    status.decode_work.lanes += faster.lanes;
    status.decode_work.decodes += faster.decodes;
    status.decode_work.decode_keys += faster.decode_keys;
    plan.observe(0, status, at);
  }
  EXPECT_NEAR(*plan.observe(0, status, 81'000).decode, 1, 1e-9);
}

TEST_F(PlanAccuracyTest, ANewLaunchStartsAnew) {
  PlanAccuracy plan = accuracy();
  plan.observe(0, after(0, 1), 0);
  plan.observe(0, after(1'000, 2), 10'000);
  // Fewer steps than before: they are another launch's.
  plan.observe(0, after(0, 1, 2), 20'000);
  EXPECT_NEAR(*plan.observe(0, after(100, 1, 2), 30'000).decode, 1, 1e-9);
}

}  // namespace
}  // namespace skein
