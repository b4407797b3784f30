#include <algorithm>
#include <cmath>
#include <string>

#include "tests/gpu/fixture.h"

// sample() on the GPU against the CPU's, which the unit tests hold against their own references.

namespace skein::test {
namespace {

constexpr int kTokensMax = 40;

// A launch's inputs: a slot for each row.
struct Batch {
  int64_t vocabulary;
  std::vector<float> logits;
  std::vector<SampleRow> rows;
  std::vector<SlotSampling> sampling;
  std::vector<int32_t> tokens;
  std::vector<int32_t> lengths;
  std::vector<uint32_t> mask;  // or empty
  std::vector<uint64_t> keys;  // SampleArgs::largest on the GPU, or empty

  explicit Batch(int64_t n) : vocabulary(n) {}
  void add(const std::vector<float>& row, const SlotSampling& how, std::vector<int32_t> so_far, bool score = false) {
    CHECK_EQ(static_cast<int64_t>(row.size()), vocabulary);
    logits.insert(logits.end(), row.begin(), row.end());
    const auto known = static_cast<int32_t>(so_far.size()) - (score ? 1 : 0);
    rows.push_back({.slot = static_cast<int32_t>(sampling.size()), .position = known - 1, .score = score ? 1 : 0});
    sampling.push_back(how);
    lengths.push_back(static_cast<int32_t>(so_far.size()));
    so_far.resize(kTokensMax, -1);
    tokens.insert(tokens.end(), so_far.begin(), so_far.end());
  }
  SlotState state() {
    return {.slots = static_cast<int>(sampling.size()), .tokens_max = kTokensMax, .tokens = tokens.data(),
            .lengths = lengths.data(), .sampling = sampling.data()};
  }
};

struct Outcome {
  std::vector<SampledToken> out;
  std::vector<int32_t> tokens;
};

Outcome on_cpu(Batch batch) {
  auto device = cpu_ops().open({.threads = 8});
  CHECK(device.ok());
  Outcome outcome = {std::vector<SampledToken>(batch.rows.size()), std::vector<int32_t>(batch.rows.size())};
  const SlotState state = batch.state();
  cpu_ops().sample(**device, {.out = outcome.out.data(), .tokens = outcome.tokens.data(),
                              .logits = batch.logits.data(), .vocabulary = batch.vocabulary,
                              .rows = static_cast<int>(batch.rows.size()), .row = batch.rows.data(), .state = &state,
                              .token_mask = batch.mask.empty() ? nullptr : batch.mask.data()});
  return outcome;
}

Outcome on_gpu(const Batch& batch) {
  const auto count = static_cast<int64_t>(batch.rows.size());
  const GpuMemory logits = upload(gpu(), batch.logits), rows = upload(gpu(), batch.rows),
                  sampling = upload(gpu(), batch.sampling), tokens = upload(gpu(), batch.tokens),
                  lengths = upload(gpu(), batch.lengths), mask = upload(gpu(), batch.mask),
                  keys = upload(gpu(), batch.keys);
  GpuMemory out(gpu(), count * static_cast<int64_t>(sizeof(SampledToken))), chosen(gpu(), count * 4);
  const SlotState state = {.slots = static_cast<int>(batch.sampling.size()), .tokens_max = kTokensMax,
                           .tokens = tokens.as<int32_t>(), .lengths = lengths.as<int32_t>(),
                           .sampling = sampling.as<SlotSampling>()};
  cuda::sample(gpu(), {.out = out.as<SampledToken>(), .tokens = chosen.as<int32_t>(), .logits = logits.as<float>(),
                       .vocabulary = batch.vocabulary, .rows = static_cast<int>(count), .row = rows.as<SampleRow>(),
                       .state = &state, .token_mask = batch.mask.empty() ? nullptr : mask.as<uint32_t>(),
                       .largest = batch.keys.empty() ? nullptr : keys.as<uint64_t>()});
  Outcome outcome = {download<SampledToken>(gpu(), out.as(), count), download<int32_t>(gpu(), chosen.as(), count)};
  EXPECT_TRUE(out.intact() && chosen.intact());
  for (const uint32_t counter : download<uint32_t>(gpu(), gpu().counters(), 1024)) EXPECT_EQ(counter, 0u);
  return outcome;
}

bool near(float a, float b) { return a == b || std::fabs(a - b) <= 4e-6f * (1 + std::fabs(b)); }

std::string describe(const SlotSampling& s) {
  return "temperature " + std::to_string(s.temperature) + " top_p " + std::to_string(s.top_p) + " min_p " +
         std::to_string(s.min_p) + " top_k " + std::to_string(s.top_k) + " top_logprobs " +
         std::to_string(s.top_logprobs) + " repetition " + std::to_string(s.repetition_penalty) + " bias " +
         std::to_string(s.bias_count);
}

// Returns in how many rows the tokens differ; everything else must agree where they don't.
int compare(const Batch& batch, const char* what) {
  const Outcome cpu = on_cpu(batch);
  const Outcome got = on_gpu(batch);
  int different = 0, told = 0;
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    const SampledToken& a = cpu.out[r];
    const SampledToken& b = got.out[r];
    bool equal = a.token == b.token && cpu.tokens[r] == got.tokens[r];
    if (!equal) ++different;
    const SlotSampling& s = batch.sampling[static_cast<size_t>(batch.rows[r].slot)];
    if (!equal && s.temperature >= 1e-5f && a.token >= 0 && b.token >= 0) continue;  // the caller judges these
    equal &= near(b.logprob, a.logprob) && a.rank == b.rank && a.top_count == b.top_count;
    for (int i = 0; i < a.top_count && equal; ++i) {
      equal &= a.top_tokens[i] == b.top_tokens[i] && near(b.top_logprobs[i], a.top_logprobs[i]);
    }
    if (equal || ++told > 3) continue;
    ADD_FAILURE() << what << ": vocabulary " << batch.vocabulary << ", row " << r << ", score "
                  << batch.rows[r].score << ", " << describe(s) << ": CPU token " << a.token << " logprob " << a.logprob
                  << " rank " << a.rank << " top " << a.top_count << ":" << a.top_tokens[0] << ", GPU token " << b.token
                  << " (" << got.tokens[r] << ") logprob " << b.logprob << " rank " << b.rank << " top " << b.top_count
                  << ":" << b.top_tokens[0];
  }
  return different;
}

class Rows {
 public:
  explicit Rows(uint32_t seed) : random_(seed) {}
  int below(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }
  bool one_in(int n) { return below(n) == 0; }
  float uniform() { return static_cast<float>(random_() % 100000) / 100000; }

  std::vector<float> logits(int64_t n) {
    std::normal_distribution<float> normal(0, one_in(3) ? 1.0f : 4.0f);
    std::vector<float> row(static_cast<size_t>(n));
    const bool coarse = one_in(4);  // many ties
    for (float& x : row) {
      x = normal(random_);
      if (coarse) x = std::round(x);
      if (one_in(50)) x = -INFINITY;
    }
    if (one_in(20)) std::fill(row.begin(), row.end(), 1.5f);
    if (one_in(3)) row[static_cast<size_t>(below(static_cast<int>(n)))] = 14;
    row[static_cast<size_t>(below(static_cast<int>(n)))] = -0.0f;
    return row;
  }

  SlotSampling how(int64_t n) {
    SlotSampling s;
    s.temperature = one_in(4) ? 0 : one_in(4) ? 1 : 0.1f + 2 * uniform();
    if (one_in(2)) s.top_p = one_in(10) ? 1e-6f : 0.3f + 0.7f * uniform();
    if (one_in(3)) s.min_p = one_in(10) ? 1 : one_in(2) ? 0.1f * uniform() : 1e-4f * uniform();
    if (one_in(3)) s.top_k = 1 + below(one_in(2) ? 20 : static_cast<int>(n) + 2);
    if (one_in(4)) s.presence_penalty = uniform();
    if (one_in(4)) s.frequency_penalty = uniform() - 0.3f;
    if (one_in(4)) s.repetition_penalty = 0.8f + uniform();
    s.prompt_tokens = below(8);
    s.seed = random_() * uint64_t{0x9E3779B97F4A7C15};
    if (one_in(3)) s.top_logprobs = below(22) - 1;
    if (one_in(4)) s.top_logprobs = -1;
    if (one_in(5)) {
      s.bias_count = 1 + below(one_in(4) ? kLogitBiasMax : 4);
      for (int i = 0; i < s.bias_count; ++i) {
        s.bias_tokens[i] = below(static_cast<int>(n) + 3);
        s.bias_values[i] = one_in(5) ? -100 : 4 * uniform() - 2;
      }
    }
    if (one_in(5)) {
      s.min_tokens = below(20);
      s.stop_count = 1 + below(one_in(4) ? kStopTokensMax : 3);
      for (int i = 0; i < s.stop_count; ++i) s.stop_tokens[i] = below(static_cast<int>(n) + 3);
    }
    return s;
  }

  std::vector<int32_t> so_far(int64_t n) {
    std::vector<int32_t> tokens(static_cast<size_t>(2 + below(kTokensMax - 4)));
    for (int32_t& token : tokens) token = below(static_cast<int>(std::min<int64_t>(n, 12)));
    return tokens;
  }

  // Rows of every kind, broken ones and padding included.
  Batch batch(int64_t n, int rows) {
    Batch out(n);
    const bool masked = one_in(3);
    const auto words = static_cast<size_t>((n + 31) / 32);
    for (int r = 0; r < rows; ++r) {
      std::vector<float> row = logits(n);
      if (one_in(40)) row[static_cast<size_t>(below(static_cast<int>(n)))] = one_in(2) ? NAN : INFINITY;
      if (one_in(60)) std::fill(row.begin(), row.end(), -INFINITY);
      out.add(row, how(n), so_far(n), one_in(10));
      for (size_t w = 0; masked && w < words; ++w) {
        out.mask.push_back(r % 7 == 0 ? 0 : r % 5 == 0 ? ~uint32_t{0} : static_cast<uint32_t>(random_()));
      }
    }
    return out;
  }

 private:
  std::mt19937 random_;
};

// Small enough for racecheck.
TEST(Sample, EqualsTheCpuOnAFewRows) {
  for (const int64_t n : {100, 4099}) {
    Rows random(static_cast<uint32_t>(n) + 1);
    EXPECT_LE(compare(random.batch(n, 24), "few"), 1);
  }
}

TEST(Sample, EqualsTheCpuOnSmallVocabularies) {
  int rows = 0, different = 0;
  for (const int64_t n : {1, 2, 3, 5, 31, 32, 33, 100, 257, 1000, 1023, 1024, 1025, 4099}) {
    Rows random(static_cast<uint32_t>(n));
    const int repeats = n < 500 ? 8 : 2;
    for (int i = 0; i < repeats; ++i) {
      const int count = n < 500 ? 250 : 150;
      different += compare(random.batch(n, count), "small");
      rows += count;
    }
  }
  std::printf("[ small ] %d rows, %d tokens differ\n", rows, different);
  EXPECT_LE(different, 2) << "of " << rows;
}

TEST(Sample, EqualsTheCpuOnLargeVocabularies) {
  int rows = 0, different = 0;
  for (const int64_t n : {32000, 50257, 128256, 151936, 262144}) {
    Rows random(static_cast<uint32_t>(n));
    different += compare(random.batch(n, 40), "large");
    rows += 40;
  }
  std::printf("[ large ] %d rows, %d tokens differ\n", rows, different);
  EXPECT_LE(different, 3) << "of " << rows;
}

// Too large for a cluster's shared memory.
TEST(Sample, EqualsTheCpuOnAHugeVocabulary) {
  for (const int64_t n : {int64_t{500001}, kSampleVocabularyMax}) {
    Rows random(static_cast<uint32_t>(n));
    EXPECT_LE(compare(random.batch(n, 5), "huge"), 1);
  }
}

TEST(Sample, PaddingRowsGiveNothing) {
  Rows random(5);
  Batch batch(777);
  for (int r = 0; r < 9; ++r) {
    SlotSampling how = random.how(777);
    how.temperature = r % 2 == 0 ? 0 : 1;
    batch.add(random.logits(777), how, {1, 2, 3});
  }
  for (size_t r = 0; r < 9; r += 3) batch.rows[r].slot = -1;
  const Outcome got = on_gpu(batch);
  for (size_t r = 0; r < 9; ++r) {
    EXPECT_EQ(got.tokens[r] == -1, r % 3 == 0);
    EXPECT_EQ(got.out[r].token == -1, r % 3 == 0);
    EXPECT_TRUE(r % 3 != 0 || got.out[r].top_count == 0);
  }
}

// A greedy row of which nothing is reported believes a key that is not 0; the others look at their logits.
TEST(Sample, TakesTokensFromKeys) {
  const SlotSampling plain = {.temperature = 0, .top_logprobs = -1};
  SlotSampling reported = plain, top = plain, penalised = plain, biased = plain, drawn = plain;
  reported.top_logprobs = 0, top.top_logprobs = 3, penalised.presence_penalty = 1, drawn.temperature = 1;
  biased.bias_count = 1, biased.bias_tokens[0] = 3, biased.bias_values[0] = 1;
  for (const int64_t n : {777, 128256, 500001}) {
    Rows random(8);
    Batch batch(n);
    for (const auto& how : {plain, reported, plain, top, plain, penalised, plain, biased, plain, drawn, plain}) {
      batch.add(random.logits(n), how, {1, 2, 3});
    }
    batch.add(random.logits(n), plain, {1, 2, 3}, true);
    batch.add(random.logits(n), plain, {1, 2, 3});
    batch.rows.back().slot = -1;
    Outcome expected = on_gpu(batch);
    batch.keys.assign(batch.rows.size(), largest_key(-2.5f, 7));
    batch.keys[2] = 0;
    batch.keys[4] = largest_key(NAN, 7), batch.keys[6] = largest_key(INFINITY, 7);
    batch.keys[8] = largest_key(-INFINITY, 7), batch.keys[10] = largest_key(0, static_cast<int32_t>(n - 1));
    for (const size_t r : {0u, 4u, 6u, 8u, 10u}) {
      expected.tokens[r] = r == 0 ? 7 : r == 10 ? static_cast<int32_t>(n - 1) : -2;
      expected.out[r] = {.token = expected.tokens[r]};
    }
    const Outcome got = on_gpu(batch);
    EXPECT_EQ(got.tokens, expected.tokens) << n;
    EXPECT_EQ(std::memcmp(got.out.data(), expected.out.data(), got.out.size() * sizeof(SampledToken)), 0) << n;
  }
}

// A row's outcome is bitwise the same alone, among many, and again.
TEST(Sample, DependsOnItsOwnRowAlone) {
  for (const int64_t n : {1000, 50257}) {
    Rows random(6);
    const Batch batch = random.batch(n, 300);
    const Outcome all = on_gpu(batch);
    const Outcome again = on_gpu(batch);
    EXPECT_EQ(std::memcmp(all.out.data(), again.out.data(), all.out.size() * sizeof(SampledToken)), 0);
    for (size_t r = 0; r < 300; r += 37) {
      Batch one = batch;
      one.rows = {batch.rows[r]};
      one.logits.assign(batch.logits.begin() + static_cast<int64_t>(r) * n,
                        batch.logits.begin() + static_cast<int64_t>(r + 1) * n);
      const auto words = static_cast<int64_t>((n + 31) / 32);
      if (!batch.mask.empty()) {
        one.mask.assign(batch.mask.begin() + static_cast<int64_t>(r) * words,
                        batch.mask.begin() + static_cast<int64_t>(r + 1) * words);
      }
      const Outcome alone = on_gpu(one);
      EXPECT_EQ(std::memcmp(&alone.out[0], &all.out[r], sizeof(SampledToken)), 0) << n << ", row " << r;
    }
  }
}

// The mass that top-p and the draw see must be that of double precision: counts over many seeds.
TEST(Sample, DrawsFromTheDistribution) {
  std::vector<float> logits(1000, -INFINITY);
  std::vector<double> wanted(1000, 0.0);
  double sum = 0;
  for (const size_t t : {3u, 127u, 128u, 500u, 998u, 999u}) {
    logits[t] = 2 + 0.001f * static_cast<float>(t);
    sum += wanted[t] = std::exp(static_cast<double>(logits[t]) / 1.5);
  }
  for (const float top_p : {1.0f, 0.99999f}) {
    Batch batch(1000);
    constexpr int kDraws = 8000;
    for (int i = 0; i < kDraws; ++i) {
      batch.add(logits, {.temperature = 1.5f, .top_p = top_p, .seed = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15},
                {0});
    }
    const Outcome got = on_gpu(batch);
    std::vector<int> counts(1000);
    for (const int32_t token : got.tokens) ++counts[static_cast<size_t>(std::max(token, 0))];
    double chi2 = 0;
    for (size_t t = 0; t < 1000; ++t) {
      const double expected = wanted[t] / sum * kDraws;
      if (expected == 0) {
        ASSERT_EQ(counts[t], 0);
      } else {
        chi2 += (counts[t] - expected) * (counts[t] - expected) / expected;
      }
    }
    EXPECT_LT(chi2, 5 + 6 * std::sqrt(10.0) + 10);
  }
}

}  // namespace
}  // namespace skein::test
