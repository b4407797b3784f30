#include "topology/seating.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/topology/planner_fixture.h"
#include "topology/rank_order.h"

namespace skein {
namespace {

TEST(Seating, AGpuBesideAnotherNicWillDo) {
  Cluster cluster;
  cluster.kinds = {test::gpu_kind("kind", int64_t{2} << 30, 3e12)};
  cluster.nodes = {test::gpu_node("n0", 4), test::gpu_node("n1", 4)};
  for (Node& node : cluster.nodes) test::give_each_gpu_a_nic(&node);
  std::vector<PlacedReplica> kept(2);
  for (PlacedReplica& replica : kept) replica.devices = {{0, 3}};
  const PlanRequest request{.cluster = &cluster, .models = {}};
  const auto parts = cut_into_alike(cluster, domains_of(request, {}, {}), 1000);
  ASSERT_TRUE(parts.has_value());
  ASSERT_EQ(parts->size(), 8u);
  // Both on the first GPU of their node, of which the node with fewest has one.
  const Shape shape{.tp = 1, .stages = {{}}};
  const Packing packing{.domains = *parts,
                        .replicas = {{.shape = &shape, .domains = {0}}, {.shape = &shape, .domains = {4}}},
                        .devices = 2,
                        .alike = true};
  const auto any_devices = [](size_t, const std::vector<DeviceId>&) { return true; };
  const std::vector<std::vector<DeviceId>> seats = seat(cluster, packing, kept, any_devices);
  EXPECT_EQ(seats[0], (std::vector<DeviceId>{{1, 0}}));
  EXPECT_EQ(seats[1], (std::vector<DeviceId>{{1, 1}}));
}

TEST(Seating, WhatDoesNotServeLeavesItsDevicesToOthers) {
  Cluster cluster;
  cluster.kinds = {test::gpu_kind("kind", int64_t{2} << 30, 3e12)};
  cluster.nodes = {test::gpu_node("n0", 3)};
  const PlanRequest request{.cluster = &cluster, .models = {}};
  const Shape wide{.tp = 2, .stages = {{}}};
  const Shape narrow{.tp = 1, .stages = {{}}};
  const Packing packing{.domains = domains_of(request, {}, {}),
                        .replicas = {{.shape = &wide, .domains = {0, 0}}, {.shape = &narrow, .domains = {0}}},
                        .devices = 3};
  const auto not_the_wide_one = [](size_t replica, const std::vector<DeviceId>&) { return replica != 0; };
  const std::vector<std::vector<DeviceId>> seats = seat(cluster, packing, {}, not_the_wide_one);
  EXPECT_TRUE(seats[0].empty());
  EXPECT_EQ(seats[1], (std::vector<DeviceId>{{0, 0}}));
}

// Six nodes of five GPUs, whose only NIC is beside the first. A replica takes three: one fits into each node, and what
// these leave, two GPUs of each, is joined to four more, which use more NICs than there are.
class CompetingReplicas : public ::testing::Test {
 protected:
  void SetUp() override {
    cluster_.name = "test";
    cluster_.kinds = {test::gpu_kind("kind", int64_t{250} << 20, 3e12)};
    for (int n = 0; n < 6; ++n) {
      Node& node = cluster_.nodes.emplace_back(test::gpu_node("n" + std::to_string(n), 5));
      node.nics[0].devices = {0};
      node.nics[0].numa = node.devices[0].numa = 1;
    }
    ModelDemand demand{.name = "model", .checkpoint = model_.get()};
    demand.memory = {.gpu = true, .block_tokens = 64, .slots = 32, .step_tokens_max = 512};
    demand.load = {.input_tokens = 500, .output_tokens = 10};
    demand.tensor_parallel_size = 1;
    demand.pipeline_parallel_size = 3;
    request_ = {.cluster = &cluster_, .calibration = &nothing_measured_, .models = {demand}};
  }

  PlacementPlan plan() const {
    auto plan = plan_placement(request_);
    EXPECT_TRUE(plan.ok()) << plan.status().message();
    return plan.ok() ? *plan : PlacementPlan{};
  }

  // What the replica does with one request at a time on the devices that it has.
  Operation alone(const PlacedReplica& replica) const {
    ShapeBook book(request_, 0, {});
    const auto cost = book.cost_of(replica);
    EXPECT_TRUE(cost.has_value());
    const ReplicaLimits limits{.sequences_max = 32, .step_tokens_max = 512, .kv_tokens = 1 << 20};
    return cost ? operate(*cost, request_.models[0].load, limits, 1) : Operation{};
  }

  const std::unique_ptr<Checkpoint> model_ = test::dummy_model(4);
  Calibration nothing_measured_;
  Cluster cluster_;
  PlanRequest request_;
};

TEST_F(CompetingReplicas, HoldTheServiceLevelOnTheDevicesThatTheyGet) {
  const PlacementPlan any = plan();
  ASSERT_EQ(any.replicas.size(), 10u);
  std::vector<double> spanning;
  for (const PlacedReplica& replica : any.replicas) {
    if (replica.devices.front().node != replica.devices.back().node) spanning.push_back(alone(replica).ttft_ms);
  }
  ASSERT_EQ(spanning.size(), 4u);
  const auto [fastest, slowest] = std::ranges::minmax(spanning);
  ASSERT_GT(slowest, 1.01 * fastest) << "or nothing is competed for";
  // Each of three replicas that span has the NICs of two nodes for itself.
  request_.models[0].level.ttft_ms = (fastest + slowest) / 2;
  const PlacementPlan strict = plan();
  EXPECT_EQ(strict.replicas.size(), 9u);
  double sum = 0;
  for (const PlacedReplica& replica : strict.replicas) {
    EXPECT_LE(alone(replica).ttft_ms, request_.models[0].level.ttft_ms);
    EXPECT_DOUBLE_EQ(alone(replica).ttft_ms, replica.lone.ttft_ms);
    sum += replica.best.request_rate;
  }
  EXPECT_DOUBLE_EQ(strict.models[0].outcome.request_rate_max, sum);
  EXPECT_EQ(strict.left_over.size(), 3u);
}

TEST_F(CompetingReplicas, HoldTheLoadOnTheDevicesThatTheyGet) {
  ShapeBook book(request_, 0, {});
  const double packed =
      Packer(cluster_, book, domains_of(request_, {}, {})).best({.tp = 1, .pp = 3}).request_rate;
  const double there = plan().models[0].outcome.request_rate_max;
  ASSERT_LT(there, 0.999 * packed);
  request_.objective = Objective::kFewestDevices;
  request_.models[0].load.request_rate = 0.999 * there;
  EXPECT_GE(plan().models[0].outcome.request_rate_max, 0.999 * there);
  request_.models[0].load.request_rate = (there + packed) / 2;
  EXPECT_THAT(plan_placement(request_).status().message(), ::testing::HasSubstr("these devices give"));
}

TEST_F(CompetingReplicas, ThatAreSlowerComeInOnlyForTheLoad) {
  const double all = plan().models[0].outcome.request_rate_max;
  request_.objective = Objective::kLatency;
  request_.models[0].load.request_rate = 0.85 * all;
  const PlacementPlan fast = plan();
  request_.models[0].load.request_rate = 0.95 * all;
  const PlacementPlan enough = plan();
  EXPECT_EQ(fast.replicas.size(), 9u);
  EXPECT_EQ(enough.replicas.size(), 10u);
  const auto latency = [&](const PlacedReplica& replica) { return alone(replica).latency_ms(request_.models[0].load); };
  const double slowest = latency(*std::ranges::max_element(enough.replicas, {}, latency));
  for (const PlacedReplica& replica : fast.replicas) EXPECT_LT(latency(replica), 0.999 * slowest);
}

}  // namespace
}  // namespace skein
