// Would the oracles notice? Each test breaks one thing and expects the answers to leave the tolerance.

#include <gtest/gtest.h>

#include <cmath>

#include "tests/oracles/cpp/oracle_file.h"
#include "tests/support/replica_harness.h"

namespace skein::testing {
namespace {

// The largest difference from transformers with these kernels.
double worst_difference(const std::string& name, const Ops& ops) {
  const std::string folder = "tests/oracles/fixtures/" + name;
  const std::vector<Prompt> prompts = read_prompts(folder + "/expected.json");
  ReplicaSpec spec = small_spec(1, 1);
  spec.dtype = "float32";
  ReplicaHarness replica(spec, folder, ops);
  std::vector<GenerationRequest> requests;
  for (const Prompt& prompt : prompts) {
    GenerationRequest request;
    request.tokens = prompt.tokens;
    request.sampling.temperature = 0;
    request.sampling.max_tokens = 1;
    request.sampling.top_logprobs = 0;
    request.sampling.prompt_logprobs = 0;
    requests.push_back(request);
  }
  const auto answers = replica.run(requests);
  double worst = 0;
  for (size_t p = 0; p < prompts.size(); ++p) {
    const auto& found = answers[p][0].prompt_logprobs;
    for (size_t i = 0; i < found.size(); ++i) {
      worst = std::max(worst, std::abs(found[i].logprob - prompts[p].logprobs[i]));
    }
  }
  return worst;
}

constexpr double kVisible = 1e-2;  // a hundred times the oracles' tolerance

TEST(PlantedFaults, NoneIsSeenWithoutOne) { EXPECT_LT(worst_difference("llama_gqa", cpu_ops()), 1e-4); }

TEST(PlantedFaults, RotaryFrequenciesOffByOne) {
  Ops ops = cpu_ops();
  ops.attention = [](Device& device, const AttentionArgs& args) {
    RopeAppendArgs wrong = *args.append;
    wrong.cos_sin += 2;
    AttentionArgs with_wrong = args;
    with_wrong.append = &wrong;
    cpu_ops().attention(device, with_wrong);
  };
  EXPECT_GT(worst_difference("llama_gqa", ops), kVisible);
}

TEST(PlantedFaults, AttentionScaleWrong) {
  Ops ops = cpu_ops();
  ops.attention = [](Device& device, const AttentionArgs& args) {
    AttentionArgs wrong = args;
    wrong.scale *= 1.05f;
    cpu_ops().attention(device, wrong);
  };
  EXPECT_GT(worst_difference("llama_gqa", ops), kVisible);
}

TEST(PlantedFaults, KvHeadsMixedUp) {
  Ops ops = cpu_ops();
  ops.attention = [](Device& device, const AttentionArgs& args) {
    AttentionArgs wrong = args;
    wrong.group_size = 6;
    cpu_ops().attention(device, wrong);
  };
  EXPECT_GT(worst_difference("llama_gqa", ops), kVisible);
}

TEST(PlantedFaults, WindowIgnored) {
  Ops ops = cpu_ops();
  ops.attention = [](Device& device, const AttentionArgs& args) {
    AttentionArgs wrong = args;
    wrong.window = 0;
    cpu_ops().attention(device, wrong);
  };
  EXPECT_GT(worst_difference("mistral_window", ops), kVisible);
}

TEST(PlantedFaults, WindowOffByOne) {
  Ops ops = cpu_ops();
  ops.attention = [](Device& device, const AttentionArgs& args) {
    AttentionArgs wrong = args;
    wrong.window -= 1;
    cpu_ops().attention(device, wrong);
  };
  EXPECT_GT(worst_difference("mistral_window", ops), kVisible);
}

TEST(PlantedFaults, NormEpsilonWrong) {
  Ops ops = cpu_ops();
  ops.add_norm = [](Device& device, const AddNormArgs& args) {
    AddNormArgs wrong = args;
    wrong.epsilon *= 10;
    cpu_ops().add_norm(device, wrong);
  };
  EXPECT_GT(worst_difference("llama_biases", ops), kVisible);
}

TEST(PlantedFaults, BiasDropped) {
  Ops ops = cpu_ops();
  ops.linear = [](Device& device, const LinearArgs& args) {
    LinearArgs wrong = args;
    wrong.bias = nullptr;
    cpu_ops().linear(device, wrong);
  };
  EXPECT_GT(worst_difference("llama_biases", ops), kVisible);
  EXPECT_GT(worst_difference("qwen2_bias", ops), kVisible);
}

TEST(PlantedFaults, QkNormDropped) {
  Ops ops = cpu_ops();
  ops.attention = [](Device& device, const AttentionArgs& args) {
    RopeAppendArgs wrong = *args.append;
    wrong.q_norm = nullptr;
    AttentionArgs with_wrong = args;
    with_wrong.append = &wrong;
    cpu_ops().attention(device, with_wrong);
  };
  EXPECT_GT(worst_difference("qwen3_qknorm", ops), kVisible);
}

}  // namespace
}  // namespace skein::testing
