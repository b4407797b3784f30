// Pipelines on CPUs.

#include "worker/executor.h"

#include <gtest/gtest.h>

#include "tests/support/replica_harness.h"

namespace skein::testing {
namespace {

constexpr char kModel[] = "tests/oracles/fixtures/llama_gqa";

// Short and long prompts, greedy and drawn, with penalties on what was generated.
std::vector<GenerationRequest> requests() {
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 9; ++i) {
    GenerationRequest request;
    for (int t = 0; t < 1 + i * 23 % 70; ++t) request.tokens.push_back((i * 31 + t * 17) % 256);
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.9f;
    request.sampling.frequency_penalty = i % 3 == 0 ? 1.5f : 0;
    request.sampling.repetition_penalty = i % 3 == 1 ? 1.3f : 1;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.sampling.max_tokens = 10 + i;
    request.sampling.prompt_logprobs = i == 4 ? 0 : -1;
    requests.push_back(request);
  }
  return requests;
}

std::vector<std::vector<ReplicaHarness::Answer>> answers(int stages) {
  ReplicaSpec spec = small_spec(1, stages);
  spec.slots = 4;
  ReplicaHarness replica(spec, kModel);
  return replica.run(requests());
}

void expect_same(const std::vector<std::vector<ReplicaHarness::Answer>>& some,
                 const std::vector<std::vector<ReplicaHarness::Answer>>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE("request " + std::to_string(i));
    const ReplicaHarness::Answer& a = some[i][0];
    const ReplicaHarness::Answer& b = expected[i][0];
    EXPECT_EQ(a.error, "");
    EXPECT_EQ(a.tokens, b.tokens);
    ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
    for (size_t t = 0; t < b.logprobs.size(); ++t) EXPECT_EQ(a.logprobs[t].logprob, b.logprobs[t].logprob);
    ASSERT_EQ(a.prompt_logprobs.size(), b.prompt_logprobs.size());
    for (size_t t = 0; t < b.prompt_logprobs.size(); ++t) {
      EXPECT_EQ(a.prompt_logprobs[t].logprob, b.prompt_logprobs[t].logprob);
    }
  }
}

TEST(Executor, StagesGiveWhatOneRankGives) {
  const auto expected = answers(1);
  expect_same(answers(2), expected);
}

}  // namespace
}  // namespace skein::testing
