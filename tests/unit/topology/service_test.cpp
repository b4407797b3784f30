// The formulas of topology/service.cpp and the steps of topology/burst.cpp, on replicas whose every step takes 1 ms,
// and 0.5 ms more with a part of a prompt.

#include "topology/service.h"

#include <gtest/gtest.h>

#include "tests/unit/topology/cost_fixture.h"
#include "topology/burst.h"

namespace skein {
namespace {

using test::even_device;
using test::paper_cost;

constexpr double kClose = 1e-4;
constexpr Load kLoad{.request_rate = 0, .input_tokens = 100, .output_tokens = 11};
constexpr ReplicaLimits kLimits{.sequences_max = 64, .step_tokens_max = 103, .kv_tokens = 111 * 40};

class Service : public ::testing::Test {
 protected:
  Service() {
    device_.request_us = 70;
    hop_.point_to_point_us = {.x = {1, 1e9}, .y = {0, 0}};
  }
  ReplicaCost one_stage() const { return paper_cost({{.device = &device_}}); }
  ReplicaCost two_stages(bool gpu = true) const {
    const StageSite site{.device = &device_, .gpu = gpu, .next = {.measured = &hop_}};
    return paper_cost({site, site});
  }
  DeviceCalibration device_ = even_device();
  LinkCalibration hop_;
};

TEST_F(Service, ALoneRequestWaitsForNobody) {
  const Operation lone = operate(one_stage(), kLoad, kLimits, 1);
  EXPECT_NEAR(lone.ttft_ms, 0.070 + 1.5, kClose);
  EXPECT_NEAR(lone.itl_ms, 1, kClose);
  EXPECT_NEAR(lone.request_rate, 1e6 / (1500 + 11 * 1000), kClose);
  EXPECT_NEAR(lone.latency_ms(kLoad), 1.57 + 10, kClose);
}

// Four at once: a prompt adds 500 us, so a request costs 500 + 11 x 1000 / 4.
TEST_F(Service, ManyShareStepsAndWaitForPrompts) {
  const Operation four = operate(one_stage(), kLoad, kLimits, 4);
  EXPECT_NEAR(four.request_rate, 1e6 / 3250, kClose);
  EXPECT_NEAR(four.output_rate, 11e6 / 3250, kClose);
  EXPECT_NEAR(four.itl_ms, 1 + 0.5 * 4 / 11, kClose);
  const double busy = 500.0 / 3250;
  EXPECT_NEAR(four.ttft_ms, (70 + 500 + busy * 500 / (2 * (1 - busy)) + 1500) / 1e3, kClose);
}

TEST_F(Service, ALongPromptIsReadInChunks) {
  const ReplicaLimits narrow{.sequences_max = 64, .step_tokens_max = 53, .kv_tokens = 111 * 40};
  const Operation four = operate(one_stage(), kLoad, narrow, 4);  // 50 tokens beside three decodes
  EXPECT_NEAR(four.request_rate, 1e6 / (1000 + 2750), kClose);
  const double busy = 1000.0 / 3750;
  EXPECT_NEAR(four.ttft_ms, (70 + 500 + busy * 1000 / (2 * (1 - busy)) + 3000) / 1e3, kClose);
}

// Each stage takes half, and two lanes fill both.
TEST_F(Service, LanesOfAPipelineTakeTurns) {
  const Operation four = operate(two_stages(), kLoad, kLimits, 4);
  EXPECT_NEAR(four.request_rate, 1e6 / (250 + 2750), kClose);
  EXPECT_NEAR(operate(two_stages(), kLoad, kLimits, 1).itl_ms, 1, kClose);
}

TEST_F(Service, AsManyRunAsFit) {
  EXPECT_EQ(concurrency_max(kLoad, kLimits), 40);
  EXPECT_EQ(concurrency_max(kLoad, {.sequences_max = 8, .step_tokens_max = 103, .kv_tokens = 111 * 40}), 8);
}

TEST_F(Service, TheLevelBoundsHowManyRun) {
  // 1 + 0.5 b / 11 ms: three.
  const auto best = best_operation(one_stage(), kLoad, {.itl_ms = 1.15}, kLimits);
  ASSERT_TRUE(best.has_value());
  EXPECT_EQ(best->concurrency, 3);
  EXPECT_EQ(best_operation(one_stage(), kLoad, {}, kLimits)->concurrency, 40);
  EXPECT_FALSE(best_operation(one_stage(), kLoad, {.ttft_ms = 1.5}, kLimits).has_value());
  EXPECT_FALSE(best_operation(one_stage(), kLoad, {}, {.kv_tokens = 110}).has_value()) << "not one request fits";
}

TEST_F(Service, ALoadIsServedAtItsRate) {
  const ReplicaLimits wide{.sequences_max = 64, .step_tokens_max = 200, .kv_tokens = 111 * 40};
  Load load = kLoad;
  load.request_rate = 40;  // half of what a lone request after the other gives
  const Operation light = operation_at(one_stage(), load, wide);
  EXPECT_NEAR(light.concurrency, 0.5, kClose);
  EXPECT_NEAR(light.output_rate, 440, kClose);
  load.request_rate = 1e6 / 3250;
  const Operation heavy = operation_at(one_stage(), load, wide);
  EXPECT_NEAR(heavy.concurrency, 4, kClose);
  EXPECT_NEAR(heavy.itl_ms, 1 + 0.5 * 4 / 11, kClose);
}

using BurstOf = Service;

// The first prompt alone, 0 to 1.5 ms; its next token, to 2.5; behind it 100 and 99 tokens of two more prompts, to 4;
// then the last token of the third prompt and the fourth one, to 5.5.
TEST_F(BurstOf, OneStageFillsItsSteps) {
  const ReplicaLimits limits{.sequences_max = 64, .step_tokens_max = 200, .kv_tokens = 111 * 40};
  const Burst four = burst(one_stage(), limits, 4, kLoad);
  EXPECT_NEAR(four.prefill_s * 1e3, 5.5 + 0.07, kClose);
  EXPECT_NEAR(four.decode_step_ms, 1, kClose);
}

// On cores lane 0 gets one prompt, lane 1 two, and so on: no lane runs ahead of the other. Turns of a stage take
// 0.75 ms.
//   stage 0   lane 0: 0 - 0.75     lane 1: 0.75 - 1.5   lane 0: 1.6 - 2.35   lane 1: 2.35 - 3.1
//   stage 1           0.75 - 1.5           1.5 - 2.25           2.35 - 3.1           3.1 - 3.85
TEST_F(BurstOf, LanesOfCoresAdmitTwoPromptsAStep) {
  device_.host_us = 100;
  const ReplicaLimits limits{.sequences_max = 64, .step_tokens_max = 1000, .kv_tokens = 111 * 40};
  const Burst six = burst(two_stages(false), limits, 6, kLoad);
  EXPECT_NEAR(six.prefill_s * 1e3, 3.85 + 0.07, kClose);
  // Seven and eight fit beside the sixth; the ninth makes another turn of lane 0, which waits for its tokens.
  EXPECT_NEAR(burst(two_stages(false), limits, 7, kLoad).prefill_s, six.prefill_s, kClose);
  EXPECT_NEAR(burst(two_stages(false), limits, 8, kLoad).prefill_s * 1e3, 4.7 + 0.07, kClose);
}

// The first prompt is alone; lane 1 then takes three of the five that wait, and lane 0 the other two: one turn less.
TEST_F(BurstOf, ALaneOfGpusTakesWhatTheOtherCanCatchUpWith) {
  device_.host_us = 100;
  const ReplicaLimits limits{.sequences_max = 64, .step_tokens_max = 1000, .kv_tokens = 111 * 40};
  EXPECT_NEAR(burst(two_stages(), limits, 6, kLoad).prefill_s * 1e3, 3.1 + 0.07, kClose);
}

TEST_F(BurstOf, TheNextStageTakesWhatIsHandedOnWhenItIsThrough) {
  hop_.point_to_point_us.y = {200, 200};
  const ReplicaLimits limits{.sequences_max = 64, .step_tokens_max = 1000, .kv_tokens = 111 * 40};
  // Two prompts: 0 - 0.75, hop, 0.95 - 1.7; a GPU begins the second at 0.95, hands it on from 1.7 to 1.9.
  EXPECT_NEAR(burst(two_stages(), limits, 2, kLoad).prefill_s * 1e3, 2.65 + 0.07, kClose);
  // On cores it begins at 0.75, and its part lies in memory by 1.7.
  EXPECT_NEAR(burst(two_stages(false), limits, 2, kLoad).prefill_s * 1e3, 2.45 + 0.07, kClose);
}

TEST_F(BurstOf, WhatDoesNotRunAtOnceComesAtTheRateOfAFullReplica) {
  const ReplicaLimits four{.sequences_max = 4, .step_tokens_max = 200, .kv_tokens = 111 * 40};
  EXPECT_NEAR(burst(one_stage(), four, 14, kLoad).prefill_s - burst(one_stage(), four, 4, kLoad).prefill_s,
              10 / operate(one_stage(), kLoad, four, 4).request_rate, kClose);
}

// Answers of one token make room for nobody's decodes.
TEST_F(BurstOf, AnAnswerOfOneTokenEndsWithThePrompt) {
  Load load = kLoad;
  load.output_tokens = 1;
  const ReplicaLimits limits{.sequences_max = 64, .step_tokens_max = 200, .kv_tokens = 111 * 40};
  // 0 - 1.5 the first, - 3 two more, - 4.5 the fourth.
  EXPECT_NEAR(burst(one_stage(), limits, 4, load).prefill_s * 1e3, 4.5 + 0.07, kClose);
}

}  // namespace
}  // namespace skein
