// Texts and pictures of configs/clusters against ones that were looked at (tests/unit/topology/golden). Where one
// differs, what came out is beside the test's temporary files: look at it, then copy it over.

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "topology/cluster_file.h"
#include "topology/cluster_svg.h"
#include "topology/cluster_text.h"

namespace skein {
namespace {

std::string content(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class Picture : public testing::TestWithParam<const char*> {
 protected:
  void expect_golden(const std::string& name, const std::string& text) {
    const std::string golden = "tests/unit/topology/golden/" + name;
    if (content(golden) == text) return;
    const std::string fresh = testing::TempDir() + name;
    std::ofstream(fresh) << text;
    FAIL() << "compare " << fresh << " with " << golden;
  }
};

TEST_P(Picture, IsTheOneThatWasLookedAt) {
  const std::string name = GetParam();
  const Result<Cluster> cluster = read_cluster_file("configs/clusters/" + name + ".yaml");
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  expect_golden(name + ".txt", describe(*cluster));
  expect_golden(name + ".svg", to_svg(*cluster));
}

INSTANTIATE_TEST_SUITE_P(Configs, Picture,
                         testing::Values("fat-tree-1024", "h100-node", "h200-pair", "laptop", "mixed-32", "pcie-h100",
                                         "pcie-node"));

TEST(PictureOf, ABrokenNodeShowsWhatIsBroken) {
  Result<Cluster> cluster = read_cluster_file("configs/clusters/h200-pair.yaml");
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  Node& node = cluster->nodes[1];
  node.nics[3].up = false;
  node.devices[2].nvlinks_up = 12;
  assign_nics(&*cluster);
  const std::string text = describe(*cluster);
  EXPECT_NE(text.find("node type B: h200-2"), std::string::npos) << text;
  EXPECT_NE(text.find("NVLink domain 0 (12 of 18 links up)"), std::string::npos) << text;
  EXPECT_NE(text.find("mlx5_3  InfiniBand 400 Gb/s, rail 3, DOWN"), std::string::npos) << text;
  EXPECT_NE(text.find("NV 300"), std::string::npos) << text;
  EXPECT_NE(to_svg(*cluster).find("stroke-dasharray"), std::string::npos);
}

TEST(PictureOf, NamesCannotBreakTheDocument) {
  Cluster cluster;
  cluster.name = "a <b> & \"c\"";
  cluster.nodes.push_back({.name = "n", .rack = {}, .cores = 1, .memory_bytes = 1, .devices = {}, .nics = {}});
  EXPECT_NE(to_svg(cluster).find("<title>a &lt;b&gt; &amp; &quot;c&quot;</title>"), std::string::npos);
}

}  // namespace
}  // namespace skein
