// How much is tried to find the best packing, and that leaving out what is the same changes nothing.

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/topology/planner_fixture.h"
#include "topology/packing.h"

namespace skein {
namespace {

constexpr int64_t kMiB = 1 << 20;

// Nodes whose GPUs hold half of the model each.
class PackerWork : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = test::dummy_model(12);
    cluster_.name = "test";
    cluster_.kinds = {test::gpu_kind("kind", 1000 * kMiB, 3e12)};
    ModelDemand demand{.name = "model", .checkpoint = model_.get()};
    demand.memory = {.gpu = true, .block_tokens = 64, .slots = 32, .step_tokens_max = 512};
    demand.load = {.request_rate = 0, .input_tokens = 500, .output_tokens = 100};
    request_ = {.cluster = &cluster_, .calibration = &nothing_measured_, .models = {demand}};
  }

  void set_nodes(int nodes, int devices) {
    cluster_.nodes.clear();
    for (int n = 0; n < nodes; ++n) {
      cluster_.nodes.push_back(test::gpu_node("n" + std::to_string(n), devices));
      cluster_.nodes.back().rack = n < 3 ? "r0" : "r1";
    }
  }

  // As if something told the nodes apart.
  std::vector<Domain> told_apart() const {
    std::vector<Domain> domains = domains_of(request_, {}, {});
    for (Domain& domain : domains) {
      domain.site += "," + std::to_string(domain.node);
      domain.key += "," + std::to_string(domain.node);
    }
    return domains;
  }

  std::unique_ptr<Checkpoint> model_;
  Calibration nothing_measured_;
  Cluster cluster_;
  PlanRequest request_;
};

void expect_nothing_taken_twice(const Packing& packing) {
  std::vector<int> taken(packing.domains.size(), 0);
  for (const Packed& replica : packing.replicas) {
    ASSERT_EQ(static_cast<int>(replica.domains.size()), replica.shape->devices());
    for (const int domain : replica.domains) ++taken[static_cast<size_t>(domain)];
  }
  for (size_t i = 0; i < taken.size(); ++i) EXPECT_LE(taken[i], packing.domains[i].size());
}

TEST_F(PackerWork, LikeNodesGetWhatNodesGetThatAreToldApartForAFractionOfTheWork) {
  for (const auto& [nodes, devices] : {std::pair(4, 3), std::pair(3, 5)}) {
    set_nodes(nodes, devices);
    for (const PackingGoal& goal : {PackingGoal{}, PackingGoal{.tp = 1, .pp = 5},
                                    PackingGoal{.objective = Objective::kFewestDevices, .request_rate = 1},
                                    PackingGoal{.objective = Objective::kLatency}}) {
      request_.objective = goal.objective;
      ShapeBook book(request_, 0, {});
      Packer like(cluster_, book, domains_of(request_, {}, {}));
      const Packing packing = like.best(goal);
      ShapeBook other_book(request_, 0, {});
      Packer apart(cluster_, other_book, told_apart());
      const Packing other = apart.best(goal);
      ASSERT_FALSE(packing.replicas.empty());
      expect_nothing_taken_twice(packing);
      EXPECT_NEAR(packing.request_rate, other.request_rate, 1e-9 * other.request_rate);
      EXPECT_EQ(packing.devices, other.devices);
      EXPECT_LT(like.tried() * 3, apart.tried());
    }
  }
}

TEST_F(PackerWork, NodesOfOneKindOfGpuWithAndWithoutNvLinkAreNotAlike) {
  set_nodes(3, 4);
  for (size_t n = 0; n < 2; ++n) {
    for (Device& device : cluster_.nodes[n].devices) device.nvlink_domain = -1;
  }
  for (Device& device : cluster_.nodes[2].devices) device.nvlink_domain = 5;
  const std::vector<Domain> domains = domains_of(request_, {}, {.group_over_pcie = true});
  ASSERT_EQ(domains.size(), 3u);
  EXPECT_EQ(domains[0].key, domains[1].key);
  EXPECT_NE(domains[0].key, domains[2].key);
  EXPECT_NE(domains[0].layout, domains[2].layout);

  // Four ranks of one group: over NVLink they are faster.
  ShapeBook book(request_, 0, {.group_over_pcie = true});
  const Packing packing = Packer(cluster_, book, domains).best({.tp = 4, .pp = 1});
  ASSERT_EQ(packing.replicas.size(), 3u);
  const auto rate_on = [&](int node) {
    const auto there = std::ranges::find_if(packing.replicas, [&](const Packed& replica) {
      return packing.domains[static_cast<size_t>(replica.domains[0])].node == node;
    });
    return there->shape->best.request_rate;
  };
  EXPECT_EQ(rate_on(0), rate_on(1));
  EXPECT_GT(rate_on(2), rate_on(0));
}

TEST_F(PackerWork, ALimitOfLatencyAsksForNoOtherReplicas) {
  set_nodes(4, 4);
  ShapeBook book(request_, 0, {});
  Packer packer(cluster_, book, domains_of(request_, {}, {}));
  packer.best({});
  const int64_t tried = packer.tried();
  packer.best({.objective = Objective::kLatency, .request_rate = 1});
  EXPECT_EQ(packer.tried(), tried);
}

TEST_F(PackerWork, NodesThatAreTooSlowByThemselvesAreNotPutTogether) {
  set_nodes(12, 4);
  for (size_t n = 1; n < cluster_.nodes.size(); ++n) {
    const double rate = 3e12 - 1e11 * static_cast<double>(n);
    cluster_.kinds.push_back(test::gpu_kind("kind " + std::to_string(n), 1000 * kMiB, rate));
    for (Device& device : cluster_.nodes[n].devices) device.kind = static_cast<int>(n);
  }
  ShapeBook book(request_, 0, {});
  Packer packer(cluster_, book, domains_of(request_, {}, {}));
  packer.best({});
  const int64_t tried = packer.tried();
  const Packing packing = packer.best({.objective = Objective::kLatency});
  ASSERT_FALSE(packing.replicas.empty());
  for (const Packed& replica : packing.replicas) {
    for (const int domain : replica.domains) EXPECT_EQ(packing.domains[static_cast<size_t>(domain)].node, 0);
  }
  EXPECT_EQ(packer.tried(), tried);
}

TEST_F(PackerWork, FastHalvesOfNodesAreJoinedWhereTheirNodesAreTooSlow) {
  set_nodes(8, 2);
  cluster_.kinds.push_back(test::gpu_kind("slow", 1000 * kMiB, 1e12));
  for (Node& node : cluster_.nodes) node.devices[1].kind = 1;
  ShapeBook book(request_, 0, {});
  const Packing packing =
      Packer(cluster_, book, domains_of(request_, {}, {})).best({.objective = Objective::kLatency});
  ASSERT_FALSE(packing.replicas.empty());
  for (const Packed& replica : packing.replicas) {
    for (const int domain : replica.domains) EXPECT_EQ(packing.domains[static_cast<size_t>(domain)].kind, 0);
  }
}

TEST_F(PackerWork, AFastNodeThatIsTooSmallByItselfGetsASlowOneBesideIt) {
  set_nodes(15, 1);
  cluster_.kinds.push_back(test::gpu_kind("slow", 1000 * kMiB, 1e12));
  for (size_t n = 1; n < cluster_.nodes.size(); ++n) cluster_.nodes[n].devices[0].kind = 1;
  ShapeBook book(request_, 0, {});
  const Packing packing =
      Packer(cluster_, book, domains_of(request_, {}, {})).best({.objective = Objective::kLatency});
  ASSERT_EQ(packing.replicas.size(), 1u);
  const auto on_fast = [&](int domain) { return packing.domains[static_cast<size_t>(domain)].node == 0; };
  EXPECT_TRUE(std::ranges::any_of(packing.replicas[0].domains, on_fast));
}

TEST_F(PackerWork, FourNodesOfEight) {
  set_nodes(4, 8);
  for (const PackingGoal& goal : {PackingGoal{}, PackingGoal{.objective = Objective::kLatency, .request_rate = 1}}) {
    request_.objective = goal.objective;
    ShapeBook book(request_, 0, {});
    Packer packer(cluster_, book, domains_of(request_, {}, {}));
    expect_nothing_taken_twice(packer.best(goal));
    EXPECT_LT(packer.tried(), 2000) << "of 6,561 states";
  }
}

TEST_F(PackerWork, FourNodesOfEightThatAreToldApartAreNotTriedTogetherButWhereNothingElseFits) {
  set_nodes(4, 8);
  ShapeBook book(request_, 0, {});
  Packer packer(cluster_, book, told_apart());
  EXPECT_FALSE(packer.best({}).replicas.empty());
  EXPECT_LT(packer.tried(), 4000);
  const PackingGoal widest{.tp = 4, .pp = 8};
  const Packing packing = packer.best(widest);
  ASSERT_EQ(packing.replicas.size(), 1u);
  EXPECT_EQ(packing.devices, 32);
}

TEST_F(PackerWork, OrdersOfRacksThatAreTheSameAreTriedOnce) {
  const auto in_racks = [&](int nodes, int devices, const std::vector<int>& racks) {
    set_nodes(nodes, devices);
    for (size_t n = 0; n < racks.size(); ++n) cluster_.nodes[n].rack = std::to_string(racks[n]);
  };
  in_racks(7, 2, {0, 0, 0, 1, 1, 2, 2});
  const PackingGoal all{.tp = 2, .pp = 7};
  ShapeBook book(request_, 0, {});
  Packer like(cluster_, book, domains_of(request_, {}, {}));
  const Packing packing = like.best(all);
  ASSERT_EQ(packing.replicas.size(), 1u);
  ShapeBook other_book(request_, 0, {});
  Packer apart(cluster_, other_book, told_apart());
  const Packing other = apart.best(all);
  ASSERT_EQ(other.replicas.size(), 1u);
  EXPECT_NEAR(packing.request_rate, other.request_rate, 1e-9 * other.request_rate);
  EXPECT_LE(like.tried(), 64) << "ways to stay in a rack or leave it, of seven nodes";
  EXPECT_GT(apart.tried(), 5000) << "orders of seven nodes";

  in_racks(12, 1, {0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3});
  Packer twelve(cluster_, book, domains_of(request_, {}, {}));
  EXPECT_EQ(twelve.best({.tp = 1, .pp = 12}).replicas.size(), 1u);
  EXPECT_LE(twelve.tried(), 2048);
}

TEST_F(PackerWork, NodesBehindAnotherRailAreNotTriedAgain) {
  int64_t tried = 0;
  for (const int rails : {1, 3}) {
    set_nodes(6, 8);
    for (size_t n = 0; n < 6; ++n) {
      cluster_.nodes[n].rack.clear();
      for (Nic& nic : cluster_.nodes[n].nics) nic.rail = static_cast<int>(n) % rails;
    }
    ShapeBook book(request_, 0, {});
    Packer packer(cluster_, book, domains_of(request_, {}, {}));
    EXPECT_EQ(packer.best({.tp = 8, .pp = 2}).replicas.size(), 3u);
    if (rails == 1) tried = packer.tried();
    EXPECT_EQ(packer.tried(), tried);
  }
}

TEST_F(PackerWork, NodesAreNotTriedTogetherWhereOnlyTheServiceLevelFails) {
  set_nodes(4, 8);
  request_.models[0].level.ttft_ms = 1e-6;
  ShapeBook book(request_, 0, {});
  Packer packer(cluster_, book, told_apart());
  EXPECT_TRUE(packer.best({}).replicas.empty());
  EXPECT_LT(packer.tried(), 4000);
}

}  // namespace
}  // namespace skein
