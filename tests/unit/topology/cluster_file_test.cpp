#include "topology/cluster_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace skein {
namespace {

using testing::HasSubstr;

constexpr const char* kFiles[] = {"fat-tree-1024", "h100-node", "h200-pair", "laptop", "mixed-32", "pcie-node"};

class ClusterFile : public testing::TestWithParam<const char*> {};

TEST_P(ClusterFile, SaysTheSameAfterARoundTrip) {
  const Result<Cluster> cluster = read_cluster_file(std::string("configs/clusters/") + GetParam() + ".yaml");
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  const Result<Cluster> from_yaml = parse_cluster(to_yaml(*cluster));
  ASSERT_TRUE(from_yaml.ok()) << from_yaml.status().message();
  const Result<Cluster> from_json = parse_cluster(to_json(*cluster).dump());
  ASSERT_TRUE(from_json.ok()) << from_json.status().message();
  for (const Cluster* again : {&*from_yaml, &*from_json}) {
    EXPECT_EQ(to_yaml(*again), to_yaml(*cluster));
    ASSERT_EQ(again->nodes.size(), cluster->nodes.size());
    const DeviceId last{static_cast<int>(cluster->nodes.size()) - 1, 3};
    EXPECT_EQ(path_between(*again, {0, 0}, last)->bytes_per_s, path_between(*cluster, {0, 0}, last)->bytes_per_s);
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, ClusterFile, testing::ValuesIn(kFiles));

TEST(ClusterFileText, CountersNameNodesRacksAndRails) {
  const Result<Cluster> cluster = read_cluster_file("configs/clusters/fat-tree-1024.yaml");
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  ASSERT_EQ(cluster->nodes.size(), 1024u);
  EXPECT_EQ(cluster->nodes[1023].name, "gpu-1024");
  EXPECT_EQ(cluster->nodes[31].rack, "rack-01");
  EXPECT_EQ(cluster->nodes[32].rack, "rack-02");
  EXPECT_EQ(cluster->nodes[5].devices[4].numa, 1);
  EXPECT_EQ(cluster->nodes[5].nics[7].rail, 7);
  EXPECT_EQ(cluster->nodes[5].nics[7].devices, std::vector<int>{7});
}

TEST(ClusterFileText, WhatANodeSaysGoesBeforeItsTemplates) {
  const Result<Cluster> cluster = parse_cluster(R"(
templates:
  - {name: base, cores: 4, memory_gib: 8, devices: [{kind: NVIDIA L4, count: 2}]}
  - {name: big, template: base, cores: 64}
nodes:
  - {name: a, template: big, memory_gib: 16}
)");
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  EXPECT_EQ(cluster->nodes[0].cores, 64);
  EXPECT_EQ(cluster->nodes[0].memory_bytes, int64_t{16} << 30);
  EXPECT_EQ(cluster->nodes[0].devices.size(), 2u);
}

TEST(ClusterFileText, WhatIsFreeOfAHostsMemoryIsReadAndWritten) {
  const Result<Cluster> cluster = parse_cluster("nodes:\n  - {name: a, cores: 4, memory_gib: 8, memory_free_gib: 2.5}\n");
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  EXPECT_EQ(cluster->nodes[0].memory_free, int64_t{5} << 29);
  EXPECT_THAT(to_yaml(*cluster), HasSubstr("memory_free_gib: 2.5"));
}

TEST(ClusterFileText, AKindTakesWhatItDoesNotSayFromTheKnownGpu) {
  const Result<Cluster> cluster = parse_cluster(R"(
kinds:
  - {name: NVIDIA H200, read_gb_per_s: 4000, source: measured}
nodes:
  - {name: a, cores: 4, memory_gib: 8, devices: [{kind: NVIDIA H200}]}
)");
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  EXPECT_DOUBLE_EQ(cluster->kinds[0].read_bytes_per_s, 4e12);
  EXPECT_DOUBLE_EQ(cluster->kinds[0].bf16_flops, 989e12);
  EXPECT_EQ(cluster->kinds[0].source, "measured");
  EXPECT_THAT(to_yaml(*cluster), HasSubstr("read_gb_per_s: 4000"));
}

// A file with one mistake, and what its one sentence must say.
struct Mistake {
  const char* name;
  const char* yaml;
  const char* says;
};

void PrintTo(const Mistake& mistake, std::ostream* out) {  // NOLINT: GoogleTest looks for this name
  *out << mistake.name;
}

constexpr Mistake kMistakes[] = {
    {"DuplicateNames", "nodes:\n  - {name: a, cores: 1, memory_gib: 1}\n  - {name: a, cores: 1, memory_gib: 1}\n",
     "line 3: two nodes are called \"a\", the other at line 2; names must differ"},
    {"CountWithoutCounter", "nodes:\n  - {name: a, count: 2, cores: 1, memory_gib: 1}\n",
     "line 2: two nodes are called \"a\"; with count, put a counter such as <0> into the name"},
    {"MoreMemoryFreeThanThere", "nodes:\n  - {name: a, cores: 1, memory_gib: 1, memory_free_gib: 2}\n",
     "line 2: node \"a\" has more memory free than it has; lower memory_free_gib"},
    {"UnknownGpu", "nodes:\n  - name: a\n    cores: 1\n    memory_gib: 1\n    devices: [{kind: H200}]\n",
     "line 5: the device kind \"H200\" is not known; did you mean \"NVIDIA H200\", \"NVIDIA H200 NVL\", "},
    {"UnheardOfGpu", "nodes:\n  - {name: a, cores: 1, memory_gib: 1, devices: [{kind: Gaudi 3 accelerator card}]}\n",
     "line 2: the device kind \"Gaudi 3 accelerator card\" is not known: describe it under kinds with memory_gib"},
    {"ZeroBandwidthKind",
     "kinds:\n  - {name: X, memory_gib: 1, read_gb_per_s: 0, tflops: 1, pcie_gb_per_s: 1}\nnodes:\n"
     "  - {name: a, cores: 1, memory_gib: 1, devices: [{kind: X}]}\n",
     "line 2: the device kind \"X\" needs read_gb_per_s above 0"},
    {"ZeroBandwidthNic", "nodes:\n  - name: a\n    cores: 1\n    memory_gib: 1\n    nics: [{name: eth0, gbit_per_s: 0}]\n",
     "line 5: the NIC \"eth0\" of node \"a\" has no bandwidth; give gbit_per_s above 0, or up: false"},
    {"NicBesideNoDevice",
     "nodes:\n  - name: a\n    cores: 1\n    memory_gib: 1\n    devices: [{kind: NVIDIA L4}]\n"
     "    nics:\n      - {name: ib0, network: infiniband, gbit_per_s: 400, devices: [1]}\n",
     "line 7: the NIC \"ib0\" of node \"a\" is nearest to device 1, but the node's devices are 0 to 0"},
    {"NvlinkOnACardWithout",
     "nodes:\n  - {name: a, cores: 1, memory_gib: 1, devices: [{kind: NVIDIA L40S, count: 2, nvlink_domain: 0}]}\n",
     "line 2: device 0 of node \"a\" is in an NVLink domain, but a NVIDIA L40S has no NVLink; remove nvlink_domain"},
    {"DomainOfOne", "nodes:\n  - {name: a, cores: 1, memory_gib: 1, devices: [{kind: NVIDIA H200, nvlink_domain: 0}]}\n",
     "line 2: NVLink domain 0 of node \"a\" has one device only"},
    {"MoreLinksThanThere",
     "nodes:\n  - {name: a, cores: 1, memory_gib: 1, devices: [{kind: NVIDIA H200, nvlinks_up: 19}]}\n",
     "line 2: device 0 of node \"a\" has 19 NVLinks up of 18"},
    {"SamePciAddress",
     "nodes:\n  - {name: a, cores: 1, memory_gib: 1, devices: [{kind: NVIDIA L4, count: 2, pci: \"0000:1b:00.0\"}]}\n",
     "line 2: two devices of node \"a\" have the PCI address 0000:1b:00.0"},
    {"Circle",
     "templates:\n  - {name: x, template: y}\n  - {name: y, template: x}\nnodes:\n  - {name: a, template: x}\n",
     "is made from itself; remove one template: of the circle"},
    {"NoSuchTemplate", "nodes:\n  - {name: a, template: x}\n", "line 2: there is no template \"x\"; list it under templates"},
    {"UnknownSetting", "nodes:\n  - {name: a, cores: 1, memory_gb: 1}\n",
     "line 2: a node has no setting \"memory_gb\"; did you mean memory_gib?"},
    {"UnknownSettingInAnUnusedTemplate",
     "templates:\n  - {name: x, core: 1}\nnodes:\n  - {name: a, cores: 1, memory_gib: 1}\n",
     "line 2: a node has no setting \"core\"; did you mean cores?"},
    {"UnknownNetwork", "nodes:\n  - {name: a, cores: 1, memory_gib: 1, nics: [{name: x, network: ib, gbit_per_s: 1}]}\n",
     "line 2: network of a NIC is one of infiniband, roce, tcp, not \"ib\""},
    {"CountBeyondReason", "nodes:\n  - {name: a<0>, count: 100000, cores: 1, memory_gib: 1}\n",
     "line 2: count of a node must be a whole number from 1 to 65536"},
    {"DevicesBeyondReason",
     "nodes:\n  - {name: a, cores: 1, memory_gib: 1, devices: [{kind: NVIDIA L4, count: 600}, {kind: NVIDIA L4, count: 600}]}\n",
     "line 2: a node has at most 1,024 devices; lower count"},
    {"ClusterBeyondReason",
     "nodes:\n  - {name: a<0>, count: 65536, cores: 1, memory_gib: 1, devices: [{kind: NVIDIA L4, count: 1024}]}\n",
     "line 2: a cluster has at most 65,536 nodes and 1,048,576 devices; lower count"},
    {"BadCounter", "nodes:\n  - {name: a<x>, cores: 1, memory_gib: 1}\n", "line 2: name: the counter <x> is none"},
    {"NothingJoins",
     "nodes:\n  - {name: a, cores: 1, memory_gib: 1, nics: [{name: e, gbit_per_s: 1}]}\n"
     "  - {name: b, cores: 1, memory_gib: 1, nics: [{name: i, network: infiniband, gbit_per_s: 1}]}\n",
     "line 2: nothing joins node \"a\" to the others"},
    {"Oversubscription", "fabric: {oversubscription: 0.5}\nnodes:\n  - {name: a, cores: 1, memory_gib: 1}\n",
     "line 1: oversubscription of the fabric must be a number from 1 to 1000, not \"0.5\""},
    {"MoreCoresAsDevices",
     "kinds:\n  - {name: C, type: cpu, read_gb_per_s: 1, tflops: 1}\nnodes:\n"
     "  - {name: a, cores: 1, memory_gib: 1, devices: [{kind: C, count: 2}]}\n",
     "line 4: node \"a\" has 2 cores as devices but only 1 cores"},
    {"NoNodes", "cluster: empty\n", "nodes are missing"},
    {"NothingAtAll", "# later\n", "there is nothing in it: list a node at least under nodes"},
    {"NoKind", "nodes:\n  - {name: a, cores: 1, memory_gib: 1, devices: [{count: 2}]}\n",
     "line 2: a device needs its kind, as in kind: NVIDIA H100"},
    {"NameWithBlank", "nodes:\n  - {name: a b, cores: 1, memory_gib: 1}\n", "line 2: \"a b\" cannot be a node's name"},
    {"NameWithColon", "nodes:\n  - {name: \"a:1\", cores: 1, memory_gib: 1}\n", "line 2: \"a:1\" cannot be"},
    {"NameWithEscape", "nodes:\n  - {name: \"a\\x1b\", cores: 1, memory_gib: 1}\n", "line 2: \"a?\" cannot be"},
    {"NameOfAFolder", "nodes:\n  - {name: .., cores: 1, memory_gib: 1}\n", "line 2: \"..\" cannot be"},
};

class ClusterFileMistake : public testing::TestWithParam<Mistake> {};

TEST_P(ClusterFileMistake, IsOneSentenceWithItsLine) {
  const Result<Cluster> cluster = parse_cluster(GetParam().yaml);
  ASSERT_FALSE(cluster.ok());
  EXPECT_EQ(cluster.status().code(), Code::kInvalidArgument);
  EXPECT_THAT(cluster.status().message(), HasSubstr(GetParam().says));
}

INSTANTIATE_TEST_SUITE_P(All, ClusterFileMistake, testing::ValuesIn(kMistakes),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ClusterFileText, ErrorsNameTheFile) {
  EXPECT_THAT(read_cluster_file("configs/README.md").status().message(), HasSubstr("configs/README.md"));
}

}  // namespace
}  // namespace skein
