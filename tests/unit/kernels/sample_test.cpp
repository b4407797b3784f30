#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/cpu/sample.h"
#include "tests/unit/kernels/fixture.h"

namespace skein::test {
namespace {

// One slot, its tokens, and how it samples.
struct Slots {
  explicit Slots(std::vector<int32_t> tokens_so_far, const SlotSampling& how = {})
      : tokens(std::move(tokens_so_far)), sampling(how) {
    known = static_cast<int32_t>(tokens.size());
    tokens.resize(tokens.size() + 8, -1);
  }
  SlotState state() {
    return {.slots = 1, .tokens_max = static_cast<int>(tokens.size()), .tokens = tokens.data(),
            .lengths = &known, .sampling = &sampling};
  }
  std::vector<int32_t> tokens;
  SlotSampling sampling;
  int32_t known;
};

SampledToken sample_once(Rank* rank, Slots* slots, std::vector<float> logits, const SampleRow& row,
                         const std::vector<uint32_t>* mask = nullptr) {
  SampledToken out;
  int32_t token = 12345;
  const uint64_t ignored = 77;
  const SlotState state = slots->state();
  cpu_ops().sample(rank->device(), {.out = &out, .tokens = &token, .logits = logits.data(),
                                    .vocabulary = static_cast<int64_t>(logits.size()), .rows = 1, .row = &row,
                                    .state = &state, .token_mask = mask == nullptr ? nullptr : mask->data(),
                                    .largest = &ignored});
  EXPECT_EQ(token, row.score != 0 ? -1 : out.token);
  return out;
}

SampledToken next(Rank* rank, Slots* slots, const std::vector<float>& logits,
                  const std::vector<uint32_t>* mask = nullptr) {
  return sample_once(rank, slots, logits, {.position = slots->known - 1}, mask);
}

double log_softmax(const std::vector<float>& logits, size_t token) {
  double highest = -INFINITY, sum = 0;
  for (float x : logits) highest = std::max(highest, static_cast<double>(x));
  for (float x : logits) sum += std::exp(static_cast<double>(x) - highest);
  return static_cast<double>(logits[token]) - highest - std::log(sum);
}

SlotSampling greedy() { return {.temperature = 0}; }

// Random123's known answers for philox4x32 with 10 rounds.
TEST(Philox, GivesTheKnownAnswers) {
  EXPECT_EQ(philox_uniform(0, 0), (0x6627e8d5 + 0.5) / 4294967296.0);
  EXPECT_NE(philox_uniform(1, 0), philox_uniform(0, 0));
  EXPECT_NE(philox_uniform(uint64_t{1} << 32, 0), philox_uniform(0, 0));
  EXPECT_NE(philox_uniform(0, 1), philox_uniform(0, 0));
}

TEST(Sample, GreedyTakesTheHighestAndReportsLogprobs) {
  Random random(1);
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa);
    for (int n : {1, 2, 15, 16, 17, 1000, 49152}) {
      const auto logits = random.normals(n, 4);
      SlotSampling how = greedy();
      how.top_logprobs = 20;
      Slots slots({5, 6}, how);
      const SampledToken out = next(&rank, &slots, logits);
      std::vector<int32_t> order(static_cast<size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
        return x != y ? x > y : a < b;
      });
      EXPECT_EQ(out.token, order[0]);
      EXPECT_EQ(out.rank, 1);
      EXPECT_NEAR(out.logprob, log_softmax(logits, static_cast<size_t>(order[0])), 2e-6);
      ASSERT_EQ(out.top_count, std::min(n, 20));
      for (int i = 0; i < out.top_count; ++i) {
        EXPECT_EQ(out.top_tokens[i], order[static_cast<size_t>(i)]);
        EXPECT_NEAR(out.top_logprobs[i], log_softmax(logits, static_cast<size_t>(order[static_cast<size_t>(i)])), 2e-6);
      }
    }
  }
}

TEST(Sample, SaysNothingOfATokenIfNothingIsWanted) {
  Random random(12);
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa);
    const auto logits = random.normals(1000, 3);
    for (const float temperature : {0.0f, 0.8f}) {
      for (const float penalty : {1.0f, 1.3f}) {
        SlotSampling how = {.temperature = temperature, .repetition_penalty = penalty, .seed = 4};
        Slots told({5, 6}, how);
        how.top_logprobs = -1;
        Slots quiet({5, 6}, how);
        const SampledToken out = next(&rank, &quiet, logits);
        EXPECT_EQ(out.token, next(&rank, &told, logits).token) << "the same token";
        EXPECT_EQ(out.logprob, 0);
        EXPECT_EQ(out.rank, 0);
        EXPECT_EQ(out.top_count, 0);
      }
    }
  }
}

TEST(Sample, TiesGoToTheSmallerId) {
  Rank rank("avx2");
  std::vector<float> logits(100, 1.0f);
  SlotSampling how = greedy();
  how.top_logprobs = 3;
  Slots slots({0}, how);
  const SampledToken out = next(&rank, &slots, logits);
  EXPECT_EQ(out.token, 0);
  EXPECT_EQ(out.rank, 100);  // as many are as likely
  EXPECT_EQ(out.top_tokens[0], 0);
  EXPECT_EQ(out.top_tokens[2], 2);
}

TEST(Sample, ScoresTheTokenThatFollows) {
  Rank rank("avx2");
  Random random(2);
  const auto logits = random.normals(50);
  Slots slots({3, 7, 11});
  const SampledToken out = sample_once(&rank, &slots, logits, {.position = 1, .score = 1});
  EXPECT_EQ(out.token, 11);
  EXPECT_NEAR(out.logprob, log_softmax(logits, 11), 1e-6);
  int rank_of = 0;
  for (float x : logits) rank_of += x >= logits[11] ? 1 : 0;
  EXPECT_EQ(out.rank, rank_of);
}

// Greedy choice after each change of the logits, at the boundary where it tips.
TEST(Sample, AppliesPenaltiesBiasAndBans) {
  Rank rank("avx2");
  const auto chosen = [&](const std::vector<float>& logits, std::vector<int32_t> tokens, SlotSampling how,
                          const std::vector<uint32_t>* mask = nullptr) {
    how.temperature = 0;
    Slots slots(std::move(tokens), how);
    const SampledToken out = next(&rank, &slots, logits, mask);
    if (out.token >= 0) {
      EXPECT_NEAR(out.logprob, log_softmax(logits, static_cast<size_t>(out.token)), 1e-6);
    }
    return out.token;
  };
  // Repetition over prompt and output, once per token, dividing positive and multiplying negative logits.
  EXPECT_EQ(chosen({4.0f, 2.1f}, {0, 0}, {.repetition_penalty = 2, .prompt_tokens = 2}), 1);
  EXPECT_EQ(chosen({4.0f, 1.9f}, {0, 0}, {.repetition_penalty = 2, .prompt_tokens = 2}), 0);
  EXPECT_EQ(chosen({-1.0f, -1.9f}, {0}, {.repetition_penalty = 2}), 1);
  EXPECT_EQ(chosen({-1.0f, -2.1f}, {0}, {.repetition_penalty = 2}), 0);
  // Frequency counts, presence doesn't; neither looks at the prompt.
  EXPECT_EQ(chosen({4.0f, 2.1f}, {0, 0}, {.frequency_penalty = 1}), 1);
  EXPECT_EQ(chosen({4.0f, 1.9f}, {0, 0}, {.frequency_penalty = 1}), 0);
  EXPECT_EQ(chosen({4.0f, 3.1f}, {0, 0}, {.presence_penalty = 1}), 1);
  EXPECT_EQ(chosen({4.0f, 2.9f}, {0, 0}, {.presence_penalty = 1}), 0);
  EXPECT_EQ(chosen({4.0f, 3.1f}, {0, 0}, {.presence_penalty = 1, .frequency_penalty = 1, .prompt_tokens = 2}), 0);
  // All of them: 4 / 2 - 1 - 1 = 0.
  EXPECT_EQ(chosen({4.0f, 0.1f}, {0}, {.presence_penalty = 1, .frequency_penalty = 1, .repetition_penalty = 2}), 1);
  EXPECT_EQ(chosen({4.0f, -0.1f}, {0}, {.presence_penalty = 1, .frequency_penalty = 1, .repetition_penalty = 2}), 0);
  // Tokens outside the vocabulary count for nothing.
  EXPECT_EQ(chosen({4.0f, 3.9f}, {-5, 9}, {.repetition_penalty = 2}), 0);
  // Bias.
  SlotSampling bias;
  bias.bias_count = 2;
  bias.bias_tokens[0] = 1;
  bias.bias_values[0] = 5;
  bias.bias_tokens[1] = 99;
  EXPECT_EQ(chosen({4.0f, 0.0f}, {0}, bias), 1);
  // Stop tokens wait for min_tokens generated ones.
  SlotSampling stop;
  stop.prompt_tokens = 1;
  stop.min_tokens = 2;
  stop.stop_count = 1;
  stop.stop_tokens[0] = 0;
  EXPECT_EQ(chosen({4.0f, 0.0f}, {1}, stop), 1);
  EXPECT_EQ(chosen({4.0f, 0.0f}, {1, 1}, stop), 1);
  EXPECT_EQ(chosen({4.0f, 0.0f}, {1, 1, 1}, stop), 0);
  // Mask.
  const std::vector<uint32_t> second = {2}, none = {0};
  EXPECT_EQ(chosen({4.0f, 0.0f}, {1}, {}, &second), 1);
  EXPECT_EQ(chosen({4.0f, 0.0f}, {1}, {}, &none), -2);
}

TEST(Sample, CountsOnlyTokensUpToItsPosition) {
  Rank rank("avx2");
  Slots slots({1, 0, 0}, {.temperature = 0, .presence_penalty = 3});
  EXPECT_EQ(sample_once(&rank, &slots, {4, 2}, {.position = 0}).token, 0);
  EXPECT_EQ(sample_once(&rank, &slots, {4, 2}, {.position = 1}).token, 0);  // 1 - 3 < 4 - 3
  EXPECT_EQ(sample_once(&rank, &slots, {4, 2}, {.position = 2}).token, 0);
  slots.tokens = {0, 1, 1, -1};
  EXPECT_EQ(sample_once(&rank, &slots, {4, 2}, {.position = 0}).token, 1);
}

// How often each token is drawn over many seeds, against what the settings leave of the distribution.
void expect_distribution(const std::vector<float>& logits, const SlotSampling& how,
                         const std::vector<double>& wanted, const std::string& what) {
  Rank rank(instruction_sets().back());
  constexpr int kDraws = 20000;
  std::vector<int> counts(logits.size());
  SlotSampling sampling = how;
  for (int i = 0; i < kDraws; ++i) {
    sampling.seed = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15;
    Slots slots({0}, sampling);
    const SampledToken out = next(&rank, &slots, logits);
    ASSERT_GE(out.token, 0);
    ++counts[static_cast<size_t>(out.token)];
  }
  double chi2 = 0;
  int kept = 0;
  for (size_t t = 0; t < logits.size(); ++t) {
    if (wanted[t] == 0) {
      ASSERT_EQ(counts[t], 0) << what << " token " << t;
      continue;
    }
    const double expected = wanted[t] * kDraws;
    chi2 += (counts[t] - expected) * (counts[t] - expected) / expected;
    ++kept;
  }
  const double freedom = std::max(kept - 1, 1);
  EXPECT_LT(chi2, freedom + 6 * std::sqrt(2 * freedom) + 10) << what;
}

std::vector<double> normalised(std::vector<double> p) {
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= sum;
  return p;
}

TEST(Sample, DrawsFromTheDistributionThatTheSettingsLeave) {
  const std::vector<double> p = {0.02, 0.4, 0.1, 0.25, 0.08, 0.15};
  std::vector<float> logits;
  for (double x : p) logits.push_back(static_cast<float>(std::log(x) + 3));
  expect_distribution(logits, {}, p, "plain");
  std::vector<double> hot = p;
  for (double& x : hot) x = std::pow(x, 0.5);
  expect_distribution(logits, {.temperature = 2}, normalised(hot), "temperature");
  expect_distribution(logits, {.top_k = 2}, normalised({0, 0.4, 0, 0.25, 0, 0}), "top-k");
  expect_distribution(logits, {.top_p = 0.6f}, normalised({0, 0.4, 0, 0.25, 0, 0}), "top-p");
  expect_distribution(logits, {.top_p = 0.7f}, normalised({0, 0.4, 0, 0.25, 0, 0.15}), "top-p, one more");
  expect_distribution(logits, {.top_p = 0.01f}, normalised({0, 1, 0, 0, 0, 0}), "top-p keeps one");
  expect_distribution(logits, {.min_p = 0.3f}, normalised({0, 0.4, 0, 0.25, 0, 0.15}), "min-p");
  // min-p leaves 0.4, 0.25, 0.15 (of 0.8); then top-p takes 0.5 and 0.3125 of these.
  expect_distribution(logits, {.top_p = 0.75f, .min_p = 0.3f}, normalised({0, 0.4, 0, 0.25, 0, 0}), "min-p, top-p");
  // top-k leaves 0.4, 0.25; top-p 0.6 of these keeps the first (0.615).
  expect_distribution(logits, {.top_p = 0.6f, .top_k = 2}, normalised({0, 1, 0, 0, 0, 0}), "top-k, top-p");
}

TEST(Sample, DrawsFromALargeVocabulary) {
  Random random(3);
  std::vector<float> logits(3000, -INFINITY);
  std::vector<double> p(3000, 0.0);
  for (size_t t : {size_t{5}, size_t{1023}, size_t{1024}, size_t{2047}, size_t{2999}}) {
    logits[t] = 2 + 0.3f * random.normal();
    p[t] = std::exp(static_cast<double>(logits[t]));
  }
  expect_distribution(logits, {}, normalised(p), "all");
  expect_distribution(logits, {.top_p = 0.9999f, .top_k = 100}, normalised(p), "filtered");
}

// Every token, whichever lane its noise comes from.
TEST(Sample, DrawsEvenlyFromAFlatVocabulary) {
  constexpr int kVocabulary = 6400, kDraws = 20000;
  const std::vector<float> logits(kVocabulary + 3, 1.5f);
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa);
    std::vector<int> of_lane(64), of_block(100);
    int behind = 0;
    for (int i = 0; i < kDraws; ++i) {
      Slots slots({0, 1}, {.temperature = 0.7f, .top_logprobs = -1, .seed = static_cast<uint64_t>(i)});
      const int32_t token = next(&rank, &slots, logits).token;
      ASSERT_TRUE(token >= 0 && token < kVocabulary + 3);
      if (token >= kVocabulary) {
        ++behind;
        continue;
      }
      ++of_lane[static_cast<size_t>(token % 64)];
      ++of_block[static_cast<size_t>(token / 64)];
    }
    for (const std::vector<int>& counts : {of_lane, of_block}) {
      const double expected = static_cast<double>(kDraws) / static_cast<double>(counts.size());
      double chi2 = 0;
      for (const int count : counts) chi2 += (count - expected) * (count - expected) / expected;
      const auto freedom = static_cast<double>(counts.size() - 1);
      EXPECT_LT(chi2, freedom + 6 * std::sqrt(2 * freedom)) << isa << ", " << counts.size() << " parts";
    }
    EXPECT_LT(behind, 40) << "of 9 expected";
  }
}

// Flat enough that the nucleus is thousands of tokens: the search for it must go all the way down.
TEST(Sample, FindsALargeNucleus) {
  std::vector<float> logits(20000);
  for (size_t t = 0; t < logits.size(); ++t) logits[t] = t == 7 ? 12.0f : -1e-4f * static_cast<float>(t);
  Rank rank("avx2");
  int beyond = 0;
  for (int i = 0; i < 300; ++i) {
    Slots slots({0}, {.top_p = 0.9f, .seed = static_cast<uint64_t>(i)});
    const SampledToken out = next(&rank, &slots, logits);
    ASSERT_GE(out.token, 0);
    ASSERT_LT(out.token, 12000);
    beyond += out.token > 1000 ? 1 : 0;
  }
  EXPECT_EQ(beyond, 0);  // token 7 alone is more than 0.9
  for (size_t t = 0; t < logits.size(); ++t) logits[t] = -1e-4f * static_cast<float>(t);
  // Total 1e4 (1 - e^-2) = 8647; 0.9 of it is reached at 1e4 ln(1 / (1 - 0.77820)) = 15060.
  int highest = 0;
  for (int i = 0; i < 300; ++i) {
    Slots slots({0}, {.top_p = 0.9f, .seed = static_cast<uint64_t>(i)});
    highest = std::max(highest, next(&rank, &slots, logits).token);
  }
  EXPECT_GT(highest, 13500);
  EXPECT_LE(highest, 15065);
}

TEST(Sample, SurvivesBrokenLogits) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa);
    for (size_t at : {0, 15, 16, 98, 99}) {
      for (float bad : {nan, INFINITY}) {
        for (float temperature : {0.0f, 1.0f}) {
          std::vector<float> logits(100, 1.0f);
          logits[at] = bad;
          Slots slots({0, 1}, {.temperature = temperature, .top_p = 0.5f, .repetition_penalty = 1.2f,
                               .top_logprobs = 5});
          EXPECT_EQ(next(&rank, &slots, logits).token, -2);
          EXPECT_EQ(sample_once(&rank, &slots, logits, {.position = 0, .score = 1}).token, -2);
        }
      }
    }
    Slots slots({0}, {});
    EXPECT_EQ(next(&rank, &slots, std::vector<float>(40, -INFINITY)).token, -2);
    std::vector<float> huge(40, -3e38f);
    huge[9] = 3e38f;
    EXPECT_EQ(next(&rank, &slots, huge).token, 9);
    Slots cold({0}, {.temperature = 1e-30f});
    EXPECT_EQ(next(&rank, &cold, huge).token, 9);
  }
}

TEST(Sample, IsBitwiseTheSameInEveryBatch) {
  Random random(8);
  constexpr int kRows = 13, kVocabulary = 5003;
  const auto logits = random.normals(int64_t{kRows} * kVocabulary, 3);
  std::vector<SlotSampling> sampling(kRows);
  std::vector<int32_t> tokens, lengths(kRows, 6);
  std::vector<SampleRow> rows(kRows);
  for (int r = 0; r < kRows; ++r) {
    SlotSampling& s = sampling[static_cast<size_t>(r)];
    s.temperature = r % 5 == 0 ? 0.0f : 0.7f + 0.1f * static_cast<float>(r);
    s.top_p = r % 2 == 0 ? 1.0f : 0.9f;
    s.top_k = r % 3 == 0 ? 40 : 0;
    s.repetition_penalty = r % 4 == 0 ? 1.3f : 1.0f;
    s.top_logprobs = r;
    s.prompt_tokens = 2;
    s.seed = static_cast<uint64_t>(r);
    for (int i = 0; i < 8; ++i) tokens.push_back(random.below(0, kVocabulary));
    rows[static_cast<size_t>(r)] = {.slot = r, .position = 4, .score = r == 6 ? 1 : 0};
  }
  const SlotState state = {.slots = kRows, .tokens_max = 8, .tokens = tokens.data(), .lengths = lengths.data(),
                           .sampling = sampling.data()};
  std::vector<SampledToken> expected;
  for (const std::string& isa : instruction_sets()) {
    for (int threads : {1, 2, 3}) {
      Rank rank(isa, threads);
      for (int batch : {1, 4, kRows}) {
        auto copy = logits;
        std::vector<SampledToken> out(kRows);
        std::vector<int32_t> drawn(kRows);
        for (int r = 0; r < kRows; r += batch) {
          cpu_ops().sample(rank.device(), {.out = &out[static_cast<size_t>(r)],
                                           .tokens = &drawn[static_cast<size_t>(r)],
                                           .logits = copy.data() + int64_t{r} * kVocabulary, .vocabulary = kVocabulary,
                                           .rows = std::min(batch, kRows - r), .row = &rows[static_cast<size_t>(r)],
                                           .state = &state});
        }
        if (expected.empty()) expected = out;
        for (size_t r = 0; r < kRows; ++r) {
          ASSERT_EQ(out[r].token, expected[r].token) << isa << " row " << r;
          ASSERT_EQ(out[r].logprob, expected[r].logprob);
          ASSERT_EQ(out[r].rank, expected[r].rank);
          ASSERT_EQ(out[r].top_count, static_cast<int>(r));
          for (int i = 0; i < out[r].top_count; ++i) {
            ASSERT_EQ(out[r].top_tokens[i], expected[r].top_tokens[i]);
            ASSERT_EQ(out[r].top_logprobs[i], expected[r].top_logprobs[i]);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace skein::test
