// What the planner promises besides the best figure: where replicas go, and what stays when the cluster changes.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/unit/topology/planner_fixture.h"
#include "topology/device_kinds.h"
#include "topology/packing.h"

namespace skein {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

// Racks of two nodes with four GPUs each; a GPU holds the whole model.
class PlannerRules : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = test::dummy_model(4);
    cluster_.name = "test";
    cluster_.kinds = {test::gpu_kind("kind", 2000 * kMiB, 3e12)};
    for (int n = 0; n < 4; ++n) {
      cluster_.nodes.push_back(test::gpu_node("n" + std::to_string(n), 4));
      cluster_.nodes.back().rack = n < 2 ? "r0" : "r1";
    }
    ModelDemand demand{.name = "model", .checkpoint = model_.get()};
    demand.memory = {.gpu = true, .block_tokens = 64, .slots = 32, .step_tokens_max = 512};
    demand.load = {.request_rate = 0, .input_tokens = 500, .output_tokens = 100};
    request_ = {.cluster = &cluster_, .calibration = &nothing_measured_, .models = {demand}};
  }

  PlacementPlan plan() {
    auto plan = plan_placement(request_);
    EXPECT_TRUE(plan.ok()) << plan.status().message();
    return plan.ok() ? *plan : PlacementPlan{};
  }

  // The request rate that `replicas` GPUs give, nearly.
  void ask_for(double replicas) {
    request_.objective = Objective::kGoodput;
    request_.models[0].load.request_rate = 0;
    const double all = plan().models[0].outcome.request_rate_max;
    request_.objective = Objective::kFewestDevices;
    request_.models[0].load.request_rate = all * replicas / 16;
  }

  Cluster without(const std::string& node) const {
    Cluster rest = cluster_;
    std::erase_if(rest.nodes, [&](const Node& candidate) { return candidate.name == node; });
    return rest;
  }

  std::unique_ptr<Checkpoint> model_;
  Calibration nothing_measured_;
  Cluster cluster_;
  PlanRequest request_;
};

TEST_F(PlannerRules, ReplicasGoToDifferentRacksThenNodes) {
  ask_for(3.9);
  const PlacementPlan spread = plan();
  ASSERT_EQ(spread.replicas.size(), 4u);
  std::set<int> nodes;
  for (const PlacedReplica& replica : spread.replicas) nodes.insert(replica.devices[0].node);
  EXPECT_EQ(nodes.size(), 4u);
  ask_for(1.9);
  const PlacementPlan two = plan();
  ASSERT_EQ(two.replicas.size(), 2u);
  EXPECT_NE(cluster_.nodes[static_cast<size_t>(two.replicas[0].devices[0].node)].rack,
            cluster_.nodes[static_cast<size_t>(two.replicas[1].devices[0].node)].rack);
  EXPECT_EQ(two.left_over.size(), 14u);
}

TEST_F(PlannerRules, GroupsOfGpusThatDifferInTheirNicsGoToDifferentNodes) {
  cluster_.nodes.resize(2);
  for (Node& node : cluster_.nodes) test::give_each_gpu_a_nic(&node);
  request_.models[0].tensor_parallel_size = 2;
  ask_for(1.9 * 4);
  const PlacementPlan two = plan();
  ASSERT_EQ(two.replicas.size(), 2u);
  EXPECT_EQ(two.replicas[0].devices[1].node, 0);
  EXPECT_EQ(two.replicas[1].devices[0].node, 1);
  EXPECT_EQ(two.replicas[1].devices[1].node, 1);
  // Away from the one that stays.
  PlacementPlan before = two;
  before.replicas.pop_back();
  const auto after = replan(request_, cluster_, before);
  ASSERT_TRUE(after.ok()) << after.status().message();
  ASSERT_EQ(after->replicas.size(), 2u);
  EXPECT_EQ(after->replicas[0].devices, before.replicas[0].devices);
  EXPECT_EQ(after->replicas[1].devices[0].node, 1);
}

TEST_F(PlannerRules, NoDeviceHasTwoRanks) {
  std::set<DeviceId> seen;
  const PlacementPlan all = plan();
  for (const PlacedReplica& replica : all.replicas) {
    for (const DeviceId& id : replica.devices) EXPECT_TRUE(seen.insert(id).second);
  }
  EXPECT_EQ(seen.size() + all.left_over.size(), 16u);
}

TEST_F(PlannerRules, StagesOnDifferentNodesShareRails) {
  // Two GPUs a node, each with a NIC of its own; only two nodes together hold the model.
  cluster_.kinds = {test::gpu_kind("kind", 250 * kMiB, 3e12)};
  cluster_.nodes = {test::gpu_node("a", 2), test::gpu_node("b", 2)};
  for (Node& node : cluster_.nodes) {
    Nic nic = node.nics[0];
    node.nics = {nic, nic};
    for (int i = 0; i < 2; ++i) {
      node.nics[static_cast<size_t>(i)].rail = node.name == "a" ? i : 1 - i;
      node.nics[static_cast<size_t>(i)].devices = {i};
    }
  }
  request_.models[0].tensor_parallel_size = 2;
  request_.models[0].pipeline_parallel_size = 2;
  request_.models[0].load = {.input_tokens = 64, .output_tokens = 16};
  const PlacementPlan spanning = plan();
  ASSERT_EQ(spanning.replicas.size(), 1u);
  const std::vector<DeviceId>& ranks = spanning.replicas[0].devices;
  ASSERT_NE(ranks[0].node, ranks[2].node);
  EXPECT_NE(ranks[0].device, ranks[2].device) << "rails cross between the nodes";
  EXPECT_NE(ranks[1].device, ranks[3].device);
}

// Nodes whose only NIC is on the last GPU's socket.
std::vector<Node> nodes_with_a_port_beside_the_last(int nodes, int devices) {
  std::vector<Node> made;
  for (int n = 0; n < nodes; ++n) {
    Node& node = made.emplace_back(test::gpu_node("n" + std::to_string(n), devices));
    node.nics[0].devices = {devices - 1};
    node.nics[0].numa = 1;
    node.devices.back().numa = 1;
  }
  return made;
}

// Devices that hand over to another node, and those that take it up.
std::set<int> at_hops(const PlacementPlan& plan) {
  std::set<int> devices;
  for (const PlacedReplica& replica : plan.replicas) {
    const auto tp = static_cast<size_t>(replica.tensor_parallel_size);
    for (size_t rank = 0; rank + tp < replica.devices.size(); ++rank) {
      const DeviceId& from = replica.devices[rank];
      const DeviceId& to = replica.devices[rank + tp];
      if (from.node != to.node) devices.insert({from.device, to.device});
    }
  }
  return devices;
}

TEST_F(PlannerRules, NetworkHopsGoThroughTheDevicesBesideNics) {
  cluster_.kinds = {test::gpu_kind("kind", 250 * kMiB, 3e12)};
  cluster_.nodes = nodes_with_a_port_beside_the_last(2, 2);
  request_.models[0].load = {.input_tokens = 64, .output_tokens = 16};
  request_.models[0].pipeline_parallel_size = 3;
  EXPECT_EQ(at_hops(plan()), std::set<int>{1});
  // Too many states for each device to have a place of its own in them.
  const auto deep = test::dummy_model(8);
  request_.models[0].checkpoint = deep.get();
  cluster_.kinds = {test::gpu_kind("kind", 400 * kMiB, 3e12)};
  cluster_.nodes = nodes_with_a_port_beside_the_last(8, 3);
  request_.models[0].pipeline_parallel_size = 5;
  const PlacementPlan many = plan();
  EXPECT_EQ(many.replicas.size(), 4u);
  EXPECT_EQ(at_hops(many), std::set<int>{2});
}

TEST_F(PlannerRules, HopsOfNewReplicasBesideThoseThatStayAreNoSlower) {
  cluster_.kinds = {test::gpu_kind("kind", 250 * kMiB, 3e12)};
  cluster_.nodes = nodes_with_a_port_beside_the_last(4, 2);
  request_.models[0].load = {.input_tokens = 64, .output_tokens = 16};
  request_.models[0].pipeline_parallel_size = 3;
  const PlacementPlan before = plan();
  ASSERT_EQ(before.replicas.size(), 2u);
  const Cluster old = cluster_;
  cluster_.nodes[static_cast<size_t>(before.replicas[1].devices[0].node)].name = "new";
  const auto after = replan(request_, old, before);
  ASSERT_TRUE(after.ok()) << after.status().message();
  EXPECT_EQ(after->moved, 0);
  EXPECT_EQ(after->replicas[0].devices, before.replicas[0].devices);
  EXPECT_EQ(at_hops(*after), std::set<int>{1});
  EXPECT_DOUBLE_EQ(after->models[0].outcome.request_rate_max, before.models[0].outcome.request_rate_max);
}

TEST_F(PlannerRules, AStageHandsOverByTheWayBetweenItsDevices) {
  Node node = test::gpu_node("node", 4, 0, false);
  node.devices[0].numa = node.devices[2].numa = 1;
  cluster_.kinds = {test::gpu_kind("kind", 250 * kMiB, 3e12)};
  cluster_.nodes = {node};
  request_.models[0].load = {.input_tokens = 64, .output_tokens = 16};
  request_.models[0].pipeline_parallel_size = 4;
  const PlacementPlan placed = plan();
  ASSERT_EQ(placed.replicas.size(), 1u);
  const std::vector<PlannedStage>& stages = placed.replicas[0].stages;
  EXPECT_EQ(stages[0].to_next, LinkKind::kPcie);
  EXPECT_EQ(stages[1].to_next, LinkKind::kSocket);
  EXPECT_EQ(stages[2].to_next, LinkKind::kPcie);
  // What steps are held against has the same ways.
  ShapeBook book(request_, 0, {});
  const auto cost = book.cost_of(placed.replicas[0]);
  ASSERT_TRUE(cost.has_value());
  EXPECT_LT(cost->hop_us(0, {.decodes = 1}), cost->hop_us(1, {.decodes = 1}));
  const ReplicaLimits limits{.sequences_max = 32, .step_tokens_max = 512, .kv_tokens = 1 << 20};
  EXPECT_DOUBLE_EQ(operate(*cost, request_.models[0].load, limits, 1).itl_ms, placed.replicas[0].lone.itl_ms);
}

TEST_F(PlannerRules, FewerLayersWhereTheLogitsAreAndOnWeakerGpus) {
  const auto deep = test::dummy_model(16);
  request_.models[0].checkpoint = deep.get();
  request_.models[0].pipeline_parallel_size = 2;
  cluster_.kinds.push_back(test::gpu_kind("weak", 2000 * kMiB, 1e12));
  cluster_.nodes = {test::gpu_node("strong", 1), test::gpu_node("weak", 1, 1)};
  const PlacementPlan uneven = plan();
  ASSERT_EQ(uneven.replicas.size(), 1u);
  for (size_t stage = 0; stage < 2; ++stage) {
    const bool weak = uneven.replicas[0].devices[stage].node == 1;
    const int layers = uneven.replicas[0].stages[stage].layers;
    EXPECT_EQ(weak, layers < 6) << layers;
  }
  // The logits of this one weigh as much as 2.4 layers.
  const auto logits = Checkpoint::open("configs/models/llama-3.1-8b", LoadFormat::kDummy);
  ASSERT_TRUE(logits.ok());
  request_.models[0].checkpoint = logits->get();
  cluster_.kinds = {test::gpu_kind("kind", 40'000 * kMiB, 3e12)};
  cluster_.nodes = {test::gpu_node("pair", 2)};
  const PlacementPlan pair = plan();
  ASSERT_EQ(pair.replicas.size(), 1u);
  EXPECT_GT(pair.replicas[0].stages[0].layers, pair.replicas[0].stages[1].layers);
}

TEST_F(PlannerRules, ALostNodeMovesNobodyElse) {
  ask_for(11.9);
  const PlacementPlan before = plan();
  const Cluster rest = without("n1");
  request_.cluster = &rest;
  const auto after = replan(request_, cluster_, before);
  ASSERT_TRUE(after.ok()) << after.status().message();
  EXPECT_EQ(after->moved, 0);
  EXPECT_EQ(after->replicas.size(), before.replicas.size());
  size_t stayed = 0;
  for (const PlacedReplica& replica : before.replicas) {
    const std::string& node = cluster_.nodes[static_cast<size_t>(replica.devices[0].node)].name;
    for (const PlacedReplica& now : after->replicas) {
      stayed += rest.nodes[static_cast<size_t>(now.devices[0].node)].name == node &&
                now.devices[0].device == replica.devices[0].device;
    }
  }
  EXPECT_EQ(stayed, 9u) << "twelve replicas, three on each node";
}

TEST_F(PlannerRules, WhatStaysKeepsItsLayersAndItsFigures) {
  request_.models[0].pipeline_parallel_size = 2;
  PlacementPlan before = plan();
  ASSERT_EQ(before.replicas.size(), 8u);
  before.replicas[0].stages[0].layers = 1;
  before.replicas[0].stages[1].layers = 3;
  const auto after = replan(request_, cluster_, before);
  ASSERT_TRUE(after.ok()) << after.status().message();
  EXPECT_EQ(after->moved, 0);
  EXPECT_EQ(after->replicas[0].stages[0].layers, 1);
  EXPECT_LT(after->replicas[0].best.request_rate, 0.9 * after->replicas[1].best.request_rate);
  before.replicas[0].stages[1].layers = 4;  // of another model
  EXPECT_EQ(replan(request_, cluster_, before)->moved, 1);
}

TEST_F(PlannerRules, WhatNoLongerHoldsTheLevelGivesItsPlaceUp) {
  ask_for(0.9);
  const double itl_of_one = plan().replicas[0].lone.itl_ms;
  request_.models[0].pipeline_parallel_size = 2;
  const PlacementPlan before = plan();
  request_.models[0].pipeline_parallel_size = 0;
  request_.models[0].level.itl_ms = (itl_of_one + before.replicas[0].lone.itl_ms) / 2;
  const auto after = replan(request_, cluster_, before);
  ASSERT_TRUE(after.ok()) << after.status().message();
  EXPECT_EQ(after->moved, static_cast<int>(before.replicas.size()));
  EXPECT_THAT(after->notes, ::testing::Contains(HasSubstr("could not stay")));
  for (const PlacedReplica& replica : after->replicas) EXPECT_EQ(replica.pipeline_parallel_size, 1);
  EXPECT_EQ(after->models[0].outcome.devices + static_cast<int>(after->left_over.size()), 16);
}

TEST_F(PlannerRules, ARefusalOfAllIsARefusalOfWhatIsLeft) {
  ask_for(15.9);
  const PlacementPlan before = plan();
  const Cluster rest = without("n1");
  request_.cluster = &rest;
  const auto after = replan(request_, cluster_, before);
  EXPECT_EQ(after.status().message(), plan_placement(request_).status().message());
  EXPECT_THAT(after.status().message(), HasSubstr("model: these devices give"));
}

TEST_F(PlannerRules, ANewReplicaGoesToTheRackWithFewest) {
  cluster_.nodes = {test::gpu_node("a1", 4), test::gpu_node("a2", 4), test::gpu_node("b1", 4), test::gpu_node("c1", 4)};
  for (Node& node : cluster_.nodes) node.rack = node.name.substr(0, 1);
  ask_for(1.9);
  const PlacementPlan before = plan();
  ASSERT_EQ(before.replicas.size(), 2u);
  ASSERT_EQ(before.replicas[1].devices[0].node, 2);
  const Cluster rest = without("b1");
  request_.cluster = &rest;
  const auto after = replan(request_, cluster_, before);
  ASSERT_TRUE(after.ok()) << after.status().message();
  ASSERT_EQ(after->replicas.size(), 2u);
  EXPECT_EQ(after->replicas[0].devices[0].node, 0);
  EXPECT_EQ(rest.nodes[static_cast<size_t>(after->replicas[1].devices[0].node)].name, "c1");
}

TEST_F(PlannerRules, WhatIsPlannedAgainIsComparedAsAWhole) {
  request_.models[0].tensor_parallel_size = 4;
  const PlacementPlan before = plan();
  request_.models[0].tensor_parallel_size = 0;
  ASSERT_EQ(before.replicas.size(), 4u);
  const auto after = replan(request_, cluster_, before);
  ASSERT_TRUE(after.ok()) << after.status().message();
  const ModelPlan& why = after->models[0];
  ASSERT_FALSE(why.alternatives.empty());
  const double narrow = why.alternatives[0].outcome.request_rate_max;  // sixteen of one GPU each
  EXPECT_EQ(why.alternatives[0].replicas, 16);
  EXPECT_NEAR(why.alternatives[0].change, narrow / why.outcome.request_rate_max - 1, 1e-6);
  ASSERT_FALSE(why.constraints.empty());
  EXPECT_EQ(why.constraints.front().without, "4 x (TP 4 x PP 1)") << "they stay whatever else is given up";
  EXPECT_EQ(why.constraints.back().constraint, "4 replicas stay where they are");
  EXPECT_NEAR(why.constraints.back().gain, why.alternatives[0].change, 1e-6);
}

TEST_F(PlannerRules, TheFewestMoveNotTheFirstThatWillDo) {
  // Wide replicas that stand in the way of narrow ones, which give more: one of four GPUs or two of two have to go.
  PlacementPlan before;
  double rates[5] = {};
  for (const int tp : {1, 2, 4}) {
    request_.models[0].tensor_parallel_size = tp;
    PlacementPlan same = plan();
    rates[tp] = same.replicas[0].best.request_rate;
    const int first_node = tp == 4 ? 1 : 0;
    for (PlacedReplica& replica : same.replicas) {
      const int node = replica.devices[0].node;
      if (tp > 1 && node >= first_node && (tp == 4 || node == 0)) before.replicas.push_back(std::move(replica));
    }
  }
  ASSERT_EQ(before.replicas.size(), 5u);
  request_.models[0].tensor_parallel_size = 0;
  request_.objective = Objective::kFewestDevices;
  const double gain_of_two = 2 * (2 * rates[1] - rates[2]);
  ASSERT_LT(gain_of_two, 4 * rates[1] - rates[4]);
  request_.models[0].load.request_rate = 2 * rates[2] + 3 * rates[4] + 0.99 * gain_of_two;
  const auto after = replan(request_, cluster_, before);
  ASSERT_TRUE(after.ok()) << after.status().message();
  EXPECT_EQ(after->moved, 1);
}

TEST_F(PlannerRules, OverLinksThatNobodyMeasuredCommunicatorsTakeTheMostThatWas) {
  Calibration measured;
  DeviceCalibration device{.name = "kind"};
  device.read_bytes_per_s = 3e12;
  device.flops = 6e14;
  device.context_bytes = 100.0 * kMiB;
  measured.devices = {device};
  LinkCalibration link{.link = LinkKind::kNvlink, .device = "kind"};
  link.library_bytes = 70.0 * kMiB;
  link.stage_bytes = 50.0 * kMiB;
  measured.links = {link};
  request_.calibration = &measured;
  request_.models[0].tensor_parallel_size = 2;
  const PlacementPlan near = plan();
  EXPECT_EQ(near.replicas[0].stages[0].memory.runtime, 170 * kMiB);
  EXPECT_TRUE(near.notes.empty());
  for (Node& node : cluster_.nodes) {
    for (Device& gpu : node.devices) gpu.nvlink_domain = -1;
  }
  const PlacementPlan far = plan();
  EXPECT_EQ(far.replicas[0].group_link, LinkKind::kPcie);
  EXPECT_EQ(far.replicas[0].stages[0].memory.runtime, 170 * kMiB);
  EXPECT_THAT(far.notes, ::testing::Contains(HasSubstr("was not measured over all of these links")));
  request_.models[0].tensor_parallel_size = 0;
  request_.models[0].pipeline_parallel_size = 2;
  EXPECT_EQ(plan().replicas[0].stages[1].memory.runtime, 150 * kMiB);
}

// A node of eight cores, one more like it, and nothing else.
class CoresRules : public PlannerRules {
 protected:
  void SetUp() override {
    PlannerRules::SetUp();
    DeviceKind core;
    core.name = "core";
    core.gpu = false;
    core.read_bytes_per_s = 5e10;
    core.bf16_flops = 1e11;
    cluster_.kinds = {core};
    cluster_.nodes.clear();
    for (const char* name : {"a", "b"}) {
      Node& node = cluster_.nodes.emplace_back();
      node.name = name;
      node.cores = 8;
      node.memory_bytes = 1536 * kMiB;
      node.devices.resize(8);
      Nic& nic = node.nics.emplace_back();
      nic.name = "eth0";
      nic.bytes_per_s = 1e10;
    }
    request_.models[0].memory.gpu = false;
  }

  void ask(int tp, int pp) {
    request_.models[0].tensor_parallel_size = tp;
    request_.models[0].pipeline_parallel_size = pp;
  }
};

TEST_F(CoresRules, ANodeIsOneRankUnlessMoreAreAskedFor) {
  const PlacementPlan one_each = plan();
  ASSERT_EQ(one_each.replicas.size(), 2u);
  EXPECT_EQ(one_each.replicas[0].devices, (std::vector<DeviceId>{{.node = 0, .device = 0}}));
  ask(4, 1);
  const PlacementPlan group = plan();
  ASSERT_EQ(group.replicas.size(), 2u);
  EXPECT_EQ(group.replicas[1].devices, (std::vector<DeviceId>{{1, 0}, {1, 2}, {1, 4}, {1, 6}}));
  EXPECT_EQ(group.replicas[0].group_link, LinkKind::kMemory);
  EXPECT_LT(group.replicas[0].kv_blocks, one_each.replicas[0].kv_blocks) << "they share the node's memory";
  EXPECT_TRUE(group.left_over.empty());
}

TEST_F(CoresRules, StagesSpreadOverNodesBeforeTheyShareOne) {
  ask(1, 2);
  const PlacementPlan pair = plan();
  ASSERT_EQ(pair.replicas.size(), 1u);
  EXPECT_EQ(pair.replicas[0].devices, (std::vector<DeviceId>{{0, 0}, {1, 0}}));
  request_.nodes = {{.node = "b"}};
  const PlacementPlan alone = plan();
  ASSERT_EQ(alone.replicas.size(), 1u);
  EXPECT_EQ(alone.replicas[0].devices, (std::vector<DeviceId>{{1, 0}, {1, 4}}));
}

TEST_F(CoresRules, ANodeHasNoMoreRanksThanCores) {
  for (Node& node : cluster_.nodes) node.devices.resize(2);
  ask(4, 1);
  EXPECT_FALSE(plan_placement(request_).ok());
}

TEST_F(PlannerRules, LayersAreEvenWhereThatIsAsked) {
  const auto deep = test::dummy_model(16);
  request_.models[0].checkpoint = deep.get();
  request_.models[0].pipeline_parallel_size = 2;
  cluster_.kinds.push_back(test::gpu_kind("weak", 2000 * kMiB, 1e12));
  cluster_.nodes = {test::gpu_node("strong", 1), test::gpu_node("weak", 1, 1)};
  request_.even_layers = true;
  const PlacementPlan even = plan();
  ASSERT_EQ(even.replicas.size(), 1u);
  EXPECT_EQ(even.replicas[0].stages[0].layers, 8);
}

TEST_F(PlannerRules, WhatCannotBeHadIsSaidInNumbers) {
  request_.models[0].level.itl_ms = 0.001;
  EXPECT_THAT(plan_placement(request_).status().message(), HasSubstr("raise itl-ms to 0.2,"));
  request_.models[0].level = {};
  ask_for(40);
  EXPECT_THAT(plan_placement(request_).status().message(), HasSubstr("add about 24 x kind"));
  request_.models[0].load.request_rate = 0;
  request_.objective = Objective::kGoodput;
  cluster_.kinds = {test::gpu_kind("kind", 150 * kMiB, 3e12)};
  cluster_.nodes = {test::gpu_node("n0", 2)};
  EXPECT_THAT(plan_placement(request_).status().message(), HasSubstr("need 5 x kind and 2 are free; add 3 or use a smaller model"));
}

TEST_F(PlannerRules, WhatOthersHoldOfAHostsMemoryIsNotPlannedOn) {
  cluster_.kinds = {guessed_cores("a processor")};
  Node& node = cluster_.nodes.front();
  node.cores = 4;
  node.memory_bytes = 16'384 * kMiB;
  node.devices.assign(4, Device{.pci = {}});
  cluster_.nodes.resize(1);
  request_.models[0].memory = {.block_tokens = 16, .slots = 4, .step_tokens_max = 64};
  ASSERT_EQ(plan().replicas.size(), 1u);
  node.memory_free = 600 * kMiB;  // of which the weights alone take 545
  EXPECT_FALSE(plan_placement(request_).ok());
}

TEST_F(PlannerRules, ACoreOfANodeIsOneModels) {
  cluster_.kinds = {guessed_cores("a processor")};
  Node& node = cluster_.nodes.front();
  node.memory_bytes = 16'384 * kMiB;
  node.devices.assign(4, Device{.pci = {}});
  cluster_.nodes.resize(1);
  request_.models[0].memory = {.block_tokens = 16, .slots = 4, .step_tokens_max = 64};
  request_.models[0].load.request_rate = 0.01;
  request_.models.push_back(request_.models[0]);
  request_.models[1].name = "second";
  EXPECT_THAT(plan_placement(request_).status().message(),
              HasSubstr("second: the models placed before it leave no device free; add nodes, or plan it apart from them"));
}

TEST_F(PlannerRules, SeveralModelsGetWhatTheyNeed) {
  ask_for(3.9);
  request_.models.push_back(request_.models[0]);
  request_.models[1].name = "second";
  const PlacementPlan both = plan();
  EXPECT_EQ(both.replicas.size(), 8u);
  EXPECT_EQ(both.models[1].outcome.devices, 4);
  request_.models[1].load.request_rate = 0;
  EXPECT_THAT(plan_placement(request_).status().message(), HasSubstr("second: several models share"));
}

// One GPU is strong enough for either model, the other for one of them alone.
TEST_F(PlannerRules, WhichModelIsListedFirstDoesNotMatter) {
  cluster_.kinds = {test::gpu_kind("strong", 2000 * kMiB, 3e12), test::gpu_kind("weak", 2000 * kMiB, 1e12)};
  cluster_.nodes = {test::gpu_node("strong", 1), test::gpu_node("weak", 1, 1)};
  const double both = plan().models[0].outcome.request_rate_max;
  request_.objective = Objective::kFewestDevices;
  request_.models.push_back(request_.models[0]);
  for (const size_t heavy : {size_t{0}, size_t{1}}) {
    request_.models[heavy].load.request_rate = 0.6 * both;
    request_.models[1 - heavy].load.request_rate = 0.1 * both;
    const PlacementPlan placed = plan();
    ASSERT_EQ(placed.replicas.size(), 2u);
    for (const PlacedReplica& replica : placed.replicas) {
      EXPECT_EQ(replica.devices[0].node, replica.model == static_cast<int>(heavy) ? 0 : 1);
    }
    const auto again = replan(request_, cluster_, placed);
    ASSERT_TRUE(again.ok()) << again.status().message();
    EXPECT_EQ(again->moved, 0);
  }
}

TEST_F(PlannerRules, LimitsAreLiftedWithoutWorkingOutAnythingAgain) {
  request_.models[0].level = {.ttft_ms = 1000, .itl_ms = 50};
  ShapeBook book(request_, 0, {});
  const std::vector<Domain> domains = domains_of(request_, {}, {});
  ASSERT_FALSE(Packer(cluster_, book, domains).best({}).replicas.empty());
  const int64_t before = book.evaluations();
  EXPECT_GT(before, 0);
  for (const Relaxed& limits : {Relaxed{.ttft = true}, Relaxed{.itl = true}}) {
    ShapeBook freer(request_, 0, limits, book);
    ASSERT_FALSE(Packer(cluster_, freer, domains).best({}).replicas.empty());
  }
  EXPECT_EQ(book.evaluations(), before);
}

std::string constraints_text(const ModelPlan& plan) {
  std::string text;
  for (const ConstraintCost& cost : plan.constraints) {
    text += cost.constraint + (cost.gain > 0 ? ": " + cost.without : "") + "\n";
  }
  return text;
}

TEST_F(PlannerRules, WhatIsAskedForHasAPrice) {
  EXPECT_EQ(constraints_text(plan().models[0]), "memory of the devices\nmax-num-seqs 32: 16 x (TP 1 x PP 1)\n")
      << "and nothing else is a limit";
  request_.models[0].tensor_parallel_size = 4;
  request_.nodes = {{.node = "n0"}, {.node = "n1"}};
  const ModelPlan why = plan().models[0];
  EXPECT_THAT(constraints_text(why), HasSubstr("tensor-parallel-size 4: 8 x (TP 1 x PP 1)\n"));
  EXPECT_THAT(constraints_text(why), HasSubstr("2 of 4 nodes: 4 x (TP 4 x PP 1)\n"));
  ASSERT_FALSE(why.alternatives.empty());
  EXPECT_EQ(why.alternatives[0].what, "TP 1 x PP 1");
  EXPECT_GT(why.alternatives[0].change, 0);
  request_.nodes[1] = {.node = "n1", .first = 2, .last = 3};
  EXPECT_THAT(constraints_text(plan().models[0]), HasSubstr("6 of 16 devices: 4 x (TP 4 x PP 1)\n"));

  cluster_.nodes = {test::gpu_node("a", 4, 0, false)};
  request_.nodes.clear();
  request_.models[0].tensor_parallel_size = 0;
  request_.models[0].pipeline_parallel_size = 2;
  request_.even_layers = true;
  EXPECT_THAT(constraints_text(plan().models[0]), HasSubstr("tensor parallelism over NVLink only"));
  EXPECT_THAT(constraints_text(plan().models[0]), HasSubstr("pipeline-parallel-size 2: 4 x (TP 1 x PP 1)\nlayers dealt out evenly"));
}

}  // namespace
}  // namespace skein
