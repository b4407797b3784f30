// SmolLM2-135M-Instruct (Q4_1) against transformers on the dequantised file. The model does not lie in the repository:
// SKEIN_SMOLLM2 names it, and scripts/test downloads it.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "tests/oracles/cpp/oracle_file.h"
#include "tests/support/replica_harness.h"

namespace skein::testing {
namespace {

constexpr double kQuantisedTolerance = 0.05;

// Greedy tokens are equal as long as no two candidates lie within the tolerance of each other.
void expect_same_choices(ReplicaHarness& replica, const Prompt& prompt) {
  GenerationRequest request;
  request.tokens = prompt.tokens;
  request.sampling.temperature = 0;
  request.sampling.max_tokens = static_cast<int32_t>(prompt.greedy.size());
  const std::vector<int32_t> found = replica.run({request})[0][0].tokens;
  for (size_t i = 0; i < found.size() && prompt.greedy_margins[i] > kQuantisedTolerance; ++i) {
    ASSERT_EQ(found[i], prompt.greedy[i]) << "token " << i << " after a prompt of " << prompt.tokens.size();
  }
}

struct Difference {
  double worst = 0;
  double mean = 0;
  int count = 0;
};

// Teacher-forced: the likeliest token is the same wherever transformers' first two are further apart than the
// tolerance. The number of such positions.
int expect_same_likeliest(const Prompt& prompt, const std::vector<TokenLogprob>& found) {
  int compared = 0;
  for (size_t k = 0; k < prompt.top_positions.size(); ++k) {
    const auto position = static_cast<size_t>(prompt.top_positions[k]);
    if (position >= found.size()) continue;  // the last one's is the first generated token
    if (prompt.top_logprobs[k][0] - prompt.top_logprobs[k][1] <= kQuantisedTolerance) continue;
    EXPECT_EQ(found[position].top.at(0).first, prompt.top_ids[k][0]) << "after position " << position;
    ++compared;
  }
  return compared;
}

class Smollm2Oracle : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("SKEIN_SMOLLM2");
    if (path == nullptr) GTEST_SKIP() << "SKEIN_SMOLLM2 does not name the model";
    model_ = path;
    prompts_ = read_prompts("tests/oracles/smollm2_expected.json");
  }

  ReplicaSpec spec(const std::string& dtype, int tp, int pp) {
    ReplicaSpec spec = small_spec(tp, pp);
    spec.dtype = dtype;
    return spec;
  }

  // Teacher-forced: every next token of the prompts.
  Difference compare(ReplicaHarness& replica) {
    std::vector<GenerationRequest> requests;
    for (const Prompt& prompt : prompts_) {
      GenerationRequest request;
      request.tokens = prompt.tokens;
      request.sampling.temperature = 0;
      request.sampling.max_tokens = 1;
      request.sampling.top_logprobs = 0;
      request.sampling.prompt_logprobs = 1;
      requests.push_back(request);
    }
    const auto answers = replica.run(requests);
    Difference difference;
    int compared = 0;
    for (size_t p = 0; p < prompts_.size(); ++p) {
      const auto& found = answers[p][0].prompt_logprobs;
      EXPECT_EQ(found.size(), prompts_[p].logprobs.size());
      compared += expect_same_likeliest(prompts_[p], found);
      for (size_t i = 0; i < std::min(found.size(), prompts_[p].logprobs.size()); ++i) {
        const double d = std::abs(found[i].logprob - prompts_[p].logprobs[i]);
        difference.worst = std::max(difference.worst, d);
        difference.mean += d;
        ++difference.count;
      }
    }
    difference.mean /= difference.count;
    EXPECT_GT(compared, difference.count * 9 / 10);
    return difference;
  }

  std::string model_;
  std::vector<Prompt> prompts_;
};

TEST_F(Smollm2Oracle, Float32EqualsTransformers) {
  ReplicaHarness replica(spec("float32", 1, 1), model_);
  const Difference difference = compare(replica);
  std::printf("float32: worst %.6f, mean %.6f over %d\n", difference.worst, difference.mean, difference.count);
  EXPECT_LT(difference.worst, 1e-3);
  for (const Prompt& prompt : prompts_) {
    GenerationRequest request;
    request.tokens = prompt.tokens;
    request.sampling.temperature = 0;
    request.sampling.max_tokens = static_cast<int32_t>(prompt.greedy.size());
    EXPECT_EQ(replica.run({request})[0][0].tokens, prompt.greedy);
  }
}

TEST_F(Smollm2Oracle, QuantisedPathStaysNear) {
  for (const auto& [tp, pp] : {std::pair{1, 1}, std::pair{3, 1}, std::pair{1, 2}}) {
    ReplicaHarness replica(spec("auto", tp, pp), model_);
    const Difference difference = compare(replica);
    std::printf("quantised TP %d x PP %d: worst %.4f, mean %.4f over %d\n", tp, pp, difference.worst, difference.mean,
                difference.count);
    EXPECT_LT(difference.worst, kQuantisedTolerance);
    for (const Prompt& prompt : prompts_) expect_same_choices(replica, prompt);
  }
}

}  // namespace
}  // namespace skein::testing
