#include "topology/node_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/topology/machine_fixture.h"
#include "topology/cluster_file.h"

namespace skein::test {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

const Interface kEthernet{.name = "eth0", .address = "10.0.0.7", .prefix = 24};
const Interface kBond{.name = "bond0", .address = "10.0.0.7", .prefix = 24};

class ReportOfHgx : public testing::Test {
 protected:
  ReportOfHgx() { make_hgx(&machine_); }

  NodeReport report(const std::string& name, const Interface& interface = kEthernet) const {
    return report_node(name, interface, machine_.roots());
  }
  FakeMachine machine_;
};

TEST_F(ReportOfHgx, IsReadBackUnderTheAgentsName) {
  const std::string text = to_text(report("node-a"));
  const Result<NodeReport> back = parse_node_report(text, "node-a");
  ASSERT_TRUE(back.ok()) << back.status().message();
  ASSERT_TRUE(back->cluster);
  const Node& node = back->cluster->nodes.front();
  EXPECT_EQ(node.devices.size(), 8u);
  EXPECT_EQ(node.nics.size(), 9u);  // eth0 was among them
  EXPECT_EQ(node.devices[5].pci, "0000:ab:00.0");
  EXPECT_EQ(to_text(*back), text);
  EXPECT_LT(text.size(), 8u << 10);
}

TEST_F(ReportOfHgx, HasTheInterfaceThatOthersReachItBy) {
  const NodeReport found = report("a", kBond);
  ASSERT_TRUE(found.cluster);
  const Nic& bond = found.cluster->nodes.front().nics.back();
  EXPECT_EQ(bond.name, "bond0");
  EXPECT_TRUE(bond.up && bond.rate_assumed);
  EXPECT_DOUBLE_EQ(bond.bytes_per_s, 1.25e9);
  machine_.file("class/net/bond0/speed", "200000");
  const NodeReport faster = report("a", kBond);
  ASSERT_TRUE(faster.cluster);
  EXPECT_DOUBLE_EQ(faster.cluster->nodes.front().nics.back().bytes_per_s, 25e9);
}

TEST_F(ReportOfHgx, DescribedAgainUnderRanksHasWhatWasFreeBefore) {
  const std::string before = to_text(report("a"));
  std::vector<FakeGpu> gpus = hgx_gpus();
  gpus[1].memory_free = 5;
  gpus.erase(gpus.begin());
  machine_.gpus(gpus);
  const std::string now = to_text(report("a"));
  const Result<NodeReport> told = parse_node_report(with_free_of(before, now, "a"), "a");
  ASSERT_TRUE(told.ok() && told->cluster);
  const Node& node = told->cluster->nodes.front();
  const Node first = parse_node_report(before, "a")->cluster->nodes.front();
  ASSERT_EQ(node.devices.size(), 7u) << "its hardware is that of now";
  EXPECT_EQ(node.devices[0].pci, first.devices[1].pci);
  EXPECT_EQ(node.devices[0].memory_free, first.devices[1].memory_free);
  EXPECT_EQ(node.memory_free, first.memory_free);
  EXPECT_EQ(with_free_of(to_text(NodeReport{}), now, "a"), now) << "nothing was known";
}

TEST_F(ReportOfHgx, OfAnotherNodeOrOfSeveralIsRefused) {
  const std::string text = to_text(report("node-a"));
  EXPECT_EQ(parse_node_report(text, "node-b").status().message(), "it describes the node \"node-a\"");
  const std::string two = R"({"cluster":{"nodes":[{"name":"<0>","count":2,"cores":1,"memory_gib":1}]}})";
  EXPECT_THAT(parse_node_report(two, "0").status().message(), HasSubstr("one node is asked for"));
  for (const char* bad : {"", "{", "[]", R"({"cluster":7})", R"({"cluster":{}})", R"({"findings":[1]})",
                          R"({"findings":{}})"}) {
    EXPECT_EQ(parse_node_report(bad, "a").status().code(), Code::kInvalidArgument) << bad;
  }
  EXPECT_FALSE(parse_node_report(std::string(kNodeReportBytesMax + 1, ' '), "a").ok());
}

TEST_F(ReportOfHgx, SaysWhyAMachineCannotBeDescribed) {
  machine_.gpus({{.name = "NVIDIA Unheard Of"}});
  const NodeReport found = report("a");
  EXPECT_FALSE(found.cluster);
  EXPECT_THAT(found.findings, Contains(HasSubstr("its hardware cannot be described: ")));
  const Result<NodeReport> back = parse_node_report(to_text(found), "a");
  ASSERT_TRUE(back.ok());
  EXPECT_FALSE(back->cluster);
  EXPECT_EQ(back->findings, found.findings);
}

TEST_F(ReportOfHgx, HasNoMoreFindingsThanAreRead) {
  NodeReport found = report("a");
  found.findings.assign(300, "a link is down");
  const Result<NodeReport> back = parse_node_report(to_text(found), "a");
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_TRUE(back->cluster);
  EXPECT_EQ(back->findings.size(), 256u);
}

TEST_F(ReportOfHgx, TooLongForAFrameSaysSo) {
  NodeReport found = report("a");
  found.findings.assign(100, std::string(4096, 'x'));
  const Result<NodeReport> back = parse_node_report(to_text(found), "a");
  ASSERT_TRUE(back.ok());
  EXPECT_THAT(back->findings, ElementsAre(HasSubstr("is over the limit")));
}

TEST_F(ReportOfHgx, NodesOfOneNetworkAreJoinedByTheirNics) {
  const NodeReport a = report("a");
  const NodeReport b = report("b");
  const Result<Cluster> joined = join_nodes({{.hardware = &*a.cluster, .network = "10.0.0.0/24", .use = {}},
                                             {.hardware = &*b.cluster, .network = "10.0.0.0/24", .use = {}}});
  ASSERT_TRUE(joined.ok()) << joined.status().message();
  EXPECT_EQ(joined->kinds.size(), 1u);
  EXPECT_EQ(joined->nodes[1].rack, "");
  const auto path = path_between(*joined, {0, 3}, {1, 3});
  ASSERT_TRUE(path);
  EXPECT_EQ(path->link, LinkKind::kInfiniBand);
  EXPECT_DOUBLE_EQ(path->bytes_per_s, 50e9);
  EXPECT_TRUE(path->same_rack);
  const Result<Cluster> read = parse_cluster(to_json(*joined).dump());
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(to_yaml(*read), to_yaml(*joined));
}

TEST_F(ReportOfHgx, NodesOfDifferentNetworksAreInDifferentRacks) {
  const NodeReport a = report("a");
  const NodeReport b = report("b");
  const Result<Cluster> joined = join_nodes({{.hardware = &*a.cluster, .network = "10.0.0.0/24", .use = {}},
                                             {.hardware = &*b.cluster, .network = "10.0.1.0/24", .use = {}}});
  ASSERT_TRUE(joined.ok()) << joined.status().message();
  EXPECT_EQ(joined->nodes[0].rack, "10.0.0.0/24");
  EXPECT_FALSE(path_between(*joined, {0, 0}, {1, 0})->same_rack);
}

TEST_F(ReportOfHgx, FreeMemoryIsThatOfNowInSixtyFourths) {
  const NodeReport a = report("a");
  const int64_t all = a.cluster->kinds[0].memory_bytes;
  NodeUse use{.memory_free = 1, .gpu_memory_free = std::vector<int64_t>(8, all - 1), .held = {}};
  use.gpu_memory_free[2] = all / 2 + 12345;
  use.gpu_memory_free[3] = 0;  // not known
  const Result<Cluster> joined = join_nodes({{.hardware = &*a.cluster, .network = "", .use = use}});
  ASSERT_TRUE(joined.ok()) << joined.status().message();
  const std::vector<Device>& devices = joined->nodes[0].devices;
  const int64_t grain = all / 64;
  EXPECT_EQ(devices[0].memory_free, 63 * grain);
  EXPECT_EQ(devices[2].memory_free, 32 * grain);
  EXPECT_EQ(devices[3].memory_free, a.cluster->nodes[0].devices[3].memory_free / grain * grain);
  EXPECT_EQ(joined->nodes[0].memory_free, 1);  // nothing is not "not known"
}

TEST_F(ReportOfHgx, AKindThatDiffersHasTheLeastOfEachFigure) {
  const NodeReport a = report("a");
  NodeReport b = report("b");
  b.cluster->kinds[0].memory_bytes -= 1 << 20;
  b.cluster->kinds[0].read_bytes_per_s /= 2;
  const Result<Cluster> joined = join_nodes({{.hardware = &*a.cluster, .network = "", .use = {}},
                                             {.hardware = &*b.cluster, .network = "", .use = {}}});
  ASSERT_TRUE(joined.ok()) << joined.status().message();
  ASSERT_EQ(joined->kinds.size(), 1u);
  EXPECT_EQ(joined->kinds[0].memory_bytes, b.cluster->kinds[0].memory_bytes);
  EXPECT_EQ(joined->kinds[0].read_bytes_per_s, b.cluster->kinds[0].read_bytes_per_s);
}

TEST(JoinNodes, RefusesWhatIsNoCluster) {
  EXPECT_EQ(join_nodes({}).status().code(), Code::kUnavailable);
  const Result<Cluster> one = parse_cluster("nodes: [{name: a, cores: 1, memory_gib: 1}]");
  ASSERT_TRUE(one.ok());
  const ReportedNode node{.hardware = &*one, .network = "", .use = {}};
  EXPECT_TRUE(join_nodes({node}).ok());
  EXPECT_EQ(join_nodes({node, node}).status().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace skein::test
