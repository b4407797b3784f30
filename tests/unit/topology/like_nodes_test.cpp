// Plans of clusters in which hardly a node is like another.

#include "topology/like_nodes.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/unit/topology/planner_fixture.h"
#include "topology/packing.h"

namespace skein {
namespace {

constexpr int64_t kMiB = 1 << 20;

class LikeNodes : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = test::dummy_model(12);
    cluster_.name = "test";
    cluster_.kinds = {test::gpu_kind("kind", 1900 * kMiB, 3e12)};
    ModelDemand demand{.name = "model", .checkpoint = model_.get()};
    demand.memory = {.gpu = true, .block_tokens = 64, .slots = 32, .step_tokens_max = 512};
    demand.load = {.request_rate = 0, .input_tokens = 500, .output_tokens = 100};
    request_ = {.cluster = &cluster_, .calibration = &nothing_measured_, .models = {demand}};
  }

  // Each GPU with so many MiB for the model to all of them less, in steps of 1 MiB; NICs up to a tenth slower.
  void set_unlike_nodes(int nodes, int devices, int taken_max_mib) {
    std::mt19937 random(20261127);
    std::uniform_int_distribution<int> taken(0, taken_max_mib);
    std::uniform_real_distribution<double> rate(0.9, 1);
    cluster_.nodes.clear();
    for (int n = 0; n < nodes; ++n) {
      Node node = test::gpu_node("n" + std::to_string(n), devices);
      const int64_t free = cluster_.kinds[0].memory_bytes - taken(random) * kMiB;
      for (Device& device : node.devices) device.memory_free = free;
      node.nics[0].bytes_per_s *= rate(random);
      node.rack = "r" + std::to_string(n / 16);
      cluster_.nodes.push_back(node);
    }
    assign_nics(&cluster_);
  }

  size_t kinds_of_nodes(const Cluster& cluster) const {
    PlanRequest request = request_;
    request.cluster = &cluster;
    std::set<std::string> keys;
    for (const Domain& domain : domains_of(request, {}, {})) keys.insert(domain.key);
    return keys.size();
  }

  void expect_all_ranks_fit(const PlacementPlan& plan) const {
    for (const PlacedReplica& replica : plan.replicas) {
      const auto tp = static_cast<size_t>(replica.tensor_parallel_size);
      for (size_t rank = 0; rank < replica.devices.size(); ++rank) {
        const RankMemory& memory = replica.stages[rank / tp].memory;
        const int64_t pages = int64_t{replica.kv_blocks} * request_.models[0].memory.block_tokens * memory.kv_per_token;
        const int64_t usable = usable_memory(cluster_, replica.devices[rank], request_.memory_share);
        EXPECT_LE(memory.fixed() + pages + kGpuLateReserve, usable);
      }
    }
  }

  // Without rounding anything.
  double goodput_as_they_are() const {
    ShapeBook book(request_, 0, {});
    return Packer(cluster_, book, domains_of(request_, {}, {})).best({}).request_rate;
  }

  std::unique_ptr<Checkpoint> model_;
  Calibration nothing_measured_;
  Cluster cluster_;
  PlanRequest request_;
};

TEST_F(LikeNodes, AFewNodesAreAsTheyAre) {
  set_unlike_nodes(20, 8, 300);
  EXPECT_FALSE(with_like_nodes(request_).has_value());
}

TEST_F(LikeNodes, NothingIsRoundedUpNorFarDown) {
  set_unlike_nodes(400, 8, 400);
  ASSERT_GT(kinds_of_nodes(cluster_), 390u);
  const std::optional<Cluster> alike = with_like_nodes(request_);
  ASSERT_TRUE(alike.has_value());
  EXPECT_LE(kinds_of_nodes(*alike), 133u);
  EXPECT_GT(kinds_of_nodes(*alike), 20u) << "steps are as fine as may be";
  for (size_t n = 0; n < cluster_.nodes.size(); ++n) {
    const Node& node = cluster_.nodes[n];
    const Node& like = alike->nodes[n];
    const int64_t step = cluster_.kinds[0].memory_bytes / 64;
    for (size_t d = 0; d < node.devices.size(); ++d) {
      EXPECT_LE(like.devices[d].memory_free, node.devices[d].memory_free);
      EXPECT_GT(like.devices[d].memory_free, node.devices[d].memory_free - step);
    }
    EXPECT_LE(like.nics[0].bytes_per_s, node.nics[0].bytes_per_s);
    EXPECT_GE(like.nics[0].bytes_per_s, node.nics[0].bytes_per_s / 2);
  }
}

TEST_F(LikeNodes, MemoryThatIsAllTakenIsNotAllFree) {
  set_unlike_nodes(400, 8, 400);
  for (Device& device : cluster_.nodes[7].devices) device.memory_free = 1;
  const std::optional<Cluster> alike = with_like_nodes(request_);
  ASSERT_TRUE(alike.has_value());
  EXPECT_EQ(alike->nodes[7].devices[0].memory_free, 1);
}

TEST_F(LikeNodes, PlansHoldOnEveryNodeAndGiveNearlyAsMuch) {
  set_unlike_nodes(200, 8, 400);
  ASSERT_TRUE(with_like_nodes(request_).has_value());
  const auto plan = plan_placement(request_);
  ASSERT_TRUE(plan.ok());
  expect_all_ranks_fit(*plan);
  EXPECT_GT(plan->models[0].outcome.request_rate_max, 0.97 * goodput_as_they_are());
}

TEST_F(LikeNodes, ReplicasOnTwoNodesHoldOnBothAndUseMoreThanTheLeastMemory) {
  if (test::kSanitized) GTEST_SKIP() << "plans for a minute under a sanitizer";
  cluster_.kinds = {test::gpu_kind("kind", 1000 * kMiB, 3e12)};
  set_unlike_nodes(140, 1, 100);
  ASSERT_TRUE(with_like_nodes(request_).has_value());
  const auto plan = plan_placement(request_);
  ASSERT_TRUE(plan.ok());
  EXPECT_GT(plan->replicas.front().pipeline_parallel_size, 1);
  expect_all_ranks_fit(*plan);
  for (Node& node : cluster_.nodes) node.devices[0].memory_free = cluster_.kinds[0].memory_bytes - 100 * kMiB;
  const auto least = plan_placement(request_);
  ASSERT_TRUE(least.ok());
  EXPECT_GT(plan->models[0].outcome.request_rate_max, 1.02 * least->models[0].outcome.request_rate_max);
}

TEST_F(LikeNodes, WhatStaysFitsWhenItIsPlannedAgain) {
  set_unlike_nodes(200, 8, 400);
  const auto plan = plan_placement(request_);
  ASSERT_TRUE(plan.ok());
  const Cluster before = cluster_;
  cluster_.nodes.erase(cluster_.nodes.begin() + 3);
  const auto again = replan(request_, before, *plan);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->moved, 0);
  expect_all_ranks_fit(*again);
}

}  // namespace
}  // namespace skein
