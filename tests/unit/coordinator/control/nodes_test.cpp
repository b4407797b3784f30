#include "coordinator/control/nodes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace skein {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kGib = int64_t{1} << 30;

// A node of two H200.
std::string report(const std::string& name) {
  return R"({"cluster":{"nodes":[{"name":")" + name + R"(","cores":4,"memory_gib":64,)" +
         R"("devices":[{"kind":"NVIDIA H200","count":2,"pci":"0000:1<0>:00.0"}],)" +
         R"("nics":[{"name":"eth0","network":"tcp","gbit_per_s":100}]}]},"findings":["its fan is loud"]})";
}

RegisterAgent agent(const std::string& name, std::string topology) {
  return {.node = name,
          .build = SKEIN_BUILD,
          .instance = 1,
          .address = "10.0.0.1",
          .network = "10.0.0.0/24",
          .topology = std::move(topology),
          .jobs = {}};
}

AgentStatus status(uint64_t first, uint64_t second) {
  return {.launches = {9}, .memory_free = 32 * kGib, .gpu_memory_free = {first, second}, .held = {1}};
}

TEST(Nodes, AReportThatIsOfAnotherNodeOrCannotBeReadIsRefusedWithTheReason) {
  NodeTable nodes;
  const auto refusal = nodes.admit("p", agent("b", report("a")), 0);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(*refusal, "what the agent of b reports of its hardware is refused: it describes the node \"a\"");
  EXPECT_EQ(nodes.find("b"), nullptr);
  EXPECT_EQ(nodes.refusal("b"), *refusal);
  EXPECT_THAT(*nodes.admit("p", agent("b", "no JSON"), 0), HasSubstr("of b reports of its hardware is refused: "));
  const std::string no_cores = R"({"cluster":{"nodes":[{"name":"b","cores":0}]}})";
  EXPECT_THAT(*nodes.admit("p", agent("b", no_cores), 0), HasSubstr("cores"));
  EXPECT_FALSE(nodes.admit("p", agent("b", report("b")), 0));
  EXPECT_EQ(nodes.refusal("b"), "");
}

TEST(Nodes, RivalsThatComeInTurnsAreRefusedAllTheSame) {
  NodeTable nodes;
  ASSERT_FALSE(nodes.admit("p", agent("a", report("a")), 0));
  RegisterAgent rival = agent("a", report("a"));
  for (int64_t now = 100; now < 1100; now += 250) {
    nodes.find("a")->lease.heard(now);
    rival.instance = static_cast<uint64_t>(2 + now % 500 / 250);
    EXPECT_TRUE(nodes.may_succeed(rival, now)) << "the one that is here may be gone";
  }
  nodes.find("a")->lease.heard(1100);
  EXPECT_FALSE(nodes.may_succeed(rival, 1100));
  nodes.find("a")->lease.heard(5000);
  EXPECT_TRUE(nodes.may_succeed(rival, 5000)) << "after a while it may again";
}

TEST(Nodes, AReportIsHeldAgainstTheDescription) {
  auto described = parse_node_report(report("a"), "a");
  ASSERT_TRUE(described.ok());
  NodeTable nodes(*described->cluster);
  ASSERT_FALSE(nodes.admit("p", agent("a", report("a")), 0));
  EXPECT_THAT(nodes.find("a")->contradictions, ElementsAre());
  std::string fewer = report("a");
  fewer.replace(fewer.find("\"count\":2"), 9, "\"count\":1");
  ASSERT_FALSE(nodes.admit("p", agent("a", fewer), 0));
  ASSERT_FALSE(nodes.find("a")->contradictions.empty());
  EXPECT_THAT(nodes.to_json().dump(), HasSubstr("a: " + nodes.find("a")->contradictions.front().substr(0, 20)));
  ASSERT_FALSE(nodes.admit("q", agent("b", report("b")), 0)) << "it was not described";
  EXPECT_THAT(nodes.find("b")->contradictions, ElementsAre());
}

TEST(Nodes, WhatIsFreeIsOfTheLastSignOfLife) {
  NodeTable nodes;
  ASSERT_FALSE(nodes.admit("p", agent("a", report("a")), 0));
  NodeTable::Node& node = *nodes.find("a");
  node.take(status(100 * kGib, 0));
  EXPECT_EQ(node.use.memory_free, 32 * kGib);
  EXPECT_THAT(node.use.gpu_memory_free, ElementsAre(100 * kGib, 1));  // 0 is not known
  EXPECT_THAT(node.use.held, ElementsAre(1));
  EXPECT_THAT(node.launches, ElementsAre(9));
  node.take(status(1000 * kGib, 50 * kGib));  // more than there is
  EXPECT_THAT(node.use.gpu_memory_free, ElementsAre(0, 50 * kGib));
  node.take({.launches = {}, .memory_free = 65 * kGib, .gpu_memory_free = {1}});
  EXPECT_EQ(node.use.memory_free, 0);
  EXPECT_TRUE(node.use.gpu_memory_free.empty() && node.use.held.empty() && node.launches.empty());
}

TEST(Nodes, AreOneClusterToAPlanner) {
  NodeTable nodes;
  EXPECT_EQ(nodes.cluster().status().code(), Code::kUnavailable);
  ASSERT_FALSE(nodes.admit("p", agent("a", report("a")), 0));
  ASSERT_FALSE(nodes.admit("q", agent("b", report("b")), 0));
  ASSERT_FALSE(nodes.admit("r", agent("c", ""), 0));  // an agent that says nothing takes part, but is not planned on
  nodes.find("b")->take(status(70 * kGib, 7 * kGib));
  const Result<Cluster> cluster = nodes.cluster();
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  ASSERT_EQ(cluster->nodes.size(), 2u);
  const double free = static_cast<double>(cluster->nodes[1].devices[0].memory_free);
  EXPECT_NEAR(free / kGib, 70, 2.2);
  EXPECT_EQ(path_between(*cluster, {0, 0}, {1, 1})->link, LinkKind::kTcp);
}

TEST(Nodes, AreShownToOperators) {
  NodeTable nodes;
  ASSERT_FALSE(nodes.admit("p", agent("a", report("a")), 0));
  nodes.find("a")->take(status(70 * kGib, 7 * kGib));
  ASSERT_TRUE(nodes.admit("q", agent("b", report("a")), 0));
  Json json = nodes.to_json();
  EXPECT_EQ(json.find("findings")->dump(), R"(["a: its fan is loud"])");
  EXPECT_EQ(json.find("nodes")->dump(),
            R"([{"name":"a","address":"10.0.0.1","network":"10.0.0.0/24","launches":[9],"devices_held":[1],"devices":2,)"
            R"("memory_bytes":68719476736,"memory_free_bytes":34359738368,)"
            R"("gpu_memory_free_bytes":[75161927680,7516192768]}])");
  EXPECT_EQ(json.find("refused")->as_array().size(), 1u);
  EXPECT_EQ(json.find("cluster")->find("nodes")->as_array().size(), 1u);
  EXPECT_EQ(NodeTable().to_json().find("cluster"), nullptr);
  nodes.find("a")->take({.launches = {}, .driver_silent_s = 34});
  json = nodes.to_json();
  EXPECT_THAT(json.find("findings")->dump(), HasSubstr("a: its GPU driver has not answered for 34 s"));
  EXPECT_EQ(json.find("nodes")->as_array()[0].find("driver_silent_seconds")->as_int(), 34);
}

}  // namespace
}  // namespace skein
