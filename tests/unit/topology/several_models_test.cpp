// Models beside each other at the lowest latency.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/topology/planner_fixture.h"

namespace skein {
namespace {

// Nodes of GPUs that each hold either model whole, and read it so slowly that more of them are faster.
class SeveralModels : public ::testing::Test {
 protected:
  void SetUp() override {
    cluster_.name = "test";
    cluster_.kinds = {test::gpu_kind("kind", int64_t{2000} << 20, 1e11)};
    request_ = {.cluster = &cluster_, .calibration = &nothing_measured_, .models = {}};
    request_.objective = Objective::kLatency;
    for (const auto& [name, model] : {std::pair("small", small_.get()), std::pair("large", large_.get())}) {
      ModelDemand& demand = request_.models.emplace_back(ModelDemand{.name = name, .checkpoint = model});
      demand.memory = {.gpu = true, .block_tokens = 64, .slots = 32, .step_tokens_max = 8192};
      demand.load = {.input_tokens = 500, .output_tokens = 100};
    }
  }

  PlacementPlan plan_on(std::initializer_list<int> gpus_of_nodes) {
    cluster_.nodes.clear();
    for (const int gpus : gpus_of_nodes) {
      cluster_.nodes.push_back(test::gpu_node("n" + std::to_string(cluster_.nodes.size()), gpus));
    }
    auto plan = plan_placement(request_);
    EXPECT_TRUE(plan.ok()) << plan.status().message();
    return plan.ok() ? *plan : PlacementPlan{};
  }

  static std::vector<int> degrees(const PlacementPlan& plan, int model) {
    std::vector<int> degrees;
    for (const PlacedReplica& replica : plan.replicas) {
      EXPECT_EQ(replica.pipeline_parallel_size, 1);
      if (replica.model == model) degrees.push_back(replica.tensor_parallel_size);
    }
    return degrees;
  }

  const std::unique_ptr<Checkpoint> small_ = test::dummy_model(4);
  const std::unique_ptr<Checkpoint> large_ = test::dummy_model(8);
  Calibration nothing_measured_;
  Cluster cluster_;
  PlanRequest request_;
};

constexpr int kSmall = 0;
constexpr int kLarge = 1;

TEST_F(SeveralModels, NoneIsSlowedDownMoreThanNeeded) {
  const PlacementPlan wide = plan_on({4, 4});
  EXPECT_EQ(degrees(wide, kLarge), std::vector<int>{4});
  EXPECT_EQ(degrees(wide, kSmall), std::vector<int>{4});
  const PlacementPlan narrow = plan_on({4});
  EXPECT_EQ(degrees(narrow, kLarge), std::vector<int>{2});
  EXPECT_EQ(degrees(narrow, kSmall), std::vector<int>{2});
  const auto again = replan(request_, cluster_, narrow);
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again->moved, 0);
  EXPECT_EQ(again->replicas.size(), 2u);
}

TEST_F(SeveralModels, EachIsAsFastAsTheOthersAllow) {
  const PlacementPlan uneven = plan_on({1, 3});
  std::vector<int> both = degrees(uneven, kLarge);
  both.push_back(degrees(uneven, kSmall)[0]);
  EXPECT_THAT(both, ::testing::UnorderedElementsAre(3, 1));
}

TEST_F(SeveralModels, WhatTheOthersCostIsSaid) {
  const PlacementPlan narrow = plan_on({4});
  const std::vector<ConstraintCost>& costs = narrow.models[kLarge].constraints;
  const auto room = std::ranges::find(costs, "room for the other models", &ConstraintCost::constraint);
  ASSERT_NE(room, costs.end());
  EXPECT_EQ(room->without, "1 x (TP 4 x PP 1)");
  EXPECT_GT(room->gain, 0.1);
  for (const Alternative& other : narrow.models[kLarge].alternatives) {
    EXPECT_LE(other.outcome.devices, 2) << "the others stay where they are";
    EXPECT_LE(other.change, 0);
  }
}

TEST_F(SeveralModels, ARateIsHeldWithTheLowestLatencyThatAllowsIt) {
  const double of_one = plan_on({4, 4}).models[kLarge].outcome.request_rate_max;
  request_.models[kLarge].load.request_rate = 1.5 * of_one;
  const PlacementPlan both = plan_on({4, 4});
  EXPECT_GE(both.models[kLarge].outcome.request_rate_max, 1.5 * of_one);
  EXPECT_GT(degrees(both, kLarge).size(), 1u);
  EXPECT_EQ(degrees(both, kSmall).size(), 1u);
  request_.models[kLarge].load.request_rate = 1000 * of_one;
  EXPECT_THAT(plan_placement(request_).status().message(), ::testing::HasSubstr("large: these devices give"));
}

}  // namespace
}  // namespace skein
