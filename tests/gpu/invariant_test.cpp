// With --deterministic: a token's results are bitwise the same whatever else a launch holds. Products against the same
// rows alone and in every cut; attention of a position decoded, in prompts and in chunks of them.

#include <cmath>
#include <map>

#include "kernels/cuda/tiled_linear.h"
#include "kernels/cuda/prefill_attention.h"
#include "tests/gpu/attention_fixture.h"

namespace skein::test {
namespace {

enum class Kind { kBF16, kF32, kGated };

struct Product {
  static constexpr int64_t kTokens = 700;

  Product(int64_t outputs, int64_t inputs, uint32_t seed)
      : outputs(outputs), inputs(inputs), random(seed), x_host(bf16_normals(random, kTokens * inputs)),
        weight_host(bf16_normals(random, outputs * inputs, 1.0f / std::sqrt(static_cast<float>(inputs)))),
        bias_host(bf16_normals(random, outputs)), x(upload(gpu(), to_bf16(x_host))),
        weight(upload(gpu(), to_bf16(weight_host))), bias(upload(gpu(), bias_host)) {}

  int64_t columns(Kind kind) const { return kind == Kind::kGated ? outputs / 2 : outputs; }
  Tensor weights() const { return matrix(weight.as(), Format::kBF16, outputs, inputs); }
  Tensor tokens(int64_t first, int64_t count) const {
    return matrix(x.as<uint16_t>() + first * inputs, Format::kBF16, count, inputs);
  }

  // Rows [first, first + count), by linear() and gated_linear() or cut in a given way.
  std::vector<uint8_t> run(Kind kind, int64_t first, int64_t count, const cuda::TiledPlan* plan = nullptr) const {
    const Format format = kind == Kind::kF32 ? Format::kF32 : Format::kBF16;
    const int64_t bytes = row_bytes(format, count * columns(kind));
    GpuMemory out(gpu(), bytes);
    GpuMemory gate_up(gpu(), count * outputs * 2);
    const LinearArgs linear = {.out = matrix(out.as(), format, count, columns(kind)),
                               .x = tokens(first, count),
                               .weight = weights(),
                               .bias = bias.as<float>()};
    const GatedLinearArgs gated = {.out = linear.out,
                                   .gate_up = matrix(gate_up.as(), Format::kBF16, count, outputs),
                                   .x = linear.x,
                                   .weight = linear.weight,
                                   .bias = linear.bias};
    if (kind == Kind::kGated) {
      plan == nullptr ? cuda::gated_linear(gpu(), gated) : cuda::tiled_gated_linear(gpu(), gated, *plan);
    } else {
      plan == nullptr ? cuda::linear(gpu(), linear) : cuda::tiled_linear(gpu(), linear, *plan);
    }
    EXPECT_TRUE(out.intact());
    return download<uint8_t>(gpu(), out.as(), bytes);
  }

  // What run() should be, for one token.
  std::vector<double> expected(Kind kind, int64_t token) const {
    std::vector<double> sums;
    for (int64_t o = 0; o < outputs; ++o) {
      double sum = static_cast<double>(bias_host[static_cast<size_t>(o)]);
      for (int64_t i = 0; i < inputs; ++i) {
        sum += static_cast<double>(x_host[static_cast<size_t>(token * inputs + i)]) *
               static_cast<double>(weight_host[static_cast<size_t>(o * inputs + i)]);
      }
      sums.push_back(sum);
    }
    if (kind != Kind::kGated) return sums;
    std::vector<double> out;
    for (int64_t i = 0; i < outputs / 2; ++i) {
      const double gate = sums[static_cast<size_t>(i)];
      out.push_back(gate / (1 + std::exp(-gate)) * sums[static_cast<size_t>(outputs / 2 + i)]);
    }
    return out;
  }

  int64_t outputs, inputs;
  std::mt19937 random;
  std::vector<float> x_host, weight_host, bias_host;
  GpuMemory x, weight, bias;
};

std::vector<float> as_floats(Kind kind, const std::vector<uint8_t>& bytes) {
  std::vector<float> wide(bytes.size() / 4);
  std::vector<uint16_t> narrow(bytes.size() / 2);
  if (kind != Kind::kF32) {
    std::memcpy(narrow.data(), bytes.data(), bytes.size());
    return from_bf16(narrow);
  }
  std::memcpy(wide.data(), bytes.data(), bytes.size());
  return wide;
}

// Rows [first, first + count) of `all` are `some`.
void expect_rows(const Product& p, Kind kind, const std::vector<uint8_t>& all, int64_t first,
                 const std::vector<uint8_t>& some, const std::string& what) {
  const auto row = static_cast<size_t>(row_bytes(kind == Kind::kF32 ? Format::kF32 : Format::kBF16, p.columns(kind)));
  int64_t different = 0;
  for (size_t i = 0; i < some.size(); ++i) different += some[i] != all[static_cast<size_t>(first) * row + i] ? 1 : 0;
  EXPECT_EQ(different, 0) << "bytes of " << some.size() << " in " << p.outputs << " x " << p.inputs << ", kind "
                          << static_cast<int>(kind) << ", " << what;
}

class InvariantProduct : public ::testing::TestWithParam<std::pair<int, int>> {};

TEST_P(InvariantProduct, SameBitsForEveryNumberOfTokensAndPlace) {
  const Product p(GetParam().first, GetParam().second, 1);
  for (const Kind kind : {Kind::kBF16, Kind::kF32, Kind::kGated}) {
    const std::vector<uint8_t> all = p.run(kind, 0, Product::kTokens);
    for (const int64_t count : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129, 256, 257, 500}) {
      for (const int64_t first : {int64_t{0}, int64_t{83}, Product::kTokens - count}) {
        expect_rows(p, kind, all, first, p.run(kind, first, count),
                    std::to_string(count) + " tokens from " + std::to_string(first));
      }
    }
    const std::vector<float> values = as_floats(kind, all);
    for (const int64_t token : {int64_t{0}, int64_t{130}, Product::kTokens - 1}) {
      const auto begin = values.begin() + token * p.columns(kind);
      EXPECT_LT(relative_error({begin, begin + p.columns(kind)}, p.expected(kind, token)),
                kind == Kind::kF32 ? 2e-5 : 5e-3)  // gate and up may have been rounded to bf16
          << "token " << token << " of kind " << static_cast<int>(kind);
    }
  }
}

// Every width of the instruction, every height of a tile, few blocks and many: in which order the hardware adds up must
// not depend on them.
TEST_P(InvariantProduct, SameBitsInEveryCut) {
  const Product p(GetParam().first, GetParam().second, 2);
  if (p.inputs % 8 != 0) GTEST_SKIP() << "for the plain kernel, which has no cuts";
  struct Cut {
    int tokens, warpgroups;
  };
  for (const Kind kind : {Kind::kF32, Kind::kGated}) {
    if (kind == Kind::kGated && p.outputs % 16 != 0) continue;
    const std::vector<uint8_t> all = p.run(kind, 0, Product::kTokens);
    for (const Cut& cut : {Cut{8, 1}, Cut{16, 1}, Cut{32, 1}, Cut{64, 1}, Cut{128, 1}, Cut{128, 2}, Cut{256, 2}}) {
      for (int tile_rows = 64 * cut.warpgroups - 48; tile_rows <= 64 * cut.warpgroups; tile_rows += 16) {
        const int share = cut.tokens <= 16 ? 1 : 2;
        for (const int blocks : {share, 6}) {
          const int64_t count = cut.tokens <= 16 ? 40 : 300;
          const cuda::TiledPlan plan = {
              .tokens = cut.tokens,
              .warpgroups = cut.warpgroups,
              .tile_rows = tile_rows,
              .row_tiles = static_cast<int>((p.outputs + tile_rows - 1) / tile_rows),
              .token_tiles = static_cast<int>((count + cut.tokens - 1) / cut.tokens),
              .blocks = blocks};
          expect_rows(p, kind, all, 5, p.run(kind, 5, count, &plan),
                      std::to_string(cut.tokens) + " tokens by " + std::to_string(tile_rows) + " rows, " +
                          std::to_string(blocks) + " blocks");
        }
      }
    }
  }
}

// Columns that end within a tile and rows that do; a long sum; rows that the copy engine cannot read.
INSTANTIATE_TEST_SUITE_P(Shapes, InvariantProduct,
                         ::testing::Values(std::pair{1536, 1024}, std::pair{336, 1096}, std::pair{100, 200},
                                           std::pair{160, 14336}, std::pair{50, 52}),
                         [](const auto& info) {
                           return std::to_string(info.param.first) + "x" + std::to_string(info.param.second);
                         });

// --- Attention ---

struct AttentionCase {
  AttentionShape shape;
  std::string name;
};

// Sequences of these lengths, and a query for every one of their positions.
class InvariantAttention : public ::testing::TestWithParam<AttentionCase> {
 protected:
  InvariantAttention() : cache_(shape_, kLengths, 3) {
    cache_.upload();
    std::mt19937 random(4);
    for (const int length : kLengths) q_.push_back(to_bf16(bf16_normals(random, length * columns(), 1.5f)));
  }

  int64_t columns() const { return int64_t{shape_.q_heads} * shape_.head_dim; }

  // By slot and position, so far.
  using Results = std::map<std::pair<int, int>, std::vector<uint16_t>>;

  Results run(const std::vector<Queries>& rows, int decode_rows) {
    const DeviceStep step(rows, decode_rows);
    std::vector<uint16_t> queries;
    for (const Queries& row : rows) {
      if (row.slot < 0) {
        queries.insert(queries.end(), static_cast<size_t>(row.count * columns()), 0x7fc0);
        continue;
      }
      const auto begin = q_[static_cast<size_t>(row.slot)].begin() + row.first * columns();
      queries.insert(queries.end(), begin, begin + row.count * columns());
    }
    const GpuMemory q = upload(gpu(), queries);
    GpuMemory out(gpu(), step.tokens() * columns() * 2);
    cuda::attention(gpu(), {.out = matrix(out.as(), Format::kBF16, step.tokens(), columns()),
                            .q = matrix(q.as(), Format::kBF16, step.tokens(), columns()),
                            .step = step.view(),
                            .pages = cache_.pages(),
                            .q_heads = shape_.q_heads,
                            .group_size = shape_.group_size,
                            .group_offset = shape_.group_offset,
                            .scale = 1 / std::sqrt(static_cast<float>(shape_.head_dim)),
                            .window = shape_.window});
    const auto bits = download<uint16_t>(gpu(), out.as(), step.tokens() * columns());
    EXPECT_TRUE(out.intact());
    Results results;
    auto from = bits.begin();
    for (const Queries& row : rows) {
      for (int i = 0; i < row.count; ++i, from += columns()) {
        if (row.slot >= 0) results[{row.slot, row.first + i}] = {from, from + columns()};
      }
    }
    return results;
  }

  void expect_same(const Results& results, const std::string& what) {
    int different = 0;
    for (const auto& [where, bits] : results) {
      if (bits == whole_[where]) continue;
      if (++different > 3) continue;
      ADD_FAILURE() << what << ": slot " << where.first << ", position " << where.second;
    }
    EXPECT_EQ(different, 0) << what << ": of " << results.size() << " queries";
  }

  static inline const std::vector<int> kLengths = {5000, 700, 129, 64, 1};
  const AttentionShape shape_ = GetParam().shape;
  PagedCache cache_;
  std::vector<std::vector<uint16_t>> q_;  // by slot
  Results whole_;                         // every sequence as one prompt, all in one step
};

TEST_P(InvariantAttention, DecodedInPromptsAndInChunks) {
  std::vector<Queries> prompts;
  for (int slot = 0; slot < static_cast<int>(kLengths.size()); ++slot) {
    prompts.push_back({.slot = slot, .first = 0, .count = kLengths[static_cast<size_t>(slot)]});
  }
  whole_ = run(prompts, 0);
  EXPECT_EQ(whole_.size(), 5894u);

  // One query alone: what a step of batch 1 decodes. Positions at the borders of whatever is taken at once.
  for (const int position : {0, 1, 63, 64, 127, 128, 129, 511, 512, 1023, 1024, 1025, 2047, 2048, 4095, 4096, 4999}) {
    expect_same(run({{.slot = 0, .first = position, .count = 1}}, 1), "alone");
  }
  expect_same(run({{.slot = 4, .first = 0, .count = 1}}, 1), "alone");

  // Sixty-four decode together, with padding behind them, and then also with prompts.
  std::vector<Queries> batch;
  for (int i = 0; i < 64; ++i) {
    const int slot = i % 4;
    batch.push_back({.slot = slot, .first = i * 769 % kLengths[static_cast<size_t>(slot)], .count = 1});
  }
  batch.push_back({.slot = -1, .first = 0, .count = 1});
  expect_same(run(batch, 65), "in a batch");
  batch.push_back({.slot = 1, .first = 333, .count = 200});
  batch.push_back({.slot = 2, .first = 0, .count = 129});
  batch.push_back({.slot = 0, .first = 4000, .count = 33});
  expect_same(run(batch, 65), "in a batch with prompts");

  // Chunks of one size, each in a step of its own; then pieces of all sizes.
  for (const int chunk : {700, 1000, 1777}) {
    for (int first = 0; first < kLengths[0]; first += chunk) {
      expect_same(run({{.slot = 0, .first = first, .count = std::min(chunk, kLengths[0] - first)}}, 0), "chunked");
    }
  }
  for (const int count : {2, 31, 32, 33, 64, 127, 129, 300}) {
    for (const int first : {0, 77, 1000, 2047, 3333, 5000 - count}) {
      expect_same(run({{.slot = 0, .first = first, .count = count}}, 0), "a piece");
    }
  }
}

TEST_P(InvariantAttention, AgreesWithFloat64) {
  const std::vector<Queries> rows = {{.slot = 0, .first = 4999, .count = 1},
                                     {.slot = 1, .first = 150, .count = 1},
                                     {.slot = 0, .first = 2040, .count = 20},
                                     {.slot = 2, .first = 100, .count = 29}};
  const Results results = run(rows, 2);
  std::vector<uint16_t> out;
  std::vector<float> q;
  for (const Queries& row : rows) {
    for (int i = 0; i < row.count; ++i) {
      const std::vector<uint16_t>& bits = results.at({row.slot, row.first + i});
      out.insert(out.end(), bits.begin(), bits.end());
      const auto begin = q_[static_cast<size_t>(row.slot)].begin() + (row.first + i) * columns();
      const std::vector<float> query = from_bf16({begin, begin + columns()});
      q.insert(q.end(), query.begin(), query.end());
    }
  }
  const DeviceStep step(rows, 2);
  const auto expected =
      attend_in_double(shape_, cache_, step, q, 1 / std::sqrt(static_cast<double>(shape_.head_dim)));
  EXPECT_LT(worst_head_error(out, expected, shape_.head_dim, shape_.q_heads, 8e-3), 8e-3);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, InvariantAttention,
    ::testing::Values(AttentionCase{{.kv_heads = 1, .q_heads = 4}, "Dim128"},
                      AttentionCase{{.head_dim = 64, .kv_heads = 2, .q_heads = 2, .group_size = 1, .block_tokens = 16},
                                    "Dim64EachHeadItsOwn"},
                      AttentionCase{{.kv_heads = 1, .q_heads = 3, .group_size = 3, .block_tokens = 32}, "GroupOfThree"},
                      AttentionCase{{.kv_heads = 1, .q_heads = 8, .group_size = 8, .window = 1500}, "Window"},
                      AttentionCase{{.head_dim = 80, .kv_heads = 1, .q_heads = 2, .group_size = 2}, "Plain"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace skein::test
