#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/unit/kernels/fixture.h"

namespace skein::test {
namespace {

std::vector<float> read_all(const Tensor& x) {
  std::vector<float> out;
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.columns; ++c) out.push_back(static_cast<float>(activation_at(x, r, c)));
  }
  return out;
}

std::vector<uint8_t> bytes_of(Owned* owned) {
  const int64_t size =
      cpu_ops().tensor_bytes(owned->tensor.format, owned->tensor.rows, owned->tensor.columns);
  return {owned->memory.data(), owned->memory.data() + size};
}

std::vector<float> slice(const std::vector<float>& x, int64_t begin, int64_t count) {
  return {x.begin() + begin, x.begin() + begin + count};
}

// Quantised output must be what the test's own quantiser makes of the f32 output.
void expect_same_blocks(const Owned& got, const std::vector<float>& values) {
  const Owned wanted = activation(Format::kQ8_0, values, got.tensor.rows, got.tensor.columns);
  const int64_t n = got.tensor.rows * got.tensor.columns;
  const auto* a = static_cast<const int8_t*>(got.tensor.data);
  const auto* b = static_cast<const int8_t*>(wanted.tensor.data);
  for (int64_t i = 0; i < 2 * n; ++i) ASSERT_EQ(a[i], b[i]) << i;
  const auto* sa = static_cast<const float*>(got.tensor.scales);
  const auto* sb = static_cast<const float*>(wanted.tensor.scales);
  for (int64_t i = 0; i < n / 16; ++i) ASSERT_EQ(sa[i], sb[i]) << i;
}

TEST(Embed, ReadsEveryFormatInBothLayouts) {
  Random random(1);
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa, 2);
    for (Format format : kWeightFormats) {
      const Weight weight = random_weight(format, 37, 96, &random);
      Packed packed = pack(&rank, weight, format, 37);
      const Tensor file = {.data = const_cast<uint8_t*>(weight.bytes.data()), .rows = 37, .columns = 96,
                           .format = format, .row_stride = 96};
      const std::vector<int32_t> ids = {100, 136, 117, 99, 137, 100, -1};
      for (const Tensor& table : {file, packed.tensor}) {
        Owned out(Format::kF32, 7, 96);
        cpu_ops().embed(rank.device(), {.out = out.tensor, .token_ids = ids.data(), .table = table,
                                        .first_token = 100});
        ASSERT_TRUE(out.memory.intact());
        for (int64_t t = 0; t < 7; ++t) {
          const int64_t row = ids[static_cast<size_t>(t)] - 100;
          for (int64_t c = 0; c < 96; ++c) {
            const double wanted = row < 0 || row >= 37 ? 0 : weight.at(row, c);
            ASSERT_NEAR(activation_at(out.tensor, t, c), wanted, 1e-6 * std::fabs(wanted))
                << isa << " " << info(format).name << " token " << t << " column " << c;
          }
        }
      }
    }
  }
}

TEST(AddNorm, AgreesWithDoublePrecision) {
  Random random(2);
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa, 2);
    for (int64_t n : {1, 7, 15, 16, 17, 65, 576, 1000}) {
      for (int64_t tokens : {1, 3, 40}) {
        const auto residual = random.normals(tokens * n);
        const auto x = random.normals(tokens * n);
        const auto weight = random.normals(n);
        Owned r = f32_tensor(residual, tokens, n);
        const Owned added = f32_tensor(x, tokens, n);
        Owned out(Format::kF32, tokens, n);
        const bool with_x = tokens != 3;
        cpu_ops().add_norm(rank.device(), {.out = out.tensor, .residual = r.tensor,
                                           .x = with_x ? added.tensor : Tensor{}, .weight = weight.data(),
                                           .epsilon = 0.01f});
        ASSERT_TRUE(out.memory.intact() && r.memory.intact());
        for (int64_t t = 0; t < tokens; ++t) {
          double squares = 0;
          for (int64_t c = 0; c < n; ++c) {
            const auto i = static_cast<size_t>(t * n + c);
            const float sum = with_x ? residual[i] + x[i] : residual[i];
            ASSERT_EQ(r.memory.as<float>()[i], sum);
            squares += static_cast<double>(sum) * sum;
          }
          const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + 0.01);
          for (int64_t c = 0; c < n; ++c) {
            const double wanted = activation_at(r.tensor, t, c) * scale * weight[static_cast<size_t>(c)];
            ASSERT_NEAR(activation_at(out.tensor, t, c), wanted, 2e-6 * std::fabs(wanted) + 1e-7);
          }
        }
      }
    }
  }
}

TEST(AddNorm, QuantisesWhatItWouldStore) {
  Random random(3);
  const int64_t tokens = 21, n = 576;
  const auto values = random.normals(tokens * n);
  const auto weight = random.normals(n);
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa, 3);
    Owned r = f32_tensor(values, tokens, n);
    Owned plain(Format::kF32, tokens, n);
    Owned blocks(Format::kI8Block32, tokens, n);
    for (const Tensor& out : {plain.tensor, blocks.tensor}) {
      cpu_ops().add_norm(rank.device(), {.out = out, .residual = r.tensor, .x = {}, .weight = weight.data()});
    }
    ASSERT_TRUE(blocks.memory.intact());
    expect_same_blocks(blocks, read_all(plain.tensor));
  }
}

TEST(AddNorm, QuantisesZerosAndTinyValues) {
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa);
    std::vector<float> gate_up(128, 0.0f);
    for (int i = 0; i < 32; ++i) gate_up[static_cast<size_t>(64 + i)] = 1e-38f;  // silu(0) * tiny = 0
    Owned in = f32_tensor(gate_up, 1, 128);
    Owned out(Format::kI8Block32, 1, 64);
    cpu_ops().silu_mul(rank.device(), {.out = out.tensor, .gate_up = in.tensor});
    for (float value : read_all(out.tensor)) EXPECT_EQ(value, 0.0f) << isa;
  }
}

TEST(SiluMul, AgreesWithDoublePrecision) {
  Random random(4);
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa, 2);
    for (int64_t n : {1, 9, 16, 33, 1536}) {
      for (int64_t tokens : {1, 13}) {
        auto values = random.normals(tokens * 2 * n, 6);
        values[0] = -200;
        Owned in = f32_tensor(values, tokens, 2 * n);
        Owned out(Format::kF32, tokens, n);
        cpu_ops().silu_mul(rank.device(), {.out = out.tensor, .gate_up = in.tensor});
        ASSERT_TRUE(out.memory.intact());
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t c = 0; c < n; ++c) {
            const double g = activation_at(in.tensor, t, c);
            const double wanted = g / (1 + std::exp(-g)) * activation_at(in.tensor, t, n + c);
            ASSERT_NEAR(activation_at(out.tensor, t, c), wanted, 5e-7 * std::fabs(wanted) + 1e-30) << g;
          }
        }
      }
    }
  }
}

TEST(RowOps, AreBitwiseTheSameForEveryBatchThreadCountAndInstructionSet) {
  Random random(5);
  const int64_t tokens = 70, n = 352;
  const auto values = random.normals(tokens * 2 * n, 3);
  const auto weight = random.normals(n);
  for (Format format : {Format::kF32, Format::kI8Block32}) {
    std::vector<float> silu, norm;
    for (const std::string& isa : instruction_sets()) {
      for (int threads : {1, 2, 3}) {
        Rank rank(isa, threads);
        for (int64_t batch : {1, 37, 70}) {
          std::vector<float> silu_now, norm_now;
          for (int64_t t = 0; t < tokens; t += batch) {
            const int64_t count = std::min(batch, tokens - t);
            Owned in = f32_tensor(slice(values, t * 2 * n, count * 2 * n), count, 2 * n);
            Owned out(format, count, n);
            cpu_ops().silu_mul(rank.device(), {.out = out.tensor, .gate_up = in.tensor});
            const auto a = read_all(out.tensor);
            silu_now.insert(silu_now.end(), a.begin(), a.end());
            Owned residual = f32_tensor(slice(values, t * n, count * n), count, n);
            cpu_ops().add_norm(rank.device(), {.out = out.tensor, .residual = residual.tensor, .x = {},
                                               .weight = weight.data(), .epsilon = 1e-5f});
            const auto b = read_all(out.tensor);
            norm_now.insert(norm_now.end(), b.begin(), b.end());
          }
          if (silu.empty()) silu = silu_now;
          if (norm.empty()) norm = norm_now;
          ASSERT_EQ(silu_now, silu) << isa << " threads " << threads << " batch " << batch;
          ASSERT_EQ(norm_now, norm) << isa << " threads " << threads << " batch " << batch;
        }
      }
    }
  }
}

struct RopeCase {
  int head_dim, rotary_dim, q_heads, kv_heads, block_tokens;
  Format pages;
  bool norm;
};

std::vector<double> rotated(const std::vector<float>& x, const std::vector<float>* norm, float epsilon,
                            int rotary_dim, int position) {
  std::vector<double> y(x.begin(), x.end());
  if (norm != nullptr) {
    double squares = 0;
    for (double v : y) squares += v * v;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(y.size()) + static_cast<double>(epsilon));
    for (size_t i = 0; i < y.size(); ++i) y[i] *= scale * static_cast<double>((*norm)[i]);
  }
  const auto half = static_cast<size_t>(rotary_dim / 2);
  for (size_t i = 0; i < half; ++i) {
    const double angle = position * std::pow(100.0, -static_cast<double>(i) / static_cast<double>(half));
    const double a = y[i], b = y[i + half];
    y[i] = a * std::cos(angle) - b * std::sin(angle);
    y[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
  return y;
}

std::vector<float> cos_sin_table(int positions, int half) {
  std::vector<float> out;
  for (int p = 0; p < positions; ++p) {
    for (int i = 0; i < half; ++i) {
      const double angle = p * std::pow(100.0, -static_cast<double>(i) / half);
      out.push_back(static_cast<float>(std::cos(angle)));
      out.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return out;
}

// How many of the pool's elements are still as Memory made them.
int64_t untouched(Memory* pool, int64_t elements, int64_t bytes) {
  int64_t count = 0;
  for (int64_t e = 0; e < elements; ++e) {
    bool poison = true;
    for (int64_t i = 0; i < bytes; ++i) poison = poison && pool->data()[e * bytes + i] == 0xff;
    count += poison ? 1 : 0;
  }
  return count;
}

void check_rope(Rank* rank, const RopeCase& c) {
  const int positions = 50, blocks = 2 * (positions / c.block_tokens + 1), per_slot = blocks / 2;
  const std::vector<float> cos_sin = cos_sin_table(positions, c.rotary_dim / 2);
  const std::vector<int32_t> slots = {1, 0};
  const std::vector<int32_t> begin = {0, 6, 7};
  const std::vector<int32_t> at = {40, 41, 42, 43, 44, 45, 3};
  std::vector<int32_t> table(static_cast<size_t>(blocks), -1);
  for (int p : {40, 45}) table[static_cast<size_t>(per_slot + p / c.block_tokens)] = p / c.block_tokens;
  table[static_cast<size_t>(3 / c.block_tokens)] = blocks - 1;
  Random random(6);
  const int heads = c.q_heads + 2 * c.kv_heads;
  const int64_t columns = int64_t{heads} * c.head_dim;
  const auto values = random.normals(7 * columns);
  const auto q_norm = random.normals(c.head_dim), k_norm = random.normals(c.head_dim);
  Owned qkv = f32_tensor(values, 7, columns);
  Memory pool(int64_t{blocks} * c.kv_heads * 2 * c.block_tokens * c.head_dim * info(c.pages).block_bytes);
  const KvPages pages = {.data = pool.as<>(), .format = c.pages, .blocks = blocks, .kv_heads = c.kv_heads,
                         .block_tokens = c.block_tokens, .head_dim = c.head_dim,
                         .block_table = table.data(), .blocks_per_slot = per_slot};
  cpu_ops().rope_append(rank->device(),
                        {.qkv = qkv.tensor,
                         .step = {.rows = 2, .tokens = 7, .positions = at.data(), .query_begin = begin.data(),
                                  .slots = slots.data()},
                         .pages = pages, .q_heads = c.q_heads, .cos_sin = cos_sin.data(), .rotary_dim = c.rotary_dim,
                         .q_norm = c.norm ? q_norm.data() : nullptr, .k_norm = c.norm ? k_norm.data() : nullptr,
                         .norm_epsilon = 1e-3f});
  ASSERT_TRUE(qkv.memory.intact() && pool.intact());
  int64_t written = 0;
  for (int t = 0; t < 7; ++t) {
    const int position = at[static_cast<size_t>(t)];
    const int slot = t < 6 ? 1 : 0;
    const int64_t block = table[static_cast<size_t>(slot * per_slot + position / c.block_tokens)];
    for (int h = 0; h < heads; ++h) {
      const bool v = h >= c.q_heads + c.kv_heads, k = !v && h >= c.q_heads;
      const auto x = slice(values, t * columns + int64_t{h} * c.head_dim, c.head_dim);
      std::vector<double> wanted(x.begin(), x.end());
      if (!v) wanted = rotated(x, !c.norm ? nullptr : k ? &k_norm : &q_norm, 1e-3f, c.rotary_dim, position);
      const float* got = qkv.memory.as<float>() + t * columns + int64_t{h} * c.head_dim;
      const int64_t kv_head = v ? h - c.q_heads - c.kv_heads : h - c.q_heads;
      const int64_t row = ((block * c.kv_heads + kv_head) * 2 + (v ? 1 : 0)) * c.block_tokens +
                          position % c.block_tokens;
      for (int d = 0; d < c.head_dim; ++d) {
        ASSERT_NEAR(got[d], wanted[static_cast<size_t>(d)], 2e-6) << "token " << t << " head " << h;
        if (!k && !v) continue;
        const int64_t e = row * c.head_dim + d;
        ++written;
        if (c.pages == Format::kF32) {
          ASSERT_EQ(pool.as<float>()[e], got[d]);
        } else if (c.pages == Format::kF16) {
          ASSERT_EQ(pool.as<uint16_t>()[e], double_to_half(got[d]));
        } else {
          ASSERT_NEAR(bf16_to_double(pool.as<uint16_t>()[e]), got[d], std::fabs(got[d]) / 256);
        }
      }
    }
  }
  const int64_t total = int64_t{blocks} * c.kv_heads * 2 * c.block_tokens * c.head_dim;
  EXPECT_EQ(untouched(&pool, total, info(c.pages).block_bytes), total - written) << "something else was written";
}

TEST(RopeAppend, AgreesWithDoublePrecision) {
  for (const std::string& isa : instruction_sets()) {
    for (int threads : {1, 2}) {
      Rank rank(isa, threads);
      check_rope(&rank, {64, 64, 9, 3, 16, Format::kF32, false});
      check_rope(&rank, {64, 64, 9, 3, 16, Format::kF16, true});
      check_rope(&rank, {8, 8, 2, 1, 5, Format::kBF16, true});
      check_rope(&rank, {40, 24, 1, 2, 7, Format::kF16, false});
      check_rope(&rank, {128, 32, 40, 8, 32, Format::kBF16, true});
    }
  }
}

TEST(Gather, TakesTokensFromTheSlots) {
  std::vector<int32_t> tokens(30), lengths = {4, 10, 1}, slots = {2, 0, 1}, begin = {0, 1, 3, 4};
  for (int i = 0; i < 30; ++i) tokens[static_cast<size_t>(i)] = 100 + i;
  const std::vector<int32_t> first = {0, 1, -1};
  std::vector<int32_t> ids(4), positions(4);
  Rank rank("avx2");
  const StepView step = {.rows = 3, .tokens = 4, .query_begin = begin.data(), .slots = slots.data()};
  const SlotState state = {.slots = 3, .tokens_max = 10, .tokens = tokens.data(), .lengths = lengths.data()};
  cpu_ops().gather(rank.device(), {.token_ids = ids.data(), .positions = positions.data(), .step = step,
                                   .first_position = first.data(), .state = state});
  EXPECT_EQ(ids, (std::vector<int32_t>{120, 101, 102, 119}));
  EXPECT_EQ(positions, (std::vector<int32_t>{0, 1, 2, 9}));
}

TEST(StoreTokens, WritesGrowsAndSkips) {
  std::vector<int32_t> tokens(20, 0), lengths = {3, 5};
  const std::vector<int32_t> slots = {0, 1, 1}, positions = {3, 5, 2}, values = {7, -1, 9};
  Rank rank("avx2");
  const SlotState state = {.slots = 2, .tokens_max = 10, .tokens = tokens.data(), .lengths = lengths.data()};
  cpu_ops().store_tokens(rank.device(), {.state = state, .count = 3, .slots = slots.data(),
                                         .positions = positions.data(), .tokens = values.data()});
  EXPECT_EQ(tokens[3], 7);
  EXPECT_EQ(tokens[15], 0);
  EXPECT_EQ(tokens[12], 9);
  EXPECT_EQ(lengths, (std::vector<int32_t>{4, 5}));
}

TEST(GatherRows, CopiesBothFormats) {
  Random random(7);
  const auto values = random.normals(5 * 64);
  const std::vector<int32_t> rows = {4, 0, 4};
  Rank rank("avx2");
  for (Format weight : {Format::kF32, Format::kQ4_1}) {
    Owned x = activation(weight, values, 5, 64);
    Owned out(x.tensor.format, 4, 64);
    std::vector<uint64_t> zeroed = {1, 2, 3, 4};
    cpu_ops().gather_rows(rank.device(), {.out = out.tensor, .x = x.tensor, .rows = rows.data(), .count = 3,
                                          .zeroed = zeroed.data()});
    EXPECT_EQ(zeroed, (std::vector<uint64_t>{0, 0, 0, 4}));
    ASSERT_TRUE(out.memory.intact());
    for (int64_t i = 0; i < 3; ++i) {
      for (int64_t c = 0; c < 64; ++c) {
        ASSERT_EQ(activation_at(out.tensor, i, c), activation_at(x.tensor, rows[static_cast<size_t>(i)], c));
      }
    }
    if (weight == Format::kF32) continue;
    const auto* sums = static_cast<const float*>(out.tensor.scales);
    const auto* from = static_cast<const float*>(x.tensor.scales);
    EXPECT_EQ(sums[1], from[4 * 2 * 2 + 1]);
  }
}

TEST(CopyBlocks, CopiesWholeBlocks) {
  const int64_t block = 2 * 2 * 4 * 8;
  Memory pool(5 * block * 2);
  for (int64_t i = 0; i < 5 * block; ++i) pool.as<uint16_t>()[i] = static_cast<uint16_t>(i);
  const std::vector<int32_t> pairs = {1, 4, 0, 2};
  Rank rank("avx2");
  const KvPages pages = {.data = pool.as<>(), .format = Format::kBF16, .blocks = 5, .kv_heads = 2,
                         .block_tokens = 4, .head_dim = 8};
  cpu_ops().copy_blocks(rank.device(), {.pages = pages, .pairs = pairs.data(), .count = 2});
  ASSERT_TRUE(pool.intact());
  const int64_t source[] = {0, 1, 0, 3, 1};
  for (int64_t b = 0; b < 5; ++b) {
    for (int64_t i = 0; i < block; ++i) {
      ASSERT_EQ(pool.as<uint16_t>()[b * block + i], source[b] * block + i) << "block " << b;
    }
  }
}

// Memory made for one step's largest batch serves the smaller ones, too.
TEST(Tensors, HoldDataAndScalesApart) {
  for (int64_t rows : {1, 3, 64}) {
    Owned x(Format::kI8Block32, rows, 96);
    const auto* data = static_cast<const uint8_t*>(x.tensor.data);
    const auto* scales = static_cast<const uint8_t*>(x.tensor.scales);
    EXPECT_GE(scales, data + rows * 96);
    EXPECT_EQ(scales + rows * 3 * 8, data + static_cast<int64_t>(bytes_of(&x).size()));
    EXPECT_LE(bytes_of(&x).size(), static_cast<size_t>(cpu_ops().tensor_bytes(Format::kI8Block32, 64, 96)));
  }
}

}  // namespace
}  // namespace skein::test
