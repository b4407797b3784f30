#include "coordinator/cli/serve_config.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>

namespace skein {
namespace {

class ServeConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const int fd = mkstemp(path_);
    ASSERT_GE(fd, 0);
    close(fd);
  }
  void TearDown() override { unlink(path_); }

  Result<ServeConfig> parse(const std::string& yaml, std::vector<std::string> flags = {}) {
    std::ofstream(path_) << yaml;
    flags.insert(flags.end(), {"--config", path_});
    return parse_serve_config(flags);
  }

  std::string error(const std::string& yaml) {
    const Result<ServeConfig> config = parse(yaml);
    EXPECT_FALSE(config.ok()) << yaml;
    return config.ok() ? "" : config.status().message();
  }

  char path_[32] = "/tmp/serve_config_XXXXXX";
};

TEST_F(ServeConfigTest, FlagsWinOverTheFile) {
  const auto config = parse("model: /m\nport: 1\nmax_num_seqs: 7\n", {"--port", "2"});
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->model, "/m");
  EXPECT_EQ(config->port, 2);
  EXPECT_EQ(config->max_num_seqs, 7);
}

TEST_F(ServeConfigTest, Deterministic) {
  EXPECT_FALSE(parse("model: m\n")->deterministic);
  EXPECT_TRUE(parse("model: m\ndeterministic: true\n")->deterministic);
  EXPECT_TRUE(parse("model: m\n", {"--deterministic"})->deterministic);
}

TEST_F(ServeConfigTest, ReplicasOfDifferentShape) {
  const auto config =
      parse("model: m\nreplicas:\n  - {tensor_parallel_size: 3}\n  - {pipeline_parallel_size: 2, count: 2}\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  const auto shapes = config->shapes();
  ASSERT_EQ(shapes.size(), 2u);
  EXPECT_EQ(shapes[0].tensor_parallel_size, 3);
  EXPECT_EQ(shapes[1].pipeline_parallel_size, 2);
  EXPECT_EQ(shapes[1].count, 2);
}

TEST_F(ServeConfigTest, ErrorsNameFileAndLine) {
  EXPECT_NE(error("model: m\nprot: 1\n").find(":2: unknown setting prot; did you mean port?"), std::string::npos);
  EXPECT_NE(error("model: m\n\nport: many\n").find(":3"), std::string::npos);
  EXPECT_NE(error("model: m\nreplicas:\n  - {tensor_paralel_size: 3}\n")
                .find(":3: unknown setting tensor_paralel_size; did you mean tensor_parallel_size?"), std::string::npos);
  EXPECT_NE(error("cluster: c\nmodels:\n  - {model: m, tensor_parallel_size: many}\n").find(":3: tensor_parallel_size: "),
            std::string::npos);
  EXPECT_NE(error("model: m\nport: [1\n").find("line"), std::string::npos);
  error("- a\n- b\n");
  error("model: &a m\nhost: *a\n");
  error("model: m\nmodel: n\n");
  error("model: {a: b}\n");
  error("model: m\nreplicas: 3\n");
}

TEST_F(ServeConfigTest, AClusterNamesItsPlaces) {
  const std::string head = "model: m\nlisten: tcp://10.0.0.1:7300\nkey_file: k\nallow_list: a\n";
  const auto config =
      parse(head + "replicas:\n  - {tensor_parallel_size: 2, places: [node-a:0, node-b:3]}\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  ASSERT_EQ(config->shapes()[0].places.size(), 2u);
  EXPECT_EQ(config->shapes()[0].places[1].node, "node-b");
  EXPECT_EQ(config->shapes()[0].places[1].device, 3);

  EXPECT_NE(error(head + "replicas:\n  - {tensor_parallel_size: 2}\n").find("needs places"), std::string::npos);
  EXPECT_TRUE(parse(head)->gathered()) << "the agents say what there is";
  EXPECT_TRUE(parse(head + "cluster: c.yaml\n").ok()) << "the planner knows places";
  EXPECT_NE(error("model: m\nreplicas:\n  - {places: [a:0]}\n").find("give listen"), std::string::npos);
  EXPECT_NE(error("model: m\nreplicas:\n  - {places: [a:x]}\n").find(":3: \"a:x\" is no place"), std::string::npos);
  EXPECT_NE(error("model: m\nreplicas:\n  - {places: [a:0, b:0]}\n").find(":3: places names 2 ranks"),
            std::string::npos);
  EXPECT_NE(error("model: m\nlisten: tcp://*:7300\n").find("every interface"), std::string::npos);
  EXPECT_NE(error("model: m\nlisten: 10.0.0.1\n").find("must be tcp://"), std::string::npos);
  EXPECT_NE(error("model: m\nlisten: tcp://10.0.0.1:7300\n").find("skein keys"), std::string::npos);
  EXPECT_NE(error(head + "ports: 1-2\nreplicas:\n  - {places: [a:0]}\n").find("too few"), std::string::npos);
}

TEST_F(ServeConfigTest, StagesNameTheirLayers) {
  const auto config = parse("model: m\nreplicas:\n  - {pipeline_parallel_size: 2, stage_layers: [17, 15]}\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(config->shapes()[0].stage_layers, (std::vector<int>{17, 15}));
  const auto wrong = [&](const std::string& layers) {
    return error("model: m\nreplicas:\n  - {pipeline_parallel_size: 2, stage_layers: " + layers + "}\n");
  };
  EXPECT_NE(wrong("[17, 14, 1]").find(":3: stage_layers has 3 stages where the pipeline has 2"), std::string::npos);
  for (const char* layers : {"17", "[17, 0]", "[17, x]", "[17, [15]]", "[17, 99999999999]"}) {
    EXPECT_NE(wrong(layers).find(":3: stage_layers must be a list"), std::string::npos) << layers;
  }
}

TEST_F(ServeConfigTest, ThePlannerOrTheUserPlacesReplicas) {
  EXPECT_EQ(parse("model: m\ncluster: c.yaml\nplan: p.json\nitl_ms: 30\n")->placement.plan, "p.json");
  EXPECT_NE(error("model: m\ncluster: c.yaml\nreplicas:\n  - {count: 2}\n").find("leave one of them out"), std::string::npos);
  EXPECT_NE(error("model: m\ncluster: c.yaml\ndata_parallel_size: 2\n").find("request-rate"), std::string::npos);
  EXPECT_NE(error("model: m\nplan: p.json\n").find("--cluster"), std::string::npos);
  EXPECT_NE(error("cluster: c.yaml\nmodels:\n  - {model: a}\n").find("one server serves one model"),
            std::string::npos);
}

TEST_F(ServeConfigTest, ALocalCommandHasItsOwnFlagsAndDefaults) {
  ServeConfig config;
  config.no_prefix_caching = true;
  int rounds = 5;
  OptionTable table;
  add_local_options(&table, &config);
  table.add_integer("rounds", "", 1, 9, &rounds);
  const auto parse_local = [&](const std::string& yaml) {
    std::ofstream(path_) << yaml;
    return parse_local_config({"--rounds", "3", "--max-num-seqs", "2", "--config", path_}, table, &config);
  };
  const Status status = parse_local("model: m\nport: 1\nmax_num_seqs: 7\nblock_size: 32\n");
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(config.model, "m");
  EXPECT_EQ(config.max_num_seqs, 2);
  EXPECT_EQ(config.block_size, 32);
  EXPECT_TRUE(config.no_prefix_caching) << "the file does not speak of it";
  EXPECT_EQ(rounds, 3);
  EXPECT_NE(parse_local("rounds: 4\n").message().find("unknown setting rounds"), std::string::npos);
}

TEST_F(ServeConfigTest, WhatWouldBeIgnoredIsRefused) {
  const auto said = [](const std::vector<std::string>& flags) { return parse_serve_config(flags).status().message(); };
  EXPECT_NE(said({"m", "--cluster", "c.yaml", "--nodes", ""}).find("--nodes is empty"), std::string::npos);
  EXPECT_NE(error("model: m\ncluster: c.yaml\nmodels:\n  - {model: a}\n").find("leave one of them out"), std::string::npos);
}

TEST_F(ServeConfigTest, AModelIsNeeded) {
  EXPECT_FALSE(parse_serve_config({}).ok());
  EXPECT_FALSE(parse_serve_config({"a", "b"}).ok());
  EXPECT_EQ(parse_serve_config({"a"})->model, "a");
}

}  // namespace
}  // namespace skein
