// `skein plan` for the files in configs/clusters. The expected texts in plans/ were read by people; after a change
// that is meant, build/cpu/bin/skein plan with a case's arguments writes its new one.

#include "coordinator/cli/plan_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "model/mapped_file.h"
#include "topology/cluster_file.h"
#include "topology/device_kinds.h"
#include "topology/plan_file.h"

namespace skein {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Case {
  std::string name;  // of the file in plans/
  std::vector<std::string> arguments;
};

std::string in_clusters(const std::string& name) { return "configs/clusters/" + name + ".yaml"; }

const std::string kSmall = "configs/models/llama-3.1-8b";
const std::string kLarge = "configs/models/llama-3.1-70b";

Status place(const std::vector<std::string>& arguments, Placement* placement) {
  ServeConfig config;
  OptionTable table;
  add_serve_options(&table, &config);
  add_placement_options(&table, &config.placement);
  RETURN_IF_ERROR(parse_serve_config(arguments, table, &config));
  RETURN_IF_ERROR(describe_placement(config, placement));
  ASSIGN_OR_RETURN(placement->plan, plan_placement(placement->request));
  return check_backends(config, *placement);
}

class PlanOfCluster : public ::testing::TestWithParam<Case> {};

TEST_P(PlanOfCluster, IsAsReviewed) {
  Placement placement;
  const Status status = place(GetParam().arguments, &placement);
  const std::string text = status.ok() ? plan_text(placement) : "skein: " + status.message() + "\n";
  const auto expected = read_file("tests/unit/coordinator/cli/plans/" + GetParam().name + ".txt", 1 << 20);
  EXPECT_EQ(text, expected.ok() ? *expected : expected.status().message());
}

INSTANTIATE_TEST_SUITE_P(
    All, PlanOfCluster,
    ::testing::Values(
        Case{"h100-node", {kSmall, "--cluster", in_clusters("h100-node")}},
        Case{"h100-node-latency", {kLarge, "--cluster", in_clusters("h100-node"), "--objective", "latency"}},
        Case{"h200-pair", {kLarge, "--cluster", in_clusters("h200-pair"), "--itl-ms", "30", "--ttft-ms", "1000"}},
        Case{"laptop", {kSmall, "--cluster", in_clusters("laptop"), "--input-len", "200", "--output-len", "100"}},
        Case{"pcie-h100", {kLarge, "--cluster", in_clusters("pcie-h100"), "--input-len", "2000", "--output-len", "300"}},
        Case{"pcie-node", {kSmall, "--cluster", in_clusters("pcie-node")}},
        Case{"mixed-32", {kLarge, "--cluster", in_clusters("mixed-32"), "--request-rate", "30", "--itl-ms", "50"}},
        Case{"fat-tree-1024", {kSmall, "--cluster", in_clusters("fat-tree-1024"), "--request-rate", "20000",
                               "--itl-ms", "30"}}),
    [](const auto& info) {
      std::string name = info.param.name;
      std::ranges::replace(name, '-', '_');
      return name;
    });

// One plan in the other formats: `skein plan ... --format json` and svg.
TEST(PlanOfH200Pair, IsAsReviewedAsJsonAndAsPicture) {
  Placement placement;
  const Status status =
      place({kLarge, "--cluster", in_clusters("h200-pair"), "--itl-ms", "30", "--ttft-ms", "1000"}, &placement);
  ASSERT_TRUE(status.ok()) << status.message();
  const auto reviewed = [](const std::string& name) {
    const auto text = read_file("tests/unit/coordinator/cli/plans/" + name, 1 << 20);
    return text.ok() ? *text : text.status().message();
  };
  EXPECT_EQ(to_json(placement.request, placement.plan).dump() + "\n", reviewed("h200-pair.json"));
  EXPECT_EQ(plan_svg(placement), reviewed("h200-pair.svg"));
}

// What limits of memory and of steps cost, of a 70B on two nodes with other flags; nullopt: none.
std::optional<ConstraintCost> cost_of(const std::string& constraint, std::vector<std::string> flags) {
  flags.insert(flags.end(), {kLarge, "--cluster", in_clusters("h200-pair")});
  Placement placement;
  const Status status = place(flags, &placement);
  EXPECT_TRUE(status.ok()) << status.message();
  if (!status.ok()) return std::nullopt;
  for (const ConstraintCost& cost : placement.plan.models[0].constraints) {
    if (cost.constraint == constraint) return cost;
  }
  return std::nullopt;
}

TEST(PlanWithLimits, SaysWhatEachCosts) {
  const auto gain = [](const std::string& constraint, const std::vector<std::string>& flags) {
    const std::optional<ConstraintCost> cost = cost_of(constraint, flags);
    EXPECT_TRUE(cost.has_value()) << constraint;
    return cost ? cost->gain : -1;
  };
  const std::vector<std::string> half = {"--gpu-memory-utilization", "0.5"};
  EXPECT_GT(gain("gpu-memory-utilization 0.5", half), 0.02);
  EXPECT_GT(gain("kv-cache-memory-bytes 8.0 GiB", {"--kv-cache-memory-bytes", "8589934592"}), 0.1);
  EXPECT_GT(gain("max-num-batched-tokens 128", {"--max-num-batched-tokens", "128", "--ttft-ms", "200"}), 0.02);
  // So long a request needs the pools of more ranks.
  EXPECT_GT(gain("max-model-len 131072", {"--max-model-len", "131072", "--kv-cache-memory-bytes", "4294967296"}), 0.02);
  EXPECT_FALSE(cost_of("max-model-len 4096", {"--max-model-len", "4096"})) << "it costs nothing";
  EXPECT_FALSE(cost_of("gpu-memory-utilization 0.95", {"--gpu-memory-utilization", "0.95"})) << "it is more than usual";
  EXPECT_FALSE(cost_of("max-num-batched-tokens 8192", {"--max-num-batched-tokens", "8192"})) << "it is as usual";
}

class PlanFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Status status = place({kSmall, "--cluster", in_clusters("h200-pair"), "--tensor-parallel-size", "4"}, &placement_);
    ASSERT_TRUE(status.ok()) << status.message();
    json_ = to_json(placement_.request, placement_.plan).dump();
  }

  Placement placement_;
  std::string json_;
};

TEST_F(PlanFileTest, KeepsEveryPlace) {
  const auto file = parse_plan(json_);
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ(file->plan.replicas.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(file->plan.replicas[i].devices, placement_.plan.replicas[i].devices);
    EXPECT_EQ(file->plan.replicas[i].kv_blocks, placement_.plan.replicas[i].kv_blocks);
  }
  EXPECT_TRUE(check_unchanged(*file, placement_.cluster).ok());
}

TEST_F(PlanFileTest, IsRefusedForAnotherCluster) {
  const auto file = parse_plan(json_);
  ASSERT_TRUE(file.ok());
  Cluster fewer = placement_.cluster;
  fewer.nodes[1].devices.pop_back();
  EXPECT_THAT(check_unchanged(*file, fewer).message(), HasSubstr("node \"h200-2\" had 8 x NVIDIA H200, and it has 7 x"));
  Cluster lost = placement_.cluster;
  lost.nodes.pop_back();
  EXPECT_THAT(check_unchanged(*file, lost).message(), HasSubstr("a node \"h200-2\", which is not there now"));
  Cluster more = placement_.cluster;
  more.nodes.push_back(more.nodes[0]);
  more.nodes.back().name = "h200-3";
  EXPECT_THAT(check_unchanged(*file, more).message(), HasSubstr("before node \"h200-3\" was there"));
  const auto said = [&](void (*change)(Cluster*)) {
    Cluster other = placement_.cluster;
    change(&other);
    return check_unchanged(*file, other).message();
  };
  EXPECT_THAT(said([](Cluster* other) { other->nodes[1].devices[7].nvlink_domain = -1; }),
              HasSubstr("another node \"h200-2\": NVLink was GPUs 0 1 2 3 4 5 6 7 and is GPUs 0 1 2 3 4 5 6; plan again"));
  EXPECT_THAT(said([](Cluster* other) { other->nodes[0].nics[3].up = false; }),
              HasSubstr("NIC mlx5_3 was InfiniBand 400 Gb/s, rail 3, near GPUs 3 and is InfiniBand 400 Gb/s, rail 3, near GPUs "
                        "3, down"));
  EXPECT_THAT(said([](Cluster* other) { other->nodes[0].nics.pop_back(); }), HasSubstr(" and is none; plan again"));
  EXPECT_THAT(said([](Cluster* other) { other->kinds[0].memory_bytes /= 2; }), HasSubstr("memory of NVIDIA H200 was "));
  EXPECT_EQ(said([](Cluster* other) { other->nodes[0].memory_free = 1; }), "") << "it changes all the time";
  EXPECT_EQ(said([](Cluster* other) { other->nodes[0].memory_bytes /= 2; }), "") << "nothing is planned on it beside GPUs";
}

TEST_F(PlanFileTest, RefusesWhatIsNoPlan) {
  EXPECT_FALSE(parse_plan("{").ok());
  EXPECT_THAT(parse_plan("{}").status().message(), HasSubstr("the plan lacks a number \"version\""));
  EXPECT_THAT(parse_plan("{\"version\": 1}").status().message(), HasSubstr("of version 1"));
  std::string elsewhere = json_;
  elsewhere.replace(elsewhere.rfind("\"device\":7"), 10, "\"device\":8");
  EXPECT_THAT(parse_plan(elsewhere).status().message(), HasSubstr("device 8 of node"));
  std::string twice = json_;
  twice.replace(twice.rfind("\"device\":7"), 10, "\"device\":6");
  EXPECT_THAT(parse_plan(twice).status().message(), HasSubstr("two ranks on device 6 of node \"h200-2\""));
}

TEST_F(PlanFileTest, RefusesWhatIsOutOfRange) {
  const auto said = [&](const std::string& what, const std::string& with) {
    std::string edited = json_;
    const size_t at = edited.find(what);
    EXPECT_NE(at, std::string::npos) << what;
    edited.replace(at, what.size(), with);
    return parse_plan(edited).status().message();
  };
  EXPECT_THAT(said("\"layers\":", "\"layers\":-"), HasSubstr("has \"layers\" that is no whole number from 1 to 16777216"));
  EXPECT_THAT(said("\"weights_bytes\":", "\"weights_bytes\":-"), HasSubstr("\"weights_bytes\" that is no whole number"));
  EXPECT_THAT(said("\"best\":{", "\"best\":7,\"was\":{"), HasSubstr("has \"best\" that is no map of figures"));
  EXPECT_THAT(said("\"lone\":{", "\"lone\":{\"x\":[],"), HasSubstr("has \"lone\" where x is no number"));
  EXPECT_THAT(said("\"replicas\":[", "\"replicas\":[],\"were\":["), HasSubstr("the plan has no replica: correct it"));
  EXPECT_THAT(said("\"device\":7", "\"device\":77"), HasSubstr("which its cluster does not have: correct it"));
  EXPECT_THAT(said("\"tensor_parallel_size\":", "\"tensor_parallel_size\":1"), HasSubstr("has a replica of TP 1"));
}

TEST_F(PlanFileTest, TellsModelsApartByTheirNames) {
  placement_.request.models.push_back(placement_.request.models[0]);
  placement_.plan.models.push_back(placement_.plan.models[0]);
  EXPECT_THAT(parse_plan(to_json(placement_.request, placement_.plan).dump()).status().message(),
              HasSubstr("two models called \"llama-3.1-8b\""));
  ServeConfig config;
  config.placement.cluster = in_clusters("h200-pair");
  config.placement.models.resize(2);
  config.placement.models[0].model = "a/m";
  config.placement.models[1].model = "b/m/";
  Placement placement;
  EXPECT_THAT(describe_placement(config, &placement).message(), HasSubstr("a/m and b/m/ would both be called \"m\""));
}

TEST_F(PlanFileTest, HasAllLayersOfTheModel) {
  placement_.plan.replicas[1].stages[0].layers -= 1;
  const std::string path = testing::TempDir() + "short.json";
  std::ofstream(path) << to_json(placement_.request, placement_.plan).dump();
  const auto config = parse_serve_config({kSmall, "--cluster", in_clusters("h200-pair"), "--plan", path});
  ASSERT_TRUE(config.ok()) << config.status().message();
  Placement placement;
  EXPECT_THAT(make_placement(*config, &placement).message(),
              HasSubstr("short.json has a replica of llama-3.1-8b with 31 layers where the model has 32: correct its stages"));
}

TEST_F(PlanFileTest, KeepsWhatItWasPlannedFor) {
  placement_.request.models[0].load = {.request_rate = 0.1, .input_tokens = 300, .output_tokens = 7};
  placement_.request.models[0].level = {.ttft_ms = 123.25, .itl_ms = 30};
  const auto file = parse_plan(to_json(placement_.request, placement_.plan).dump());
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ(file->models.size(), 1u);
  EXPECT_EQ(file->models[0].name, "llama-3.1-8b");
  EXPECT_EQ(file->models[0].load.request_rate, 0.1);
  EXPECT_EQ(file->models[0].load.input_tokens, 300);
  EXPECT_EQ(file->models[0].load.output_tokens, 7);
  EXPECT_EQ(file->models[0].level.ttft_ms, 123.25);
  EXPECT_EQ(file->models[0].level.itl_ms, 30);
  std::string without = json_;
  without.replace(without.find("\"ttft_ms\""), 9, "\"ttft\"");
  EXPECT_THAT(parse_plan(without).status().message(), HasSubstr("the plan lacks a number \"ttft_ms\""));
}

// What `skein serve --plan` with more flags says; empty: it starts the plan.
class FlagsBesideAPlan : public PlanFileTest {
 protected:
  void SetUp() override {
    PlanFileTest::SetUp();
    char folder[] = "/tmp/plan_test_XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    std::ofstream(folder_ + "/plan.json") << json_;
    std::ofstream(folder_ + "/serve.yaml") << "tensor_parallel_size: 2\nrequest_rate: 3\n";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string said(std::vector<std::string> flags) {
    flags.insert(flags.end(), {kSmall, "--cluster", in_clusters("h200-pair"), "--plan", folder_ + "/plan.json"});
    const auto config = parse_serve_config(flags);
    Placement placement;
    const Status status = config.ok() ? make_placement(*config, &placement) : config.status();
    EXPECT_EQ(placement.plan.replicas.size(), status.ok() ? placement_.plan.replicas.size() : 0);
    return status.message();
  }

  std::string folder_;
};

TEST_F(FlagsBesideAPlan, MustSayWhatItSays) {
  EXPECT_EQ(said({}), "");
  EXPECT_EQ(said({"--tensor-parallel-size", "4", "--pipeline-parallel-size=1", "--request-rate", "0", "--input-len", "1024",
                  "--output-len", "256", "--ttft-ms", "0", "--itl-ms", "0", "--nodes", "h200-2,h200-1"}), "");
  EXPECT_THAT(said({"--tensor-parallel-size", "2"}),
              HasSubstr("--tensor-parallel-size is 2, and the plan in " + folder_ + "/plan.json has 4: leave the flag out, or "
                        "plan again with it"));
  EXPECT_THAT(said({"--pipeline-parallel-size", "2"}), HasSubstr("--pipeline-parallel-size is 2, and"));
  EXPECT_THAT(said({"--request-rate", "2.5"}), HasSubstr("--request-rate is 2.5, and"));
  EXPECT_THAT(said({"--input-len", "100"}), HasSubstr("plan.json has 1024:"));
  EXPECT_THAT(said({"--output-len", "100"}), HasSubstr("plan.json has 256:"));
  EXPECT_THAT(said({"--ttft-ms", "5"}), HasSubstr("--ttft-ms is 5, and"));
  EXPECT_THAT(said({"--itl-ms", "5"}), HasSubstr("--itl-ms is 5, and"));
  EXPECT_THAT(said({"--nodes", "h200-1"}), HasSubstr("--nodes is h200-1, and the plan in " + folder_ + "/plan.json has a rank on device 0 of h200-2"));
  EXPECT_THAT(said({"--nodes", "h200-1:0-3,h200-2"}), HasSubstr("has a rank on device 4 of h200-1"));
  EXPECT_THAT(said({"--itl-ms", "5", "--replan"}), HasSubstr("remove the file, and it is planned anew"));
}

TEST_F(FlagsBesideAPlan, ModelsHaveDegreesOfTheirOwn) {
  std::ofstream(folder_ + "/two.yaml") << "cluster: configs/clusters/h200-pair.yaml\ntensor_parallel_size: 2\nmodels:\n"
      << "  - {model: " << kSmall << ", request_rate: 1}\n"
      << "  - {model: " << kLarge << ", request_rate: 1, tensor_parallel_size: 4, pipeline_parallel_size: 2}\n";
  Placement placement;
  const Status status = place({"--config", folder_ + "/two.yaml"}, &placement);
  ASSERT_TRUE(status.ok()) << status.message();
  ASSERT_EQ(placement.plan.replicas.size(), 2u);
  for (const PlacedReplica& replica : placement.plan.replicas) {
    EXPECT_EQ(shape_text(replica), replica.model == 0 ? "TP 2 x PP 1" : "TP 4 x PP 2");
  }
}

TEST_F(FlagsBesideAPlan, AreThoseOfTheCommandLine) {
  EXPECT_EQ(said({"--config", folder_ + "/serve.yaml"}), "");
  EXPECT_THAT(said({"--config", folder_ + "/serve.yaml", "--itl-ms", "5"}), HasSubstr("--itl-ms is 5, and"));
}

TEST_F(PlanFileTest, PicturesShowEveryRank) {
  const std::string svg = plan_svg(placement_);
  EXPECT_THAT(svg, HasSubstr(">R3<"));
  EXPECT_THAT(svg, HasSubstr(">t3<"));
  EXPECT_THAT(svg, HasSubstr("4 replicas of llama-3.1-8b as TP 4 x PP 1"));
}

TEST(PlanOfCores, NamesThePartOfEachRank) {
  Placement placement;
  const Status status = place({kSmall, "--cluster", in_clusters("laptop"), "--input-len", "200", "--output-len", "100",
                               "--tensor-parallel-size", "2", "--pipeline-parallel-size", "2"}, &placement);
  ASSERT_TRUE(status.ok()) << status.message();
  const std::string text = plan_text(placement);
  EXPECT_THAT(text, HasSubstr("on laptop, 2 x 2 cores: weights"));
  EXPECT_THAT(text, HasSubstr("laptop 0.0 0.0 0.1 0.1 0.2 0.2 0.3 0.3"));
  const std::string svg = plan_svg(placement);
  EXPECT_THAT(svg, HasSubstr(">s1 t1<"));
  EXPECT_THAT(svg, HasSubstr(">2 cores<"));
}

TEST_F(PlanFileTest, HasWhatPromptsAtOnceTake) {
  EXPECT_EQ(json_.find("prompts_at_once"), std::string::npos);
  placement_.request.burst_prompts = 8;
  const auto plan = plan_placement(placement_.request);
  ASSERT_TRUE(plan.ok());
  const Json json = to_json(placement_.request, *plan);
  const Json* burst = json.find("replicas")->as_array()[0].find("prompts_at_once");
  ASSERT_NE(burst, nullptr);
  EXPECT_GT(burst->find("prefill_s")->as_double(), 0);
  EXPECT_GT(burst->find("decode_step_ms")->as_double(), 0);
}

TEST(PlanOnParts, TakesThoseGpusOnly) {
  Placement placement;
  const Status status =
      place({kSmall, "--cluster", in_clusters("h200-pair"), "--nodes", "h200-1:2-4,h200-1:7,h200-2:0"}, &placement);
  ASSERT_TRUE(status.ok()) << status.message();
  std::set<DeviceId> used;
  for (const PlacedReplica& replica : placement.plan.replicas) {
    used.insert(replica.devices.begin(), replica.devices.end());
  }
  EXPECT_EQ(used, (std::set<DeviceId>{{0, 2}, {0, 3}, {0, 4}, {0, 7}, {1, 0}}));
  EXPECT_TRUE(placement.plan.left_over.empty());
}

TEST(PlanOnParts, MustBeThere) {
  const auto said = [](const char* cluster, const char* nodes) {
    Placement placement;
    return place({kSmall, "--cluster", in_clusters(cluster), "--nodes", nodes}, &placement).message();
  };
  EXPECT_THAT(said("h200-pair", "h200-1:6-8"), HasSubstr("names devices 6 to 8 of \"h200-1\", which has 8, counted from 0"));
  EXPECT_THAT(said("h200-pair", "h200-1:4-2"), HasSubstr("names devices 4 to 2 of"));
  EXPECT_THAT(said("h200-pair", "h200-3:0"), HasSubstr("has no node \"h200-3\""));
  EXPECT_THAT(said("h200-pair", "h200-1:x"), HasSubstr("has no node \"h200-1:x\""));
  EXPECT_THAT(said("laptop", "laptop:0-3"), HasSubstr("used all together: name the node alone"));
}

TEST(PlanOnParts, ANodesNameMayEndLikeOne) {
  for (const char* name : {"h200:3", "h200:0-3"}) {
    Placement placement;
    auto cluster = read_cluster_file(in_clusters("h200-pair"));
    ASSERT_TRUE(cluster.ok()) << cluster.status().message();
    placement.cluster = std::move(*cluster);
    placement.cluster.nodes[1].name = name;
    const Status status = place({kSmall, "--cluster", in_clusters("h200-pair"), "--nodes", name}, &placement);
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(placement.request.nodes.size(), 1u);
    EXPECT_TRUE(may_use(placement.request.nodes, name, 7));
  }
}

TEST(PlanOnAGuess, SaysSoOnce) {
  Placement placement;
  auto cluster = read_cluster_file(in_clusters("laptop"));
  ASSERT_TRUE(cluster.ok()) << cluster.status().message();
  placement.cluster = std::move(*cluster);
  placement.cluster.kinds[0] = guessed_cores("a processor");
  const Status status = place({kSmall, "--cluster", in_clusters("laptop")}, &placement);
  ASSERT_TRUE(status.ok()) << status.message();
  const std::string text = plan_text(placement);
  const size_t at = text.find("note        nobody has measured \"a processor\", and all figures of it are a guess");
  EXPECT_NE(at, std::string::npos) << text;
  EXPECT_EQ(text.find("a guess", text.find("a guess", at) + 1), std::string::npos) << text;
}

TEST(PlanWithCalibrations, NamesTheOneOfOtherDevices) {
  const std::string path = testing::TempDir() + "other.yaml";
  const auto notes = [&](const std::string& calibration) {
    std::ofstream(path) << calibration;
    Placement placement;
    EXPECT_EQ(place({kSmall, "--cluster", in_clusters("laptop"), "--calibration", path}, &placement).message(), "");
    for (const std::string& note : placement.notes) {
      EXPECT_THAT(plan_text(placement), HasSubstr("note        " + note + "\n"));
      EXPECT_THAT(plan_json(placement).dump(), HasSubstr(note));
    }
    return placement.notes;
  };
  EXPECT_THAT(notes("links:\n  - {link: NVLink, device: another GPU, ranks: 2, point_to_point_us: {x: [1, 2], y: [1, 2]}}\n"),
              ElementsAre(HasSubstr("other.yaml was measured on a device of this cluster")));
  EXPECT_THAT(notes("links:\n  - {link: TCP, ranks: 2, point_to_point_us: {x: [1, 2], y: [1, 2]}}\n"), IsEmpty())
      << "a link between any devices";
}

TEST(PlanMap, GroupsNodesOfOneKindOnly) {
  Placement placement;
  const Status status = place({kSmall, "--cluster", in_clusters("mixed-32"), "--nodes", "h200-01", "--itl-ms", "50"}, &placement);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_THAT(plan_text(placement), ::testing::Not(HasSubstr("a100-01 to l40s-")));
}

TEST(PlanArguments, AreRefusedWithASentence) {
  Placement placement;
  EXPECT_THAT(place({kSmall, "--cluster", in_clusters("h100-node"), "--nodes", "nobody"}, &placement).message(),
              HasSubstr("has no node \"nobody\""));
  Placement wide;
  EXPECT_THAT(place({kSmall, "--cluster", in_clusters("h100-node"), "--tensor-parallel-size", "64"}, &wide).message(),
              HasSubstr("tensor parallel degree 64 is not possible"));
  Placement unrated;
  EXPECT_THAT(place({kSmall, "--cluster", in_clusters("h100-node"), "--objective", "fewest-devices"}, &unrated).message(),
              HasSubstr("needs a --request-rate"));
  const auto said = [](const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {kSmall, "--cluster", in_clusters("h100-node")};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    Placement refused;
    return place(arguments, &refused).message();
  };
  EXPECT_THAT(said({"--max-model-len", "1000"}), HasSubstr("input-len and output-len are more than max-model-len 1000"));
  EXPECT_THAT(said({"--dtype", "float32"}), HasSubstr("use --dtype auto or bfloat16, not float32"));
  EXPECT_THAT(said({"--kv-cache-dtype", "float32"}), HasSubstr("use --kv-cache-dtype auto or bfloat16, not float32"));
  EXPECT_THAT(said({"--device", "cpu"}), HasSubstr("the plan is for device cuda, not cpu"));
  EXPECT_EQ(said({"--device", "cuda", "--dtype", "bfloat16", "--max-model-len", "1280"}), "");
}

}  // namespace
}  // namespace skein
