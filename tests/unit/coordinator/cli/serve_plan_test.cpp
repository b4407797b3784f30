// Where replicas run whose places the configuration names: their agents know. And what a plan says beside.

#include "coordinator/cli/serve_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/model/temporary_folder.h"
#include "topology/cluster_file.h"

namespace skein {
namespace {

using ::testing::HasSubstr;

class DeviceOfPlaces : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto nodes = read_cluster_file("configs/clusters/mixed-32.yaml");
    ASSERT_TRUE(nodes.ok()) << nodes.status().message();
    nodes_ = *nodes;
  }

  // Of one replica with a rank on each.
  Result<std::string> device(const std::vector<RankPlace>& places) {
    return device_of_places(config(places), nodes_);
  }

  static ServeConfig config(const std::vector<RankPlace>& places) {
    ServeConfig config;
    config.model = "configs/models/llama-3.1-8b";
    config.load_format = "dummy";
    config.listen = "tcp://127.0.0.1:7300";
    config.replicas = {{.tensor_parallel_size = static_cast<int>(places.size()), .places = places}};
    return config;
  }

  Cluster nodes_;
};

TEST_F(DeviceOfPlaces, IsWhatAllNodesHave) {
  EXPECT_EQ(*device({{"h200-01", 0}, {"h100-12", 7}}), "cuda");
  EXPECT_EQ(*device({{"a100-01", 0}}), "cpu") << "no backend runs on these GPUs";
  nodes_.nodes[0].devices.clear();
  EXPECT_EQ(*device({{"h200-01", 0}}), "cpu");
}

TEST_F(DeviceOfPlaces, MustBeOne) {
  const auto both = device({{"a100-01", 0}, {"h200-01", 0}});
  EXPECT_EQ(both.status().code(), Code::kUnsupported);
  EXPECT_THAT(both.status().message(), HasSubstr("h200-01 has GPUs where a100-01 has none that the CUDA backend runs on: give "
                                                 "--device cpu, or other places"));
}

TEST_F(DeviceOfPlaces, IsNotGuessed) {
  EXPECT_THAT(device({{"h200-01", 0}, {"elsewhere", 0}}).status().message(),
              HasSubstr("a rank goes to elsewhere, which no agent has described: start `skein agent` there"));
}

#ifdef SKEIN_CUDA
TEST_F(DeviceOfPlaces, SaysWhatItsGpusHold) {
  EXPECT_TRUE(needs_nodes(config({{"h200-01", 0}})));
  const auto plan = make_serve_plan(config({{"h200-01", 1}, {"h100-01", 2}}), &nodes_);
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  EXPECT_EQ(plan->config.device, "cuda");
  EXPECT_EQ(*plan->config.max_num_seqs, 256);
  // The smaller GPU sets how many tokens both keep.
  const auto larger = make_serve_plan(config({{"h200-01", 1}, {"h200-01", 2}}), &nodes_);
  ASSERT_TRUE(larger.ok()) << larger.status().message();
  EXPECT_LT(plan->replicas[0].memory.kv_blocks, larger->replicas[0].memory.kv_blocks);
  EXPECT_THAT(make_serve_plan(config({{"h200-01", 8}}), &nodes_).status().message(),
              HasSubstr("a rank goes to GPU 8 of h200-01, which has 8: correct places"));
  EXPECT_THAT(make_serve_plan(config({{"h200-01", 0}})).status().message(), HasSubstr("here say where ranks run with --device"));
}
#else
TEST_F(DeviceOfPlaces, IsOneThatThisBuildHas) {
  EXPECT_FALSE(needs_nodes(config({{"h200-01", 0}})));
  const auto plan = make_serve_plan(config({{"h200-01", 0}}));
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  EXPECT_EQ(plan->config.device, "cpu");
}
#endif

TEST(PlanThatIsStarted, SaysWhatItWasPlannedWithAlsoFromAFile) {
  const test::TemporaryFolder folder;
  folder.write("other.yaml", "links:\n  - {link: NVLink, device: another GPU, ranks: 2, "
                             "point_to_point_us: {x: [1, 2], y: [1, 2]}}\n");
  folder.write("cluster.yaml",
               "cluster: here\nkinds:\n  - {name: a core, type: cpu, read_gb_per_s: 10, tflops: 0.05}\nnodes:\n"
               "  - {name: here, cores: 1, memory_gib: 1, devices: [{kind: a core, count: 1}]}\n");
  ServeConfig config;
  config.model = "tests/oracles/fixtures/llama_gqa";
  config.placement.cluster = folder.file("cluster.yaml");
  config.placement.calibration = {folder.file("other.yaml")};
  config.placement.plan = folder.file("plan.json");
  const std::string note = "nothing in " + folder.file("other.yaml") + " was measured on a device of this cluster";
  const auto said = [&](bool replan) {
    config.placement.replan = replan;
    const auto plan = make_serve_plan(config);
    return plan.ok() ? describe(*plan) : plan.status().message();
  };
  EXPECT_THAT(said(true), HasSubstr(note)) << "the file is written";
  EXPECT_THAT(said(false), HasSubstr(note)) << "it is started as it is";
  EXPECT_THAT(said(true), HasSubstr(note)) << "it need not be written again";
}

}  // namespace
}  // namespace skein
