#include "topology/cluster.h"

#include <gtest/gtest.h>

#include "topology/cluster_file.h"
#include "topology/network_links.h"

namespace skein {
namespace {

Cluster parsed(const std::string& yaml) {
  Result<Cluster> cluster = parse_cluster(yaml);
  EXPECT_TRUE(cluster.ok()) << cluster.status().message();
  return cluster.ok() ? *std::move(cluster) : Cluster{};
}

Path path(const Cluster& cluster, DeviceId from, DeviceId to) {
  const auto found = path_between(cluster, from, to);
  EXPECT_TRUE(found.has_value());
  return found.value_or(Path{});
}

const char* const kPair = R"(
fabric: {latency_us: 4, rack_latency_us: 2, oversubscription: 2}
nodes:
  - name: n<0>
    count: 3
    rack: r<0/2>
    cores: 8
    memory_gib: 64
    devices:
      - {kind: NVIDIA H200, count: 4, numa: <0/2>, nvlink_domain: <0/2>}
    nics:
      - {name: ib<0>, count: 2, network: infiniband, gbit_per_s: 400, numa: <0>, rail: <0>}
      - {name: eth0, network: tcp, gbit_per_s: 80, numa: 0}
)";

TEST(Path, WithinANodeTakesNvlinkThenPcieThenTheOtherSocket) {
  const Cluster cluster = parsed(kPair);
  EXPECT_EQ(path(cluster, {0, 1}, {0, 1}).link, LinkKind::kSelf);
  EXPECT_EQ(path(cluster, {0, 0}, {0, 1}).link, LinkKind::kNvlink);
  EXPECT_DOUBLE_EQ(path(cluster, {0, 0}, {0, 1}).bytes_per_s, 450e9);
  EXPECT_EQ(path(cluster, {0, 1}, {0, 2}).link, LinkKind::kSocket);
  EXPECT_LT(path(cluster, {0, 1}, {0, 2}).bytes_per_s, 64e9);
  Cluster unlinked = cluster;
  for (Device& device : unlinked.nodes[0].devices) device.nvlink_domain = -1;
  EXPECT_EQ(path(unlinked, {0, 0}, {0, 1}).link, LinkKind::kPcie);
  EXPECT_DOUBLE_EQ(path(unlinked, {0, 0}, {0, 1}).bytes_per_s, 64e9);
}

TEST(Path, LinksThatAreDownTakeTheirShareOfNvlink) {
  Cluster cluster = parsed(kPair);
  cluster.nodes[0].devices[1].nvlinks_up = 9;
  EXPECT_DOUBLE_EQ(path(cluster, {0, 0}, {0, 1}).bytes_per_s, 225e9);
  cluster.nodes[0].devices[1].nvlinks_up = 0;
  EXPECT_EQ(path(cluster, {0, 0}, {0, 1}).link, LinkKind::kPcie);
}

TEST(Path, BetweenNodesTakesTheNicOfTheDevicesSocket) {
  const Cluster cluster = parsed(kPair);
  const Path near = path(cluster, {0, 0}, {1, 1});
  EXPECT_EQ(near.link, LinkKind::kInfiniBand);
  EXPECT_DOUBLE_EQ(near.bytes_per_s, 50e9);
  EXPECT_DOUBLE_EQ(near.latency_us, 4);
  EXPECT_TRUE(near.same_rail && near.same_rack);
}

TEST(Path, OtherRailsAndRacksMeetInTheSpine) {
  const Cluster cluster = parsed(kPair);
  const Path rails = path(cluster, {0, 0}, {1, 2});
  EXPECT_FALSE(rails.same_rail);
  EXPECT_DOUBLE_EQ(rails.bytes_per_s, 25e9);
  EXPECT_DOUBLE_EQ(rails.latency_us, 6);
  const Path racks = path(cluster, {0, 0}, {2, 0});
  EXPECT_FALSE(racks.same_rack);
  EXPECT_DOUBLE_EQ(racks.bytes_per_s, 25e9);
}

TEST(Path, ADownNicSendsTrafficAcrossSockets) {
  Cluster cluster = parsed(kPair);
  cluster.nodes[0].nics[0].up = false;
  assign_nics(&cluster);
  EXPECT_EQ(cluster.nodes[0].devices[0].nics[static_cast<size_t>(NetworkKind::kInfiniBand)], 1);
  EXPECT_LT(path(cluster, {0, 0}, {1, 2}).bytes_per_s, 50e9);
}

TEST(Path, WithoutACommonFastNetworkItIsTcp) {
  Cluster cluster = parsed(kPair);
  for (Nic& nic : cluster.nodes[1].nics) nic.up = nic.network == NetworkKind::kTcp;
  assign_nics(&cluster);
  const Path slow = path(cluster, {0, 0}, {1, 0});
  EXPECT_EQ(slow.link, LinkKind::kTcp);
  EXPECT_DOUBLE_EQ(slow.bytes_per_s, 10e9);
  EXPECT_GT(slow.latency_us, 20);
  for (Nic& nic : cluster.nodes[1].nics) nic.up = false;
  assign_nics(&cluster);
  EXPECT_FALSE(path_between(cluster, {0, 0}, {1, 0}).has_value());
}

TEST(Path, RoceAlsoSpeaksTcp) {
  Cluster cluster = parsed(kPair);
  cluster.nodes[1].nics = {{.name = "roce", .network = NetworkKind::kRoce, .bytes_per_s = 25e9, .devices = {}}};
  assign_nics(&cluster);
  EXPECT_EQ(path(cluster, {0, 0}, {1, 0}).link, LinkKind::kTcp);
}

TEST(Path, IsTheSameWithAndWithoutAssignedNics) {
  const Cluster assigned = parsed(kPair);
  Cluster searched = assigned;
  for (Node& node : searched.nodes) node.nics_assigned = false;
  for (int a = 0; a < 12; ++a) {
    for (int b = 0; b < 12; ++b) {
      const DeviceId from{a / 4, a % 4}, to{b / 4, b % 4};
      const Path one = path(assigned, from, to);
      const Path other = path(searched, from, to);
      EXPECT_EQ(one.link, other.link);
      EXPECT_EQ(one.same_rail, other.same_rail);
      EXPECT_DOUBLE_EQ(one.bytes_per_s, other.bytes_per_s);
    }
  }
}

TEST(Path, CoresOfANodeShareItsMemory) {
  const Result<Cluster> laptop = read_cluster_file("configs/clusters/laptop.yaml");
  ASSERT_TRUE(laptop.ok()) << laptop.status().message();
  const Path shared = path(*laptop, {0, 0}, {0, 7});
  EXPECT_EQ(shared.link, LinkKind::kMemory);
  EXPECT_DOUBLE_EQ(shared.bytes_per_s, 30e9);
}

TEST(AssignNics, EqualNicsAreDealtOutInTurn) {
  Cluster cluster = parsed(kPair);
  for (Nic& nic : cluster.nodes[0].nics) nic.numa = -1;
  assign_nics(&cluster);
  const auto nic = [&](size_t device) { return cluster.nodes[0].devices[device].nics[0]; };
  EXPECT_EQ(nic(0), 0);
  EXPECT_EQ(nic(1), 1);
  EXPECT_EQ(nic(2), 0);
}

constexpr const char* kCores =
    "kinds: [{name: a core, type: cpu, read_gb_per_s: 10, tflops: 0.05}]\n"
    "nodes:\n"
    "  - {name: a, rack: r0, cores: 2, memory_gib: 2, devices: [{kind: a core, count: 2}], nics: [{name: e, network: tcp, gbit_per_s: 10}]}\n"
    "  - {name: b, rack: r0, cores: 2, memory_gib: 2, devices: [{kind: a core, count: 2}], nics: [{name: e, network: tcp, gbit_per_s: 10}]}\n"
    "  - {name: c, rack: r1, cores: 2, memory_gib: 2, devices: [{kind: a core, count: 2}], nics: [{name: e, network: tcp, gbit_per_s: 10}]}\n"
    "  - {name: d, rack: r1, cores: 2, memory_gib: 2, devices: [{kind: a core, count: 2}], nics: [{name: e, network: tcp, gbit_per_s: 25}]}\n"
    "  - {name: e, rack: r1, cores: 2, memory_gib: 2, devices: [{kind: a core, count: 2}], nics: [{name: e, network: tcp, gbit_per_s: 25}]}\n";

TEST(NetworkLinks, OnePairStandsForAllThatAreJoinedAlike) {
  const std::vector<NetworkLink> links = links_between_nodes(parsed(kPair));
  ASSERT_EQ(links.size(), 2u);
  EXPECT_EQ(links[0].from, (DeviceId{0, 0}));
  EXPECT_EQ(links[0].to, (DeviceId{1, 0})) << "over one rail";
  EXPECT_DOUBLE_EQ(links[0].path.bytes_per_s, 50e9);
  EXPECT_EQ(links[1].to, (DeviceId{1, 2})) << "over the spine, as from rack to rack";
  EXPECT_DOUBLE_EQ(links[1].path.latency_us, 6);
}

TEST(NetworkLinks, RacksAndNicsAreToldApart) {
  const std::vector<NetworkLink> links = links_between_nodes(parsed(kCores));
  ASSERT_EQ(links.size(), 3u);
  EXPECT_EQ(links[0].to, (DeviceId{1, 0})) << "in the rack; a node of cores is one rank";
  EXPECT_EQ(links[1].to, (DeviceId{2, 0})) << "to another";
  EXPECT_EQ(links[2].from, (DeviceId{3, 0})) << "between the faster NICs";
  EXPECT_DOUBLE_EQ(links[2].path.bytes_per_s, 25e9 / 8);
}

TEST(NetworkLinks, EveryKindOfSenderHasItsOwn) {
  Cluster cluster = parsed(kPair);
  cluster.nodes.resize(2);
  DeviceKind other = cluster.kinds[0];
  other.name = "NVIDIA H100 80GB HBM3";
  cluster.kinds.push_back(other);
  for (Device& device : cluster.nodes[1].devices) device.kind = static_cast<int>(cluster.kinds.size()) - 1;
  const std::vector<NetworkLink> links = links_between_nodes(cluster);
  ASSERT_EQ(links.size(), 4u);
  EXPECT_EQ(links[0].from.node, 0);
  EXPECT_EQ(links[2].from.node, 1);
}

TEST(NetworkLinks, ThereAreNoneWhereNoReplicaCanBe) {
  Cluster cluster = parsed(kPair);
  cluster.nodes.resize(1);
  EXPECT_TRUE(links_between_nodes(cluster).empty()) << "one node";
  cluster = parsed(kPair);
  for (Node& node : cluster.nodes) {
    for (Nic& nic : node.nics) nic.up = false;
  }
  assign_nics(&cluster);
  EXPECT_TRUE(links_between_nodes(cluster).empty()) << "no network";
  cluster = parsed(kPair);
  cluster.nodes.resize(2);
  DeviceKind core = cluster.kinds[0];
  core.gpu = false;
  cluster.kinds.push_back(core);
  for (Device& device : cluster.nodes[1].devices) device.kind = static_cast<int>(cluster.kinds.size()) - 1;
  EXPECT_TRUE(links_between_nodes(cluster).empty()) << "a GPU and a core";
  cluster = parsed(kPair);
  for (DeviceKind& kind : cluster.kinds) kind.name = "NVIDIA A100-SXM4-80GB";
  EXPECT_TRUE(links_between_nodes(cluster).empty()) << "GPUs without a backend";
}

}  // namespace
}  // namespace skein
