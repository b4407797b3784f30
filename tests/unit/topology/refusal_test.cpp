// What the planner says where there is no plan, and that what it offers can be had.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/parse_number.h"
#include "topology/cluster_file.h"
#include "topology/planner.h"

namespace skein {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class Refusal : public ::testing::Test {
 protected:
  void plan_on(const std::string& cluster, const std::string& model) {
    cluster_ = *read_cluster_file("configs/clusters/" + cluster + ".yaml");
    auto opened = Checkpoint::open("configs/models/" + model, LoadFormat::kDummy);
    model_ = std::move(*opened);
    const bool gpu = cluster_.kinds[0].gpu;
    ModelDemand demand{.name = model, .checkpoint = model_.get()};
    demand.load = {.input_tokens = 1024, .output_tokens = 256};
    demand.memory.gpu = gpu;
    demand.memory.block_tokens = gpu ? 64 : 16;
    demand.memory.slots = gpu ? 256 : 64;
    demand.memory.step_tokens_max = gpu ? 8192 : 512;
    request_ = {.cluster = &cluster_, .calibration = &calibration_, .models = {demand}};
  }

  ModelDemand& demand() { return request_.models[0]; }
  std::string refusal() const { return plan_placement(request_).status().message(); }
  // The number between those words of it.
  template <typename Number>
  static Number offered(const std::string& said, const std::string& before, const std::string& behind) {
    const size_t begin = said.find(before) + before.size();
    const std::optional<Number> number = parse_number<Number>(said.substr(begin, said.find(behind, begin) - begin));
    EXPECT_TRUE(number.has_value()) << said;
    return number.value_or(0);
  }

  Cluster cluster_;
  Calibration calibration_ = shipped_calibration();
  std::unique_ptr<Checkpoint> model_;
  PlanRequest request_;
};

TEST_F(Refusal, TheLatenciesThatItOffersCanBeHad) {
  plan_on("h200-pair", "llama-3.1-70b");
  demand().level.itl_ms = 2;
  EXPECT_THAT(refusal(), AllOf(HasSubstr("on TP 8 x PP 1 its first token takes 43 ms and each further one 5.5 ms"),
                               HasSubstr("raise itl-ms to 5.5,")));
  demand().level.itl_ms = 5.5;
  EXPECT_TRUE(plan_placement(request_).ok());
  demand().level.ttft_ms = 30;
  EXPECT_THAT(refusal(), HasSubstr("raise ttft-ms to 43.5,"));
  demand().level.ttft_ms = 43.5;
  EXPECT_TRUE(plan_placement(request_).ok());
  demand().level = {.ttft_ms = 30, .itl_ms = 2};
  EXPECT_THAT(refusal(), HasSubstr("raise ttft-ms to 43.5 and itl-ms to 5.5,"));
}

TEST_F(Refusal, DegreesAndPoolsThatAreAskedForAreNamed) {
  plan_on("h200-pair", "llama-3.1-70b");
  demand().tensor_parallel_size = 16;
  EXPECT_THAT(refusal(), AllOf(HasSubstr("tensor-parallel-size 16 needs"), HasSubstr("the most are 8; lower it")));
  demand().tensor_parallel_size = 0;
  demand().memory.kv_bytes_per_rank = 1'000'000'000'000;
  EXPECT_THAT(refusal(), AllOf(HasSubstr("kv-cache-memory-bytes of 931.3 GiB a rank does not fit"), HasSubstr("lower it, or leave it out")));
}

TEST_F(Refusal, TheContextThatItOffersCanBeHad) {
  plan_on("laptop", "llama-3.1-8b");
  cluster_.nodes[0].memory_bytes = int64_t{20} << 30;
  demand().tensor_parallel_size = demand().pipeline_parallel_size = 1;
  demand().memory.context_max = 131'072;
  const std::string said = refusal();
  EXPECT_THAT(said, HasSubstr("max-model-len 131072 tokens does not fit"));
  demand().memory.context_max = offered<int>(said, "and one of ", " does;");
  EXPECT_TRUE(plan_placement(request_).ok()) << refusal();
}

TEST_F(Refusal, ThePoolThatItOffersHoldsARequest) {
  plan_on("h200-pair", "llama-3.1-8b");
  demand().memory.context_max = 32'768;
  demand().memory.kv_bytes_per_rank = 100'000'000;
  const std::string said = refusal();
  EXPECT_THAT(said, HasSubstr("kv-cache-memory-bytes of 95.4 MiB a rank holds no request of 32768 tokens"));
  demand().memory.kv_bytes_per_rank = offered<int64_t>(said, "raise it to ", " (");
  EXPECT_TRUE(plan_placement(request_).ok()) << refusal();
}

TEST_F(Refusal, AContextBeyondTheModelsIsRefusedAsByThePlanOfMemory) {
  plan_on("h200-pair", "llama-3.1-8b");
  demand().memory.context_max = 131'073;
  EXPECT_THAT(refusal(), HasSubstr(": max-model-len 131073 is more than the 131072 tokens that the model was made for; lower it"));
}

TEST_F(Refusal, WhatLacksIsCountedInReplicas) {
  plan_on("h200-pair", "llama-3.1-70b");
  request_.objective = Objective::kFewestDevices;
  demand().load.request_rate = 60;  // eight replicas of two GPUs give 51
  EXPECT_THAT(refusal(), AllOf(HasSubstr("add about 4 x NVIDIA H200, or lower request-rate"), Not(HasSubstr("latencies"))));
  demand().level.itl_ms = 30;
  EXPECT_THAT(refusal(), HasSubstr("or allow higher latencies"));
}

TEST_F(Refusal, OfCoresNodesAreMissingAndSmallerFormatsMayDo) {
  plan_on("laptop", "llama-3.1-70b");
  EXPECT_THAT(refusal(), HasSubstr("need 5 nodes of AMD Ryzen 7 7840U and 1 is free; add 4 or use a smaller model"));
  plan_on("laptop", "llama-3.1-8b");
  cluster_.nodes[0].memory_bytes = int64_t{12} << 30;
  EXPECT_THAT(refusal(), HasSubstr("need 2 nodes of AMD Ryzen 7 7840U and 1 is free; add 1, use weights in Q8_0 or use a smaller"));
  cluster_.nodes[0].memory_bytes = int64_t{7} << 30;
  EXPECT_THAT(refusal(), HasSubstr("use weights in Q4_0 or"));
}

TEST_F(Refusal, AModelThatComesAfterOthersSaysSo) {
  plan_on("h200-pair", "llama-3.1-70b");
  request_.objective = Objective::kLatency;
  demand().load.request_rate = 48;  // eight replicas of two GPUs each
  request_.models.push_back(demand());
  request_.models[1].name = "second";
  EXPECT_THAT(refusal(), HasSubstr("second: the models placed before it leave no device free; add nodes, or plan it apart from"));
}

}  // namespace
}  // namespace skein
