#include "kernels/cuda/prefill_attention.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/checked.h"
#include "tests/gpu/fixture.h"

namespace skein::test {
namespace {

struct Shape {
  int head_dim = 128;
  int q_heads = 4;
  int kv_heads = 2;
  int group_size = 2;
  int group_offset = 0;
  int block_tokens = 64;
  int window = 0;
  int first_row = 0;
  std::vector<int> prefixes;  // by row; -1: padding
  std::vector<int> queries;
};

constexpr uint16_t kNan = 0x7fc0;
constexpr int64_t kStrideSlack = 16;  // elements behind each row of q and of out

// One step on the device, with all that must not be read poisoned.
struct Batch {
  Shape shape;
  int rows, tokens, blocks_per_slot, blocks;
  std::vector<int32_t> query_begin, positions, slots, table;
  std::vector<float> q;                  // (tokens, q_heads * head_dim)
  std::vector<std::vector<float>> k, v;  // by row: (length, kv_heads, head_dim)

  explicit Batch(const Shape& of) : shape(of), rows(static_cast<int>(of.queries.size())) {
    std::mt19937 random(static_cast<uint32_t>(of.head_dim + rows));
    query_begin.push_back(0);
    int blocks_needed = 0;
    blocks_per_slot = 3;
    for (int r = 0; r < rows; ++r) {
      const int prefix = shape.prefixes[idx(r)];
      for (int i = 0; i < shape.queries[idx(r)]; ++i) positions.push_back(prefix < 0 ? -1 : prefix + i);
      query_begin.push_back(static_cast<int32_t>(positions.size()));
      const int row_blocks = ceil_div(length(r), shape.block_tokens);
      blocks_needed += row_blocks;
      blocks_per_slot = std::max(blocks_per_slot, row_blocks + 3);
      slots.push_back(prefix < 0 ? -1 : rows - 1 - r);
      k.push_back(bf16_normals(random, int64_t{length(r)} * shape.kv_heads * shape.head_dim));
      v.push_back(bf16_normals(random, int64_t{length(r)} * shape.kv_heads * shape.head_dim));
    }
    tokens = static_cast<int>(positions.size());
    q = bf16_normals(random, int64_t{tokens} * shape.q_heads * shape.head_dim, 1.5f);
    blocks = blocks_needed + 5;
    std::vector<int32_t> ids(idx(blocks));
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random);
    table.assign(idx(rows * blocks_per_slot), 0x40000000);
    for (int r = 0, next = 0; r < rows; ++r) {
      for (int b = 0; b < ceil_div(length(r), shape.block_tokens); ++b) {
        table[idx(slots[idx(r)] * blocks_per_slot + b)] = ids[idx(next++)];
      }
    }
  }

  static size_t idx(int64_t i) { return static_cast<size_t>(i); }
  int length(int r) const {
    return shape.prefixes[idx(r)] < 0 ? 0 : shape.prefixes[idx(r)] + shape.queries[idx(r)];
  }
  int64_t columns() const { return int64_t{shape.q_heads} * shape.head_dim; }

  // Pages full of NaN but for the rows' tokens.
  std::vector<uint16_t> pages() const {
    const int64_t slice = int64_t{shape.block_tokens} * shape.head_dim;
    std::vector<uint16_t> out(idx(blocks * shape.kv_heads * 2 * slice), kNan);
    for (int r = 0; r < rows; ++r) {
      for (int t = 0; t < length(r); ++t) {
        const int64_t block = table[idx(slots[idx(r)] * blocks_per_slot + t / shape.block_tokens)];
        for (int h = 0; h < shape.kv_heads; ++h) {
          const int64_t to = (block * shape.kv_heads + h) * 2 * slice + t % shape.block_tokens * shape.head_dim;
          const int64_t from = (int64_t{t} * shape.kv_heads + h) * shape.head_dim;
          for (int d = 0; d < shape.head_dim; ++d) {
            out[idx(to + d)] = f32_to_bf16(k[idx(r)][idx(from + d)]);
            out[idx(to + slice + d)] = f32_to_bf16(v[idx(r)][idx(from + d)]);
          }
        }
      }
    }
    return out;
  }

  // Rows with slack behind them, filled with NaN.
  std::vector<uint16_t> padded_q() const {
    std::vector<uint16_t> out(idx(tokens * (columns() + kStrideSlack)), kNan);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t c = 0; c < columns(); ++c) {
        out[idx(t * (columns() + kStrideSlack) + c)] = f32_to_bf16(q[idx(t * columns() + c)]);
      }
    }
    return out;
  }

  std::vector<double> expected(int row, double scale) const {
    std::vector<double> out;
    const int dim = shape.head_dim;
    for (int i = 0; i < shape.queries[idx(row)]; ++i) {
      const int position = shape.prefixes[idx(row)] + i;
      for (int h = 0; h < shape.q_heads; ++h) {
        const float* query = &q[idx((query_begin[idx(row)] + i) * columns() + h * dim)];
        const int64_t kv_head = (h + shape.group_offset) / shape.group_size;
        const int first = shape.window > 0 ? std::max(0, position - shape.window + 1) : 0;
        std::vector<double> weights;
        double top = -INFINITY, sum = 0;
        for (int t = first; t <= position; ++t) {
          const float* key = &k[idx(row)][idx((int64_t{t} * shape.kv_heads + kv_head) * dim)];
          double dot = 0;
          for (int d = 0; d < dim; ++d) dot += static_cast<double>(query[d]) * key[d];
          weights.push_back(dot * scale);
          top = std::max(top, dot * scale);
        }
        std::vector<double> mean(idx(dim), 0.0);
        for (int t = first; t <= position; ++t) {
          const double weight = std::exp(weights[idx(t - first)] - top);
          const float* value = &v[idx(row)][idx((int64_t{t} * shape.kv_heads + kv_head) * dim)];
          sum += weight;
          for (int d = 0; d < dim; ++d) mean[idx(d)] += weight * value[d];
        }
        for (const double m : mean) out.push_back(m / sum);
      }
    }
    return out;
  }
};

// Prints the first elements that are far off: on another machine there is no debugger.
void explain(const std::vector<float>& got, const std::vector<double>& expected, const Batch& batch, int row) {
  int shown = 0;
  for (size_t i = 0; i < got.size() && shown < 4; ++i) {
    if (std::fabs(got[i] - expected[i]) < 0.05) continue;
    const auto at = static_cast<int64_t>(i);
    std::printf("row %d query %ld head %ld dim %ld: %g instead of %g\n", row, at / batch.columns(),
                at % batch.columns() / batch.shape.head_dim, at % batch.shape.head_dim, static_cast<double>(got[i]),
                expected[i]);
    ++shown;
  }
}

void compare(const Shape& shape) {
  const Batch batch(shape);
  const double scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  const GpuMemory q = upload(gpu(), batch.padded_q());
  const GpuMemory pages = upload(gpu(), batch.pages());
  const GpuMemory query_begin = upload(gpu(), batch.query_begin);
  const GpuMemory positions = upload(gpu(), batch.positions);
  const GpuMemory slots = upload(gpu(), batch.slots);
  const GpuMemory table = upload(gpu(), batch.table);
  const int64_t stride = batch.columns() + kStrideSlack;
  GpuMemory out(gpu(), batch.tokens * stride * 2);
  AttentionArgs args{
      .out = matrix(out.as(), Format::kBF16, batch.tokens, batch.columns()),
      .q = matrix(q.as(), Format::kBF16, batch.tokens, batch.columns()),
      .step = {.rows = batch.rows, .tokens = batch.tokens, .query_begin_host = batch.query_begin.data(),
               .positions = positions.as<int32_t>(), .query_begin = query_begin.as<int32_t>(),
               .slots = slots.as<int32_t>()},
      .pages = {.data = pages.as(), .format = Format::kBF16, .blocks = batch.blocks, .kv_heads = shape.kv_heads,
                .block_tokens = shape.block_tokens, .head_dim = shape.head_dim,
                .block_table = table.as<int32_t>(), .blocks_per_slot = batch.blocks_per_slot},
      .q_heads = shape.q_heads, .group_size = shape.group_size, .group_offset = shape.group_offset,
      .scale = static_cast<float>(scale), .window = shape.window};
  args.out.row_stride = args.q.row_stride = stride;
  ASSERT_TRUE(cuda::prefill_attention_fits(args));
  std::vector<uint16_t> first;
  for (int run = 0; run < 3; ++run) {
    out.poison();
    cuda::prefill_attention(gpu(), args, shape.first_row);
    const auto raw = download<uint16_t>(gpu(), out.as(), batch.tokens * stride);
    if (run > 0) {
      EXPECT_EQ(raw, first) << "another run, other bits";
      continue;
    }
    first = raw;
  }
  EXPECT_TRUE(out.intact());
  for (int r = 0; r < batch.rows; ++r) {
    std::vector<float> got;
    for (int64_t t = batch.query_begin[Batch::idx(r)]; t < batch.query_begin[Batch::idx(r + 1)]; ++t) {
      for (int64_t c = 0; c < stride; ++c) {
        const uint16_t bits = first[Batch::idx(t * stride + c)];
        if (c >= batch.columns() || r < shape.first_row) {
          ASSERT_EQ(bits, 0xffff) << "row " << r << ": written outside";
        } else {
          got.push_back(bf16_to_f32(bits));
        }
      }
    }
    if (r < shape.first_row) continue;
    if (shape.prefixes[Batch::idx(r)] < 0) {
      for (const float value : got) ASSERT_EQ(value, 0) << "padding row " << r;
      continue;
    }
    const auto expected = batch.expected(r, scale);
    const double error = relative_error(got, expected);
    EXPECT_LT(error, 5e-3) << "row " << r << " of " << shape.queries[Batch::idx(r)] << " queries after "
                           << shape.prefixes[Batch::idx(r)];
    if (!(error < 5e-3)) explain(got, expected, batch, r);
  }
  const auto counters = download<uint32_t>(gpu(), gpu().counters(), 16);
  EXPECT_EQ(counters, std::vector<uint32_t>(16, 0));
}

const std::vector<int> kPrefixes = {0, 1, 63, 64, 500, 0, 200, 127};
const std::vector<int> kQueries = {300, 17, 64, 129, 127, 1, 128, 33};

TEST(PrefillAttention, OneTile) { compare({.prefixes = {0}, .queries = {32}}); }
TEST(PrefillAttention, OneTileOfTwoKeyTiles) { compare({.prefixes = {128}, .queries = {32}}); }
TEST(PrefillAttention, GroupedHeads) { compare({.prefixes = kPrefixes, .queries = kQueries}); }
TEST(PrefillAttention, GroupedHeadsOfDim64) {
  compare({.head_dim = 64, .q_heads = 8, .group_size = 4, .prefixes = kPrefixes, .queries = kQueries});
}
TEST(PrefillAttention, OneQueryHeadPerKvHead) {
  compare({.q_heads = 3, .kv_heads = 3, .group_size = 1, .prefixes = kPrefixes, .queries = kQueries});
}
TEST(PrefillAttention, OneKvHead) {
  compare({.q_heads = 8, .kv_heads = 1, .group_size = 8, .prefixes = kPrefixes, .queries = kQueries});
}
TEST(PrefillAttention, GroupOfThree) {
  compare({.q_heads = 6, .kv_heads = 2, .group_size = 3, .prefixes = kPrefixes, .queries = kQueries});
}
// Heads 2 to 7 of a model with groups of four.
TEST(PrefillAttention, GroupCutByAnotherRank) {
  compare({.q_heads = 6, .kv_heads = 2, .group_size = 4, .group_offset = 2, .prefixes = kPrefixes,
           .queries = kQueries});
}
TEST(PrefillAttention, SmallBlocks) {
  compare({.block_tokens = 16, .prefixes = kPrefixes, .queries = kQueries});
  compare({.head_dim = 64, .block_tokens = 32, .prefixes = kPrefixes, .queries = kQueries});
}
TEST(PrefillAttention, Window) {
  compare({.window = 1, .prefixes = kPrefixes, .queries = kQueries});
  compare({.window = 100, .prefixes = kPrefixes, .queries = kQueries});
  compare({.head_dim = 64, .window = 129, .prefixes = {0, 700, 1000}, .queries = {300, 150, 64}});
}
TEST(PrefillAttention, DecodeRowsBeforeAndPaddingRows) {
  compare({.first_row = 2, .prefixes = {40, 7, 300, -1, 64, -1}, .queries = {1, 1, 70, 1, 40, 5}});
}
TEST(PrefillAttention, MoreTilesThanBlocks) {
  compare({.head_dim = 64, .q_heads = 8, .kv_heads = 8, .group_size = 1, .block_tokens = 16,
           .prefixes = {1200, 64, 0, 5, 310}, .queries = {700, 400, 300, 260, 520}});
}
TEST(PrefillAttention, LongPrefixesInPieces) {
  compare({.prefixes = {3000, 0, 4090, -1}, .queries = {20, 40, 70, 3}});
  compare({.head_dim = 64, .q_heads = 4, .kv_heads = 1, .group_size = 4, .window = 2500, .prefixes = {6000},
           .queries = {33}});
}
// The same for sanitizers, which take long.
TEST(PrefillAttention, FewPieces) {
  compare({.prefixes = {2100}, .queries = {20}});
  compare({.head_dim = 64, .q_heads = 4, .kv_heads = 1, .group_size = 4, .window = 2050, .prefixes = {2300},
           .queries = {33}});
}
TEST(PrefillAttention, ManyShortRows) {
  Shape shape{.q_heads = 4, .kv_heads = 1, .group_size = 4, .prefixes = {}, .queries = {}};
  for (int i = 0; i < 150; ++i) {
    shape.prefixes.push_back(i * 7 % 90);
    shape.queries.push_back(1 + i % 9);
  }
  compare(shape);
}

}  // namespace
}  // namespace skein::test
