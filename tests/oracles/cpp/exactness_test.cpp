// A request's tokens and log-probabilities are bitwise the same alone, in any batch, chunked,
// after preemption, from the prefix cache, and for every number of threads.

#include <gtest/gtest.h>

#include <bit>
#include <random>

#include "tests/support/replica_harness.h"

namespace skein::testing {
namespace {

// The same model in two storage formats: float32 products and int8 products.
const char* const kModels[] = {"tests/oracles/fixtures/llama_gqa", "tests/oracles/fixtures/gguf_llama_q4_1/model.gguf",
                               "tests/oracles/fixtures/gguf_llama_q8_0/model.gguf"};

GenerationRequest random_request(uint32_t seed, int length, float temperature) {
  std::mt19937 random(seed);
  GenerationRequest request;
  for (int i = 0; i < length; ++i) request.tokens.push_back(static_cast<int32_t>(random() % 256));
  request.sampling.temperature = temperature;
  request.sampling.top_p = 0.95f;
  request.sampling.seed = seed;
  request.sampling.max_tokens = 24;
  request.sampling.top_logprobs = 3;
  return request;
}

std::vector<GenerationRequest> mixed_requests() {
  std::vector<GenerationRequest> requests;
  for (const int length : {1, 5, 16, 17, 40, 100, 131, 250}) {
    requests.push_back(random_request(static_cast<uint32_t>(length), length, length % 2 == 0 ? 0.0f : 1.0f));
  }
  return requests;
}

void expect_same(const ReplicaHarness::Answer& a, const ReplicaHarness::Answer& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  ASSERT_EQ(a.logprobs.size(), b.logprobs.size());
  for (size_t i = 0; i < a.logprobs.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint32_t>(a.logprobs[i].logprob), std::bit_cast<uint32_t>(b.logprobs[i].logprob)) << i;
    EXPECT_EQ(a.logprobs[i].top, b.logprobs[i].top);
  }
}

class Exactness : public ::testing::TestWithParam<const char*> {
 protected:
  std::vector<ReplicaHarness::Answer> alone(ReplicaSpec spec) {
    spec.prefix_caching = false;
    ReplicaHarness replica(spec, GetParam());
    std::vector<ReplicaHarness::Answer> answers;
    for (const GenerationRequest& request : mixed_requests()) answers.push_back(replica.run({request})[0][0]);
    return answers;
  }

  void expect_batch_equals(const ReplicaSpec& spec, const std::vector<ReplicaHarness::Answer>& expected) {
    ReplicaHarness replica(spec, GetParam());
    const auto answers = replica.run(mixed_requests());
    for (size_t i = 0; i < expected.size(); ++i) expect_same(answers[i][0], expected[i]);
  }
};

TEST_P(Exactness, InABatchAndChunked) {
  const auto expected = alone(small_spec(1, 1));
  for (const int step_tokens : {17, 64, 1024}) {
    SCOPED_TRACE(step_tokens);
    ReplicaSpec spec = small_spec(1, 1);
    spec.step_tokens_max = step_tokens;
    expect_batch_equals(spec, expected);
  }
}

TEST_P(Exactness, ForEveryNumberOfThreadsAndBlockSize) {
  const auto expected = alone(small_spec(1, 1));
  for (const int threads : {2, 3}) {
    ReplicaSpec spec = small_spec(1, 1);
    spec.threads = threads;
    spec.block_tokens = threads == 2 ? 8 : 32;
    expect_batch_equals(spec, expected);
  }
}

TEST_P(Exactness, WithinEveryShape) {
  for (const auto& [tp, pp] : {std::pair{2, 1}, std::pair{1, 2}, std::pair{2, 2}}) {
    expect_batch_equals(small_spec(tp, pp), alone(small_spec(tp, pp)));
  }
}

TEST_P(Exactness, PipelineStagesChangeNothing) {
  const auto expected = alone(small_spec(1, 1));
  expect_batch_equals(small_spec(1, 3), expected);
}

TEST_P(Exactness, AfterPreemption) {
  const auto expected = alone(small_spec(1, 1));
  ReplicaSpec spec = small_spec(1, 1);
  spec.kv_blocks = 20;  // 320 tokens for 584 that want to be there
  spec.context_max = 300;
  ReplicaHarness replica(spec, GetParam());
  const auto answers = replica.run(mixed_requests());
  EXPECT_GT(replica.batcher().stats().preemptions, 0);
  for (size_t i = 0; i < expected.size(); ++i) expect_same(answers[i][0], expected[i]);
}

TEST_P(Exactness, FromThePrefixCache) {
  const auto expected = alone(small_spec(1, 1));
  ReplicaHarness replica(small_spec(1, 1), GetParam());
  replica.run(mixed_requests());
  const auto answers = replica.run(mixed_requests());
  for (size_t i = 0; i < expected.size(); ++i) expect_same(answers[i][0], expected[i]);
  EXPECT_EQ(answers.back()[0].cached_tokens, 240);
}

TEST_P(Exactness, ChoicesEqualRequestsOfTheirOwn) {
  ReplicaHarness replica(small_spec(1, 1), GetParam());
  GenerationRequest forked = random_request(90, 37, 1.0f);
  forked.choices = 5;
  const auto choices = replica.run({forked})[0];
  for (int choice = 0; choice < forked.choices; ++choice) {
    GenerationRequest single = forked;
    single.choices = 1;
    single.sampling.seed += static_cast<uint64_t>(choice);
    expect_same(choices[static_cast<size_t>(choice)], replica.run({single})[0][0]);
  }
}

TEST_P(Exactness, ResumedFromAcceptedTokens) {
  ReplicaHarness replica(small_spec(1, 1), GetParam());
  const GenerationRequest whole = random_request(41, 41, 1.0f);
  const auto expected = replica.run({whole})[0][0];
  for (const size_t accepted : {size_t{1}, size_t{10}, size_t{23}}) {
    GenerationRequest rest = whole;
    rest.prompt_tokens = static_cast<int32_t>(whole.tokens.size());
    const auto cut = expected.tokens.begin() + static_cast<long>(accepted);
    rest.tokens.insert(rest.tokens.end(), expected.tokens.begin(), cut);
    const auto answer = replica.run({rest})[0][0];
    EXPECT_EQ(answer.tokens, std::vector<int32_t>(cut, expected.tokens.end()));
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Exactness, ::testing::ValuesIn(kModels), [](const auto& info) {
  const std::string path = info.param;
  return path.find("q4_1") != path.npos ? "Q4_1" : path.find("q8_0") != path.npos ? "Q8_0" : "BF16";
});

}  // namespace
}  // namespace skein::testing
