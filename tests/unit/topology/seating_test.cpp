#include "topology/seating.h"

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
  const std::vector<std::vector<DeviceId>> seats = seat(cluster, packing, kept);
  EXPECT_EQ(seats[0], (std::vector<DeviceId>{{1, 0}}));
  EXPECT_EQ(seats[1], (std::vector<DeviceId>{{1, 1}}));
}

}  // namespace
}  // namespace skein
