#include "kernels/cuda/plain_attention.h"
#include "tests/gpu/attention_fixture.h"

namespace skein::test {
namespace {

constexpr double kLimit = 6e-3;  // of a head's relative error: probabilities and outputs are rounded to bf16
constexpr double kScale = 0.1;

const std::vector<int> kEdges = {1,   2,   15,  16,  17,  31,  33,  63,   64,   65,
                                 127, 128, 129, 192, 255, 257, 500, 1024, 1025, 2047};

std::vector<Queries> last_tokens(const std::vector<int>& lengths) {
  std::vector<Queries> rows;
  for (int slot = 0; slot < static_cast<int>(lengths.size()); ++slot) {
    rows.push_back({.slot = slot, .first = lengths[static_cast<size_t>(slot)] - 1});
  }
  return rows;
}

bool counters_are_zero() {
  const auto counters = download<uint32_t>(gpu(), gpu().counters(), cuda::CudaDevice::kCounters);
  return std::ranges::all_of(counters, [](uint32_t counter) { return counter == 0; });
}

// Inputs and outputs of one call. q has a longer stride than it needs.
struct Call {
  Call(const AttentionShape& call_shape, PagedCache& call_cache, const DeviceStep& call_step, int columns)
      : shape(call_shape), cache(call_cache), step(call_step), stride(columns + 8),
        q(gpu(), int64_t{step.tokens()} * stride * 2),
        out(gpu(), int64_t{step.tokens()} * shape.q_heads * shape.head_dim * 2) {}

  void set_q(const std::vector<float>& values) {
    const auto width = static_cast<size_t>(stride);
    const size_t columns = width - 8;
    std::vector<uint16_t> padded(static_cast<size_t>(step.tokens()) * width, 0xffff);
    for (size_t t = 0; t < static_cast<size_t>(step.tokens()); ++t) {
      for (size_t c = 0; c < columns; ++c) padded[t * width + c] = f32_to_bf16(values[t * columns + c]);
    }
    gpu().copy_to_device(q.as(), padded.data(), q.bytes());
  }
  AttentionArgs args() {
    Tensor queries = matrix(q.as(), Format::kBF16, step.tokens(), stride - 8);
    queries.row_stride = stride;
    return {.out = matrix(out.as(), Format::kBF16, step.tokens(), int64_t{shape.q_heads} * shape.head_dim),
            .q = queries, .step = step.view(), .pages = cache.pages(), .q_heads = shape.q_heads,
            .group_size = shape.group_size,
            .group_offset = shape.group_offset, .scale = kScale, .window = shape.window};
  }
  RopeAppendArgs append_args(const Rotation& rotation, const std::vector<GpuMemory>& tables) {
    return {.qkv = args().q, .step = step.view(), .pages = cache.pages(), .q_heads = shape.q_heads,
            .cos_sin = tables[0].as<float>(), .rotary_dim = rotation.rotary_dim,
            .q_norm = rotation.q_norm.empty() ? nullptr : tables[1].as<float>(),
            .k_norm = rotation.k_norm.empty() ? nullptr : tables[2].as<float>(),
            .norm_epsilon = static_cast<float>(rotation.epsilon)};
  }
  std::vector<uint16_t> result() {
    EXPECT_TRUE(out.intact());
    return download<uint16_t>(gpu(), out.as(), out.bytes() / 2);
  }
  std::vector<uint16_t> q_result() { return download<uint16_t>(gpu(), q.as(), q.bytes() / 2); }

  AttentionShape shape;
  PagedCache& cache;
  const DeviceStep& step;
  int stride;
  GpuMemory q, out;
};

std::vector<GpuMemory> upload_tables(const Rotation& rotation) {
  std::vector<GpuMemory> tables;
  tables.push_back(test::upload(gpu(), rotation.cos_sin));
  tables.push_back(test::upload(gpu(), rotation.q_norm));
  tables.push_back(test::upload(gpu(), rotation.k_norm));
  return tables;
}

// --- Decode without append ---

void expect_decode(const AttentionShape& shape, const std::vector<int>& lengths, const char* what) {
  SCOPED_TRACE(what);
  PagedCache cache(shape, lengths, 7);
  cache.upload();
  std::vector<Queries> rows = last_tokens(lengths);
  rows.insert(rows.begin() + static_cast<int64_t>(rows.size() / 2), {.slot = -1});
  rows.push_back({.slot = -1});
  const DeviceStep step(rows, static_cast<int>(rows.size()));
  const int columns = shape.q_heads * shape.head_dim;
  std::mt19937 random(3);
  const auto q = bf16_normals(random, int64_t{step.tokens()} * columns);
  const auto expected = attend_in_double(shape, cache, step, q, kScale);

  Call call(shape, cache, step, columns);
  call.set_q(q);
  poison_scratch(gpu());
  cuda::attention(gpu(), call.args());
  const auto first = call.result();
  EXPECT_LT(worst_head_error(first, expected, shape.head_dim, shape.q_heads, kLimit), kLimit);
  EXPECT_TRUE(counters_are_zero());
  call.out.poison();
  cuda::attention(gpu(), call.args());
  EXPECT_EQ(call.result(), first) << "a second run differs";

  call.out.poison();
  cuda::plain_attention(gpu(), call.args(), 0);
  EXPECT_LT(worst_head_error(call.result(), expected, shape.head_dim, shape.q_heads, kLimit), kLimit) << "plain";
}

TEST(DecodeAttention, EdgesOfTilesChunksAndPages) {
  for (const int block_tokens : {16, 32, 64}) {
    expect_decode({.block_tokens = block_tokens}, kEdges, "head_dim 128");
    expect_decode({.head_dim = 64, .block_tokens = block_tokens}, kEdges, "head_dim 64");
  }
}

TEST(DecodeAttention, GroupsOfAllSizes) {
  for (const int group : {1, 2, 3, 7, 8, 9, 12, 16}) {
    const std::string what = "group " + std::to_string(group);
    expect_decode({.q_heads = 2 * group, .group_size = group}, {1, 70, 300, 1100}, what.c_str());
    expect_decode({.head_dim = 64, .kv_heads = 3, .q_heads = 3 * group, .group_size = group}, {5, 64, 1500},
                  what.c_str());
  }
}

TEST(DecodeAttention, PartialGroupsOfSplitModels) {
  // 3 q heads per KV head: this rank has the last of one group, a whole one and the first of a third.
  expect_decode({.kv_heads = 3, .q_heads = 5, .group_size = 3, .group_offset = 2}, {1, 65, 700}, "offset 2");
  expect_decode({.head_dim = 64, .kv_heads = 2, .q_heads = 5, .group_size = 7, .group_offset = 4}, {1, 65, 700},
                "offset 4");
  expect_decode({.kv_heads = 1, .q_heads = 2, .group_size = 3, .group_offset = 1}, {1, 65, 3000}, "one KV head");
}

TEST(DecodeAttention, Windows) {
  for (const int window : {1, 16, 63, 100, 128, 1000}) {
    const std::string what = "window " + std::to_string(window);
    expect_decode({.block_tokens = 16, .window = window}, kEdges, what.c_str());
  }
}

TEST(DecodeAttention, ManyShortRows) {
  std::vector<int> lengths;
  for (int i = 0; i < 300; ++i) lengths.push_back(1 + i * 37 % 90);
  expect_decode({.head_dim = 64, .kv_heads = 4, .q_heads = 8, .group_size = 2}, lengths, "300 rows");
}

TEST(DecodeAttention, VeryDifferentLengths) {
  expect_decode({.kv_heads = 1, .q_heads = 4}, {30000, 3, 900, 1, 77}, "one KV head");
  expect_decode({.kv_heads = 8, .q_heads = 32}, {6000, 3, 40}, "eight KV heads");
}

TEST(DecodeAttention, RowsDoNotDependOnTheBatch) {
  const AttentionShape shape = {.kv_heads = 4, .q_heads = 16};
  std::vector<int> lengths = {2500};
  for (int i = 0; i < 40; ++i) lengths.push_back(1 + i * i * 3);
  PagedCache cache(shape, lengths, 11);
  cache.upload();
  const int columns = shape.q_heads * shape.head_dim;
  std::mt19937 random(5);
  const auto q = bf16_normals(random, static_cast<int64_t>(lengths.size()) * columns);
  const std::vector<Queries> rows = last_tokens(lengths);
  const DeviceStep whole(rows, static_cast<int>(rows.size()));
  Call all(shape, cache, whole, columns);
  all.set_q(q);
  cuda::attention(gpu(), all.args());
  const auto together = all.result();
  for (const size_t row : {size_t{0}, size_t{1}, size_t{20}, size_t{40}}) {
    const DeviceStep step({rows[row]}, 1);
    Call alone(shape, cache, step, columns);
    alone.set_q({q.begin() + static_cast<int64_t>(row) * columns, q.begin() + static_cast<int64_t>(row + 1) * columns});
    cuda::attention(gpu(), alone.args());
    const auto begin = together.begin() + static_cast<int64_t>(row) * columns;
    EXPECT_EQ(alone.result(), std::vector<uint16_t>(begin, begin + columns)) << "row " << row;
  }
}

// --- More rows than a launch of the prefill kernel takes ---

struct Attended {
  std::vector<uint16_t> out;
  double worst = 0;
};

// `rows` of a cache, whose queries are those of `q` from token `first` on.
Attended attend(const AttentionShape& shape, PagedCache& cache, const std::vector<Queries>& rows, int decode_rows,
                const std::vector<float>& q, int first) {
  const int columns = shape.q_heads * shape.head_dim;
  const DeviceStep step(rows, decode_rows);
  const auto begin = q.begin() + int64_t{first} * columns;
  const std::vector<float> own(begin, begin + int64_t{step.tokens()} * columns);
  Call call(shape, cache, step, columns);
  call.set_q(own);
  poison_scratch(gpu());
  cuda::attention(gpu(), call.args());
  Attended attended{.out = call.result()};
  const auto expected = attend_in_double(shape, cache, step, own, kScale);
  attended.worst = worst_head_error(attended.out, expected, shape.head_dim, shape.q_heads, kLimit);
  EXPECT_TRUE(counters_are_zero());
  return attended;
}

// A step of `rows`, against one of the rows from `cut` on. The plain kernel's bits are other ones than the prefill
// kernel's.
void expect_as_in_a_step_of_their_own(const std::vector<Queries>& rows, int decode_rows, int cut) {
  const AttentionShape shape = {.head_dim = 64, .kv_heads = 1, .q_heads = 4, .group_size = 4, .block_tokens = 16};
  std::vector<int> lengths;
  int tokens = 0;
  int tokens_before = 0;
  for (const Queries& row : rows) {
    if (static_cast<int>(lengths.size()) == cut) tokens_before = tokens;
    lengths.push_back(row.first + row.count);
    tokens += row.count;
  }
  PagedCache cache(shape, lengths, 7);
  cache.upload();
  const int columns = shape.q_heads * shape.head_dim;
  std::mt19937 random(3);
  const auto q = bf16_normals(random, int64_t{tokens} * columns);
  const Attended together = attend(shape, cache, rows, decode_rows, q, 0);
  EXPECT_LT(together.worst, kLimit);
  const Attended alone = attend(shape, cache, {rows.begin() + cut, rows.end()}, 0, q, tokens_before);
  EXPECT_LT(alone.worst, kLimit);
  const auto begin = together.out.begin() + int64_t{tokens_before} * columns;
  EXPECT_TRUE(std::vector<uint16_t>(begin, together.out.end()) == alone.out) << "not by the same kernel";
}

TEST(ManyRows, PromptsBehindMoreDecodeRowsThanALaunchTakes) {
  std::vector<Queries> rows;
  for (int i = 0; i < 2060; ++i) rows.push_back({.slot = i, .first = i % 40});
  rows.push_back({.slot = 2060, .first = 0, .count = 300});
  rows.push_back({.slot = 2061, .first = 70, .count = 129});
  expect_as_in_a_step_of_their_own(rows, 2060, 2060);
}

TEST(ManyRows, MorePromptsThanALaunchTakes) {
  std::vector<Queries> rows;
  for (int i = 0; i < 2100; ++i) rows.push_back({.slot = i, .first = i % 40, .count = 2 + i % 3});
  expect_as_in_a_step_of_their_own(rows, 0, 1000);
}

// --- Rotation and append ---

// Elements of the rotated q heads and of the appended keys and values that are not as expected.
int count_wrong(const Call& call, const std::vector<uint16_t>& rotated, const std::vector<uint16_t>& pool,
                const std::vector<float>& q) {
  int wrong = 0;
  const auto compare = [&wrong](uint16_t bits, float expected) {
    if (!(std::abs(bf16_to_f32(bits) - expected) <= std::max(0.01f * std::abs(expected), 1e-3f))) ++wrong;
  };
  const int columns = call.shape.q_heads * call.shape.head_dim;
  int token = 0;
  for (const Queries& row : call.step.rows) {
    for (int i = 0; i < row.count; ++i, ++token) {
      if (row.slot < 0) continue;
      for (int c = 0; c < columns; ++c) {
        compare(rotated[static_cast<size_t>(token * call.stride + c)], q[static_cast<size_t>(token * columns + c)]);
      }
      for (int head = 0; head < call.shape.kv_heads; ++head) {
        for (int kv = 0; kv < 2; ++kv) {
          const int64_t at = call.cache.pool_element(row.slot, row.first + i, head, kv);
          const float* value = call.cache.row(row.slot, row.first + i, head, kv);
          for (int d = 0; d < call.shape.head_dim; ++d) compare(pool[static_cast<size_t>(at + d)], value[d]);
        }
      }
    }
  }
  return wrong;
}

// Rotation and append alone; with attention, in one launch or several; and one after the other.
void expect_append(const AttentionShape& shape, int rotary_dim, bool norms, const std::vector<int>& lengths,
                   const std::vector<Queries>& rows, int decode_rows, const char* what) {
  SCOPED_TRACE(what);
  PagedCache cache(shape, lengths, 7);
  const DeviceStep step(rows, decode_rows);
  std::vector<int> written = lengths;
  int64_t tokens = 0;  // in the pages afterwards
  for (const Queries& row : rows) {
    if (row.slot < 0) continue;
    written[static_cast<size_t>(row.slot)] = row.first;
    tokens += row.count;
  }
  for (const int count : written) tokens += count;
  const Rotation rotation = make_rotation(shape, rotary_dim, *std::ranges::max_element(lengths), norms, 9);
  const auto tables = upload_tables(rotation);
  const int columns = (shape.q_heads + 2 * shape.kv_heads) * shape.head_dim;
  std::mt19937 random(3);
  const auto qkv = bf16_normals(random, int64_t{step.tokens()} * columns);

  cache.upload(written);
  Call call(shape, cache, step, columns);
  call.set_q(qkv);
  const RopeAppendArgs append = call.append_args(rotation, tables);
  cuda::rope_append(gpu(), append);
  const auto rotated = call.q_result();
  const auto pool = cache.pool();
  std::vector<float> q;
  append_in_double(shape, rotation, step, qkv, cache, q);
  EXPECT_EQ(count_wrong(call, rotated, pool, q), 0);
  EXPECT_EQ(std::ranges::count_if(pool, [](uint16_t bits) { return bits != 0xffff; }),
            tokens * shape.kv_heads * 2 * shape.head_dim)
      << "what nobody owns was touched";

  const auto expected = attend_in_double(shape, cache, step, q, kScale);
  cache.upload(written);
  call.set_q(qkv);
  poison_scratch(gpu());
  AttentionArgs args = call.args();
  args.append = &append;
  cuda::attention(gpu(), args);
  const auto out = call.result();
  EXPECT_LT(worst_head_error(out, expected, shape.head_dim, shape.q_heads, kLimit), kLimit);
  EXPECT_TRUE(counters_are_zero());
  EXPECT_TRUE(cache.pool() == pool);

  cache.upload(written);
  call.set_q(qkv);
  call.out.poison();
  cuda::rope_append(gpu(), append);
  cuda::attention(gpu(), call.args());
  EXPECT_TRUE(call.result() == out);
}

TEST(RopeAppend, DecodeRowsInOneLaunch) {
  std::vector<Queries> rows = last_tokens(kEdges);
  rows.insert(rows.begin() + 3, {.slot = -1});
  const int count = static_cast<int>(rows.size());
  for (const int block_tokens : {16, 32, 64}) {
    expect_append({.block_tokens = block_tokens}, 128, false, kEdges, rows, count, "head_dim 128");
    expect_append({.head_dim = 64, .block_tokens = block_tokens}, 64, true, kEdges, rows, count, "head_dim 64, norms");
  }
  expect_append({.kv_heads = 1, .q_heads = 16, .group_size = 16}, 64, true, kEdges, rows, count,
                "group of 16, half rotated");
  expect_append({.head_dim = 64, .kv_heads = 3, .q_heads = 5, .group_size = 3, .group_offset = 2}, 16, false, kEdges,
                rows, count, "partial groups");
  expect_append({.window = 100}, 128, false, kEdges, rows, count, "window");
}

TEST(RopeAppend, MixedSteps) {
  const std::vector<int> lengths = {40, 130, 300, 64, 21};
  const std::vector<Queries> rows = {{.slot = 0, .first = 39}, {.slot = 1, .first = 129}, {.slot = -1},
                                     {.slot = 2, .first = 250, .count = 50}, {.slot = 3, .first = 0, .count = 64},
                                     {.slot = 4, .first = 18, .count = 3}};
  expect_append({}, 128, false, lengths, rows, 3, "head_dim 128");
  expect_append({.head_dim = 64, .block_tokens = 16, .window = 70}, 64, true, lengths, rows, 3, "head_dim 64");
}

TEST(RopeAppend, UnusualShapes) {
  const std::vector<int> lengths = {40, 130, 21};
  const std::vector<Queries> rows = {{.slot = 0, .first = 39}, {.slot = -1}, {.slot = 1, .first = 100, .count = 30},
                                     {.slot = 2, .first = 18, .count = 3}};
  for (const bool norms : {false, true}) {
    expect_append({.head_dim = 80}, 32, norms, lengths, rows, 2, "head_dim 80");
    expect_append({.head_dim = 96, .kv_heads = 4, .group_size = 2}, 96, norms, lengths, rows, 2, "head_dim 96");
    expect_append({.head_dim = 256, .block_tokens = 16}, 256, norms, lengths, rows, 2, "head_dim 256");
    expect_append({.head_dim = 80, .kv_heads = 1, .q_heads = 4, .window = 20}, 80, norms, lengths, rows, 2,
                  "head_dim 80, one KV head, window");
    expect_append({.head_dim = 96, .kv_heads = 4, .q_heads = 4, .group_size = 1, .window = 50}, 96, norms, lengths,
                  rows, 2, "head_dim 96, a KV head each, window");
    expect_append({.head_dim = 8}, 4, norms, lengths, rows, 2, "head_dim 8");
    expect_append({}, 20, norms, lengths, rows, 2, "20 of 128 rotated");
    expect_append({}, 20, norms, {40, 130}, {{.slot = 0, .first = 39}, {.slot = 1, .first = 129}}, 2,
                  "decode rows, 20 rotated");
    expect_append({.kv_heads = 1, .q_heads = 20, .group_size = 20}, 128, norms, lengths, rows, 2, "group of 20");
    expect_append({.kv_heads = 3}, 128, norms, {40, 130}, {{.slot = 0, .first = 39}, {.slot = 1, .first = 129}}, 2,
                  "a KV head that nobody reads");
  }
}

// Decode rows of head sizes that have no kernel of their own, in groups of every kind.
TEST(PlainAttention, UnusualHeadSizes) {
  const std::vector<int> lengths = {1, 15, 17, 64, 130, 700};
  for (const int head_dim : {80, 96, 256}) {
    for (const int window : {0, 33}) {
      const std::string what = "head_dim " + std::to_string(head_dim) + ", window " + std::to_string(window);
      expect_decode({.head_dim = head_dim, .kv_heads = 2, .q_heads = 8, .group_size = 4, .window = window}, lengths,
                    (what + ", groups of 4").c_str());
      expect_decode({.head_dim = head_dim, .kv_heads = 3, .q_heads = 3, .group_size = 1, .block_tokens = 16,
                     .window = window}, lengths, (what + ", a KV head each").c_str());
      expect_decode({.head_dim = head_dim, .kv_heads = 1, .q_heads = 6, .group_size = 6, .block_tokens = 32,
                     .window = window}, lengths, (what + ", one KV head").c_str());
    }
  }
}

void expect_tree(const AttentionShape& shape) {
  SCOPED_TRACE("head_dim " + std::to_string(shape.head_dim) + ", group of " + std::to_string(shape.group_size) +
               ", window " + std::to_string(shape.window));
  const std::vector<int> lengths = {70, 33};
  PagedCache cache(shape, lengths, 7);
  cache.upload();
  const DeviceStep step({{.slot = 0, .first = 62, .count = 8}, {.slot = 1, .first = 20, .count = 13}}, 0);
  std::mt19937 random(3);
  std::vector<uint64_t> tree;
  for (const Queries& row : step.rows) {
    for (int i = 0; i < row.count; ++i) tree.push_back((uint64_t{random()} & ((1u << row.count) - 1)) | 1u << i);
  }
  const GpuMemory mask = test::upload(gpu(), tree);
  const int columns = shape.q_heads * shape.head_dim;
  const auto q = bf16_normals(random, int64_t{step.tokens()} * columns);
  Call call(shape, cache, step, columns);
  call.set_q(q);
  AttentionArgs args = call.args();
  args.tree_mask = mask.as<uint64_t>();
  cuda::attention(gpu(), args);
  const auto expected = attend_in_double(shape, cache, step, q, kScale, &tree);
  EXPECT_LT(worst_head_error(call.result(), expected, shape.head_dim, shape.q_heads, kLimit), kLimit);
}

TEST(PlainAttention, TreeMasks) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    expect_tree({.head_dim = head_dim, .block_tokens = 16});
    expect_tree({.head_dim = head_dim, .kv_heads = 3, .q_heads = 3, .group_size = 1, .window = 25});
    expect_tree({.head_dim = head_dim, .kv_heads = 1, .q_heads = 5, .group_size = 5, .block_tokens = 32});
  }
}

}  // namespace
}  // namespace skein::test
