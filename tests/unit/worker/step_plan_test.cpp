#include "worker/step_plan.h"

#include <gtest/gtest.h>

#include <random>
#include <string_view>

namespace skein {
namespace {

// Every byte of `count` structs without padding.
template <typename T>
std::string_view raw(const T* structs, size_t count) {
  return {reinterpret_cast<const char*>(structs), count * sizeof(T)};
}

StepPlan sample_plan() {
  StepPlan plan;
  plan.step = 0x123456789abc;
  plan.lane = 2;
  SlotAdmission admission;
  admission.slot = 3;
  admission.tokens = {10, 20, 30};
  SlotSampling& sampling = admission.sampling;
  sampling.temperature = 0.5f;
  sampling.top_p = 0.25f;
  sampling.min_p = 0.125f;
  sampling.top_k = 7;
  sampling.presence_penalty = 1.5f;
  sampling.frequency_penalty = -1.5f;
  sampling.repetition_penalty = 1.25f;
  sampling.prompt_tokens = 2;
  sampling.min_tokens = 4;
  sampling.top_logprobs = 5;
  sampling.seed = 0xfedcba9876543210;
  sampling.bias_count = 2;
  sampling.bias_tokens[0] = 8;
  sampling.bias_values[0] = -100;
  sampling.bias_tokens[1] = 9;
  sampling.bias_values[1] = 3.5f;
  sampling.stop_count = 1;
  sampling.stop_tokens[0] = 49;
  plan.admissions.push_back(admission);
  plan.assignments.push_back({.group = 1, .slot = 3, .first = 4, .blocks = {11, 12}});
  plan.copies.push_back({.group = 1, .source = 5, .destination = 6});
  plan.rows.push_back({.slot = 3, .first_position = -1, .tokens = 1});
  plan.rows.push_back({.slot = 4, .first_position = 8, .tokens = 5});
  plan.sample_queries = {0, 3, 5};
  plan.samples = {{3, 2, 0}, {4, 10, 1}, {4, 12, 0}};
  return plan;
}

StepResult sample_result() {
  StepResult result;
  result.step = 77;
  result.waited_ns = 12'345;
  result.samples.resize(2);
  result.samples[0].token = -2;
  SampledToken& full = result.samples[1];
  full.token = 5;
  full.logprob = -0.5f;
  full.rank = 2;
  full.top_count = 2;
  full.top_tokens[0] = 4;
  full.top_tokens[1] = 5;
  full.top_logprobs[0] = -0.25f;
  full.top_logprobs[1] = -0.5f;
  return result;
}

template <typename T>
std::string bytes_of(const T& value) {
  std::string bytes;
  encode(value, &bytes);
  return bytes;
}

TEST(StepPlan, SurvivesTheWire) {
  const StepPlan plan = sample_plan();
  const auto decoded = decode_step_plan(bytes_of(plan));
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(decoded->step, plan.step);
  EXPECT_EQ(decoded->lane, 2);
  EXPECT_FALSE(decoded->stop);
  ASSERT_EQ(decoded->admissions.size(), 1u);
  EXPECT_EQ(decoded->admissions[0].slot, 3);
  EXPECT_EQ(decoded->admissions[0].tokens, plan.admissions[0].tokens);
  // The structs are without padding, so that this compares every field and every unused entry.
  EXPECT_EQ(raw(&decoded->admissions[0].sampling, 1), raw(&plan.admissions[0].sampling, 1));
  EXPECT_EQ(decoded->assignments[0].group, 1);
  EXPECT_EQ(decoded->assignments[0].slot, 3);
  EXPECT_EQ(decoded->assignments[0].first, 4);
  EXPECT_EQ(decoded->assignments[0].blocks, (std::vector<int32_t>{11, 12}));
  EXPECT_EQ(raw(decoded->copies.data(), 1), raw(plan.copies.data(), 1));
  EXPECT_EQ(raw(decoded->rows.data(), 2), raw(plan.rows.data(), 2));
  EXPECT_EQ(decoded->sample_queries, plan.sample_queries);
  EXPECT_EQ(raw(decoded->samples.data(), 3), raw(plan.samples.data(), 3));
  EXPECT_EQ(decoded->tokens(), 6);
}

TEST(StepPlan, StopSurvivesTheWire) {
  StepPlan plan;
  plan.stop = true;
  const auto decoded = decode_step_plan(bytes_of(plan));
  ASSERT_TRUE(decoded.ok());
  EXPECT_TRUE(decoded->stop);
}

TEST(StepPlan, UnusedSamplingEntriesTakeNoRoom) {
  StepPlan plan;
  plan.admissions.push_back({.slot = 0, .tokens = {1}, .sampling = {}});
  EXPECT_LT(bytes_of(plan).size(), 150u);
}

TEST(StepResult, SurvivesTheWire) {
  const StepResult result = sample_result();
  const auto decoded = decode_step_result(bytes_of(result));
  ASSERT_TRUE(decoded.ok()) << decoded.status().message();
  EXPECT_EQ(decoded->step, 77u);
  EXPECT_EQ(decoded->waited_ns, 12'345);
  ASSERT_EQ(decoded->samples.size(), 2u);
  EXPECT_EQ(raw(decoded->samples.data(), 2), raw(result.samples.data(), 2));
}

TEST(StepPlan, EveryTruncationAndExtensionIsRefused) {
  const std::string plan = bytes_of(sample_plan());
  for (size_t size = 0; size < plan.size(); ++size) {
    EXPECT_FALSE(decode_step_plan(plan.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(decode_step_plan(plan + '\0').ok());
  const std::string result = bytes_of(sample_result());
  for (size_t size = 0; size < result.size(); ++size) {
    EXPECT_FALSE(decode_step_result(result.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(decode_step_result(result + '\0').ok());
  EXPECT_FALSE(decode_step_plan(result).ok());
  EXPECT_FALSE(decode_step_result(plan).ok());
}

// What decodes at all encodes to the same bytes again: nothing was invented or dropped.
TEST(StepPlan, ChangedBytesAreRefusedOrMeanSomethingElse) {
  const std::string plan = bytes_of(sample_plan());
  const std::string result = bytes_of(sample_result());
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string bytes = i % 2 == 0 ? plan : result;
    for (int changes = 1 + i % 3; changes > 0; --changes) {
      bytes[random() % bytes.size()] = static_cast<char>(random() % 4 == 0 ? 0xff : random());
    }
    const auto decoded_plan = decode_step_plan(bytes);
    const auto decoded_result = decode_step_result(bytes);
    if (decoded_plan.ok()) {
      EXPECT_EQ(bytes_of(*decoded_plan), bytes);
    } else if (decoded_result.ok()) {
      EXPECT_EQ(bytes_of(*decoded_result), bytes);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 5000);
}

TEST(StepPlan, RefusesWhatContradictsItself) {
  const auto refused = [](auto change) {
    StepPlan plan = sample_plan();
    change(plan);
    return !decode_step_plan(bytes_of(plan)).ok();
  };
  EXPECT_FALSE(refused([](StepPlan&) {}));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.lane = -1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.rows[0].slot = -1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.rows[0].first_position = -2; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.rows[0].tokens = 0; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.rows[0].tokens = 0x7fffffff; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.admissions[0].slot = -1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.admissions[0].tokens[1] = -5; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.admissions[0].sampling.top_logprobs = 21; }));
  EXPECT_FALSE(refused([](StepPlan& plan) { plan.admissions[0].sampling.top_logprobs = -1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.admissions[0].sampling.top_logprobs = -2; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.assignments[0].first = -1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.assignments[0].blocks[1] = -1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.copies[0].source = -1; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sample_queries[2] = 6; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.sample_queries[1] = 0; }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.samples.pop_back(); }));
  EXPECT_TRUE(refused([](StepPlan& plan) { plan.samples[0].slot = -1; }));
}

}  // namespace
}  // namespace skein
