#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>

#include "tests/gpu/fixture.h"

// Every entry of the table on both backends, through the table alone: same inputs (which bf16 holds exactly), results
// within what bf16 between the launches loses.

namespace skein::test {
namespace {

constexpr double kRounded = 4e-3;  // one rounding to bf16, and sums in another order

// One backend with what a test allocates on it.
class Side {
 public:
  explicit Side(const Ops& table) : ops(table) {
    auto opened = ops.open({.threads = 4});
    CHECK(opened.ok());
    device_ = std::move(*opened);
  }
  ~Side() {
    for (void* memory : owned_) ops.release(device(), memory);
  }
  Side(const Side&) = delete;

  Device& device() { return *device_; }
  void* allocate(int64_t bytes) {
    auto memory = ops.allocate(device(), bytes);
    CHECK(memory.ok());
    owned_.push_back(*memory);
    ops.copy_to_device(device(), *memory, std::vector<uint8_t>(static_cast<size_t>(bytes), 0xff).data(), bytes);
    if (&ops == &cuda_ops()) poison_scratch(cuda::device_of(device()));
    return *memory;
  }
  template <typename T>
  T* upload(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    void* memory = allocate(bytes);
    ops.copy_to_device(device(), memory, values.data(), bytes);
    return static_cast<T*>(memory);
  }
  template <typename T>
  std::vector<T> download(const void* from, int64_t count) {
    const auto bytes = count * static_cast<int64_t>(sizeof(T));
    auto host = ops.allocate_host(device(), bytes);
    CHECK(host.ok());
    ops.copy_to_host(device(), *host, from, bytes);
    EXPECT_TRUE(ops.synchronize(device()).ok());
    std::vector<T> values(static_cast<size_t>(count));
    std::memcpy(values.data(), *host, static_cast<size_t>(bytes));
    ops.release_host(device(), *host);
    return values;
  }

  Tensor tensor(Format format, int64_t rows, int64_t columns) {
    return ops.make_tensor(allocate(ops.tensor_bytes(format, rows, columns)), format, rows, columns);
  }
  Tensor tensor(Format format, int64_t rows, int64_t columns, const std::vector<float>& values) {
    const Tensor out = tensor(format, rows, columns);
    const std::vector<uint16_t> halves = to_bf16(values);
    const void* from = format == Format::kF32 ? static_cast<const void*>(values.data()) : halves.data();
    ops.copy_to_device(device(), out.data, from, rows * row_bytes(format, columns));
    return out;
  }
  Tensor stream(int64_t rows, int64_t columns) { return tensor(ops.stream_format, rows, columns); }
  Tensor stream(int64_t rows, int64_t columns, const std::vector<float>& values) {
    return tensor(ops.stream_format, rows, columns, values);
  }
  std::vector<float> read(const Tensor& from) {
    CHECK_EQ(from.row_stride, from.columns);
    const int64_t count = from.rows * from.columns;
    if (from.format == Format::kF32) return download<float>(from.data, count);
    return from_bf16(download<uint16_t>(from.data, count));
  }
  // A weight of the format that both backends keep, from rows of a file.
  Tensor pack(Format format, const std::vector<const void*>& rows, int64_t columns) {
    const auto count = static_cast<int64_t>(rows.size());
    const Tensor out = {.data = allocate(ops.linear_bytes(Format::kBF16, count, columns)), .rows = count,
                        .columns = columns, .format = Format::kBF16, .layout = Layout::kPacked, .row_stride = columns};
    const int64_t half = count / 2;  // in two calls
    ops.pack_linear(device(), {.out = out, .first_row = 0, .row_count = half, .source_rows = rows.data(),
                               .source_format = format});
    ops.pack_linear(device(), {.out = out, .first_row = half, .row_count = count - half,
                               .source_rows = rows.data() + half, .source_format = format});
    CHECK(ops.synchronize(device()).ok());
    return out;
  }
  Tensor weight(const std::vector<float>& values, int64_t columns) {
    const std::vector<uint16_t> halves = to_bf16(values);
    std::vector<const void*> rows;
    for (size_t at = 0; at < halves.size(); at += static_cast<size_t>(columns)) rows.push_back(&halves[at]);
    return pack(Format::kBF16, rows, columns);
  }

  const Ops& ops;

 private:
  std::unique_ptr<Device> device_;
  std::vector<void*> owned_;
};

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  return relative_error(a, std::vector<double>(b.begin(), b.end()));
}

// The result of `body` on both backends.
template <typename Body>
auto on_both(const Body& body) {
  Side cpu(cpu_ops());
  Side gpu(cuda_ops());
  auto expected = body(cpu);
  auto got = body(gpu);
  return std::pair(std::move(got), std::move(expected));
}

void expect_near(const std::function<std::vector<float>(Side&)>& body, double tolerance, const std::string& what) {
  const auto [got, expected] = on_both(body);
  EXPECT_LE(difference(got, expected), tolerance) << what;
}

TEST(Ops, TellsWhatItIs) {
  EXPECT_STREQ(cuda_ops().name, "cuda");
  EXPECT_EQ(cuda_ops().stream_format, Format::kBF16);
  EXPECT_EQ(cuda_ops().activation_format(Format::kBF16), Format::kBF16);
  EXPECT_EQ(cuda_ops().tensor_bytes(Format::kBF16, 3, 5), 256);
  EXPECT_EQ(cuda_ops().tensor_bytes(Format::kF32, 64, 4), 1024);
  Side gpu(cuda_ops());
  const auto memory = gpu.ops.memory(gpu.device());
  ASSERT_TRUE(memory.ok());
  EXPECT_GT(memory->total, memory->free);
  const uint64_t mark = gpu.ops.mark(gpu.device());
  ASSERT_TRUE(gpu.ops.synchronize(gpu.device()).ok());
  const auto reached = gpu.ops.reached(gpu.device(), mark);
  EXPECT_TRUE(reached.ok() && *reached);
}

// Rows of every file format come out as their values, whatever the number of rows; embed() reads them back.
TEST(Ops, PackLinearConverts) {
  for (const Format format :
       {Format::kBF16, Format::kF32, Format::kF16, Format::kQ8_0, Format::kQ4_0, Format::kQ4_1}) {
    for (const int64_t rows : {3, 3000}) {
      const int64_t columns = 1056;
      std::mt19937 random(1);
      const int64_t stride = row_bytes(format, columns) + 6;  // rows need not touch
      std::vector<uint8_t> file(static_cast<size_t>(rows * stride));
      for (uint8_t& byte : file) byte = static_cast<uint8_t>(random());
      const int block = info(format).block_bytes;
      std::vector<const void*> sources;
      for (int64_t r = 0; r < rows; ++r) {
        uint8_t* row = file.data() + r * stride;
        sources.push_back(row);
        for (int64_t at = 0; at < row_bytes(format, columns); at += block) {  // finite numbers
          const float value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 1024;
          const uint16_t half = f32_to_f16(value), brain = f32_to_bf16(value);
          if (format == Format::kF32) std::memcpy(row + at, &value, 4);
          if (format == Format::kBF16) std::memcpy(row + at, &brain, 2);
          if (format != Format::kF32 && format != Format::kBF16) std::memcpy(row + at, &half, 2);
          if (format == Format::kQ4_1) std::memcpy(row + at + 2, &half, 2);
        }
      }
      const auto [got, expected] = on_both([&](Side& side) {
        const Tensor table = side.pack(format, sources, columns);
        std::vector<int32_t> ids;
        for (int32_t r = 0; r < rows; ++r) ids.push_back(r);
        const Tensor out = side.tensor(Format::kF32, rows, columns);
        side.ops.embed(side.device(), {.out = out, .token_ids = side.upload(ids), .table = table});
        return side.read(out);
      });
      EXPECT_EQ(got, expected) << info(format).name << ", " << rows << " rows";
    }
  }
}

// Several blocks of threads; what no pair names keeps its value.
TEST(Ops, Scatter) {
  std::mt19937 random(12);
  for (const int count : {1, 255, 256, 257, 2000}) {
    const int64_t size = 4099;
    std::vector<int32_t> before(static_cast<size_t>(size)), indices(before.size()), pairs;
    std::iota(before.begin(), before.end(), 10'000);
    std::iota(indices.begin(), indices.end(), 0);
    std::ranges::shuffle(indices, random);
    std::vector<int32_t> wanted = before;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t index = indices[static_cast<size_t>(i)];
      pairs.insert(pairs.end(), {index, -i});
      wanted[static_cast<size_t>(index)] = -i;
    }
    const auto [got, expected] = on_both([&](Side& side) {
      auto* to = side.upload(before);
      side.ops.scatter(side.device(), {.to = to, .size = size, .pairs = side.upload(pairs), .count = count});
      return side.download<int32_t>(to, size);
    });
    EXPECT_EQ(got, wanted) << count << " pairs";
    EXPECT_EQ(expected, wanted) << count << " pairs, on the CPU";
  }
}

TEST(Ops, GatherAndStoreTokens) {
  const auto [got, expected] = on_both([](Side& side) {
    SlotState state = {.slots = 3, .tokens_max = 8};
    state.tokens = side.upload<int32_t>({1, 2, 3, -1, -1, -1, -1, -1, 4, 5, 6, 7, 8, 9, -1, -1, 10, 11, -1, -1, -1, -1,
                                         -1, -1});
    state.lengths = side.upload<int32_t>({3, 6, 2});
    side.ops.store_tokens(side.device(), {.state = state, .count = 3, .slots = side.upload<int32_t>({2, 0, 1}),
                                          .positions = side.upload<int32_t>({2, 3, 6}),
                                          .tokens = side.upload<int32_t>({77, 78, -1})});
    const std::vector<int32_t> begins = {0, 1, 5, 6};
    const Tensor ids = side.tensor(Format::kI32, 1, 6), positions = side.tensor(Format::kI32, 1, 6);
    side.ops.gather(side.device(),
                    {.token_ids = static_cast<int32_t*>(ids.data), .positions = static_cast<int32_t*>(positions.data),
                     .step = {.rows = 3, .tokens = 6, .query_begin_host = begins.data(),
                              .query_begin = side.upload(begins), .slots = side.upload<int32_t>({2, 1, 0})},
                     .first_position = side.upload<int32_t>({-1, 1, -1}), .state = state});
    auto all = side.download<int32_t>(ids.data, 6);
    for (const void* from : {static_cast<const void*>(positions.data), static_cast<const void*>(state.lengths)}) {
      const auto more = side.download<int32_t>(from, from == state.lengths ? 3 : 6);
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  });
  EXPECT_EQ(got, expected);
}

TEST(Ops, Embed) {
  std::mt19937 random(2);
  const auto table = bf16_normals(random, 100 * 576);
  expect_near(
      [&](Side& side) {
        const Tensor out = side.tensor(Format::kF32, 4, 576);
        side.ops.embed(side.device(), {.out = out, .token_ids = side.upload<int32_t>({57, 149, 150, 49}),
                                       .table = side.weight(table, 576), .first_token = 50});
        return side.read(out);
      },
      0, "embed");
}

TEST(Ops, AddNorm) {
  std::mt19937 random(3);
  for (const int64_t hidden : {576, 4096}) {
    const auto residual = bf16_normals(random, 5 * hidden), x = bf16_normals(random, 5 * hidden);
    const auto weight = bf16_normals(random, hidden);
    expect_near(
        [&](Side& side) {
          const Tensor out = side.stream(5, hidden);
          side.ops.add_norm(side.device(), {.out = out, .residual = side.tensor(Format::kF32, 5, hidden, residual),
                                            .x = side.stream(5, hidden, x), .weight = side.upload(weight),
                                            .epsilon = 1e-5f});
          return side.read(out);
        },
        kRounded, "add_norm");
  }
}

TEST(Ops, SiluMul) {
  std::mt19937 random(4);
  const auto gate_up = bf16_normals(random, 5 * 2 * 1536);
  expect_near(
      [&](Side& side) {
        const Tensor out = side.stream(5, 1536);
        side.ops.silu_mul(side.device(), {.out = out, .gate_up = side.stream(5, 2 * 1536, gate_up)});
        return side.read(out);
      },
      kRounded, "silu_mul");
}

TEST(Ops, GatherRows) {
  std::mt19937 random(5);
  const auto x = bf16_normals(random, 9 * 576);
  expect_near(
      [&](Side& side) {
        const Tensor out = side.stream(3, 576);
        side.ops.gather_rows(side.device(), {.out = out, .x = side.stream(9, 576, x),
                                             .rows = side.upload<int32_t>({8, 0, 8}), .count = 3});
        return side.read(out);
      },
      0, "gather_rows");
}

TEST(Ops, Linear) {
  std::mt19937 random(6);
  for (const int64_t tokens : {1, 3, 16, 65}) {
    const int64_t inputs = 576, outputs = 1024;
    const auto x = bf16_normals(random, tokens * inputs), weight = bf16_normals(random, outputs * inputs, 0.05f);
    const auto bias = bf16_normals(random, outputs);
    for (const bool full : {false, true}) {
      expect_near(
          [&](Side& side) {
            const Tensor packed = side.weight(weight, inputs);
            const Tensor out = side.tensor(full ? Format::kF32 : side.ops.stream_format, tokens, outputs);
            side.ops.linear(side.device(), {.out = out, .x = side.stream(tokens, inputs, x), .weight = packed,
                                            .bias = full ? nullptr : side.upload(bias)});
            return side.read(out);
          },
          kRounded, "linear, tokens " + std::to_string(tokens));
    }
  }
}

TEST(Ops, GatedLinear) {
  std::mt19937 random(7);
  for (const int64_t tokens : {1, 16, 65}) {
    const int64_t inputs = 576, n = 768;
    const auto x = bf16_normals(random, tokens * inputs), weight = bf16_normals(random, 2 * n * inputs, 0.05f);
    const auto bias = bf16_normals(random, 2 * n);
    expect_near(
        [&](Side& side) {
          const Tensor packed = side.weight(weight, inputs);
          const Tensor out = side.stream(tokens, n);
          side.ops.gated_linear(side.device(), {.out = out, .gate_up = side.stream(tokens, 2 * n),
                                                .x = side.stream(tokens, inputs, x), .weight = packed,
                                                .bias = side.upload(bias)});
          return side.read(out);
        },
        2 * kRounded, "gated_linear, tokens " + std::to_string(tokens));
  }
}

// Two decodes behind 70 and 5 tokens, a chunk of 9 behind 20; the pages hold random numbers.
struct AttentionCase {
  static constexpr int kHeadDim = 128, kKvHeads = 2, kQHeads = 8, kBlock = 16, kBlocks = 16, kPerSlot = 6;
  std::vector<int32_t> begins = {0, 1, 2, 11}, slots = {1, 2, 0}, positions = {70, 5};
  std::vector<int32_t> table = {9, 3, -7, -7, -7, -7, 1, 0, 15, 8, 2, -7, 5, -7, -7, -7, -7, -7};
  std::vector<float> qkv, pages, cos_sin;

  explicit AttentionCase(uint32_t seed) {
    std::mt19937 random(seed);
    for (int32_t p = 20; p < 29; ++p) positions.push_back(p);
    qkv = bf16_normals(random, 11 * (kQHeads + 2 * kKvHeads) * kHeadDim);
    pages = bf16_normals(random, kBlocks * kKvHeads * 2 * kBlock * kHeadDim);
    for (int p = 0; p < 128; ++p) {
      for (int i = 0; i < kHeadDim / 2; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / kHeadDim);
        cos_sin.push_back(static_cast<float>(std::cos(angle)));
        cos_sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
  }

  // Attention, with rope_append in the same call or before it; then the pages behind it.
  std::vector<float> run(Side& side, bool fused) const {
    const StepView step = {.rows = 3, .tokens = 11, .decode_rows = 2, .query_begin_host = begins.data(),
                           .positions = side.upload(positions), .query_begin = side.upload(begins),
                           .slots = side.upload(slots)};
    const KvPages kv = {.data = side.upload(to_bf16(pages)), .format = Format::kBF16, .blocks = kBlocks,
                        .kv_heads = kKvHeads, .block_tokens = kBlock, .head_dim = kHeadDim,
                        .block_table = side.upload(table), .blocks_per_slot = kPerSlot};
    const Tensor heads = side.stream(11, (kQHeads + 2 * kKvHeads) * kHeadDim, qkv);
    const RopeAppendArgs append = {.qkv = heads, .step = step, .pages = kv, .q_heads = kQHeads,
                                   .cos_sin = side.upload(cos_sin), .rotary_dim = kHeadDim};
    if (!fused) side.ops.rope_append(side.device(), append);
    const Tensor out = side.stream(11, kQHeads * kHeadDim);
    side.ops.attention(side.device(), {.out = out, .q = heads, .step = step, .pages = kv, .q_heads = kQHeads,
                                       .group_size = kQHeads / kKvHeads, .scale = 1 / std::sqrt(128.0f),
                                       .append = fused ? &append : nullptr});
    std::vector<float> all = side.read(out);
    const auto behind = from_bf16(side.download<uint16_t>(kv.data, static_cast<int64_t>(pages.size())));
    all.insert(all.end(), behind.begin(), behind.end());
    return all;
  }
};

TEST(Ops, RopeAppendAndAttention) {
  const AttentionCase both(8);
  for (const bool fused : {false, true}) {
    const auto [got, expected] = on_both([&](Side& side) { return both.run(side, fused); });
    const auto split = static_cast<int64_t>(got.size() - both.pages.size());
    const auto part = [&](const std::vector<float>& all, bool front) {
      return front ? std::vector<float>(all.begin(), all.begin() + split)
                   : std::vector<float>(all.begin() + split, all.end());
    };
    EXPECT_LE(difference(part(got, true), part(expected, true)), 3 * kRounded) << fused;
    EXPECT_LE(difference(part(got, false), part(expected, false)), kRounded) << fused;
  }
}

TEST(Ops, Sample) {
  std::mt19937 random(9);
  const int64_t n = 1001;
  const auto logits = bf16_normals(random, 6 * n, 3);
  const auto [got, expected] = on_both([&](Side& side) {
    std::vector<SlotSampling> how(6);
    how[0].temperature = 0;
    how[1].top_p = 0.8f;
    how[2].top_k = 7;
    how[3].repetition_penalty = 1.3f;
    how[4].top_logprobs = 4;
    std::vector<SampleRow> rows;
    for (int32_t r = 0; r < 6; ++r) rows.push_back({.slot = r, .position = 1, .score = r == 5 ? 1 : 0});
    const SlotState state = {.slots = 6, .tokens_max = 3,
                             .tokens = side.upload(std::vector<int32_t>(18, 11)),
                             .lengths = side.upload(std::vector<int32_t>(6, 3)), .sampling = side.upload(how)};
    auto* out = static_cast<SampledToken*>(side.allocate(6 * sizeof(SampledToken)));
    auto* tokens = static_cast<int32_t*>(side.allocate(24));
    side.ops.sample(side.device(), {.out = out, .tokens = tokens, .logits = side.upload(logits), .vocabulary = n,
                                    .rows = 6, .row = side.upload(rows), .state = &state});
    std::vector<int32_t> all = side.download<int32_t>(tokens, 6);
    for (const SampledToken& token : side.download<SampledToken>(out, 6)) {
      all.push_back(token.token);
      all.push_back(token.rank);
      all.insert(all.end(), token.top_tokens, token.top_tokens + token.top_count);
    }
    return all;
  });
  EXPECT_EQ(got, expected);
}

TEST(Ops, CopyBlocks) {
  std::mt19937 random(10);
  const auto pages = bf16_normals(random, 4 * 2 * 2 * 16 * 64);
  expect_near(
      [&](Side& side) {
        const KvPages kv = {.data = side.upload(to_bf16(pages)), .format = Format::kBF16, .blocks = 4, .kv_heads = 2,
                            .block_tokens = 16, .head_dim = 64};
        side.ops.copy_blocks(side.device(), {.pages = kv, .pairs = side.upload<int32_t>({0, 3, 2, 1}), .count = 2});
        return from_bf16(side.download<uint16_t>(kv.data, static_cast<int64_t>(pages.size())));
      },
      0, "copy_blocks");
}

// A tiny model without products: the residual is the logits. Each step reads the token that the one before it stored.
class Chain {
 public:
  static constexpr int kRows = 5, kVocabulary = 512, kTokensMax = 40;

  explicit Chain(Side& side) : side_(side) {
    std::mt19937 random(11);
    table_ = side.weight(bf16_normals(random, kVocabulary * kVocabulary, 2), kVocabulary);
    norm_ = side.upload(bf16_normals(random, kVocabulary));
    std::vector<SlotSampling> how(kRows);
    for (int r = 0; r < kRows; ++r) {
      how[static_cast<size_t>(r)].temperature = r % 2 == 0 ? 0 : 1;
      how[static_cast<size_t>(r)].top_p = r == 3 ? 0.7f : 1;
      how[static_cast<size_t>(r)].seed = static_cast<uint64_t>(r);
    }
    how[2].repetition_penalty = 1.5f;
    state_ = {.slots = kRows, .tokens_max = kTokensMax, .tokens = side.upload(std::vector<int32_t>(200, 3)),
              .lengths = side.upload(std::vector<int32_t>(kRows, 1)), .sampling = side.upload(how)};
    begins_ = {0, 1, 2, 3, 4, 5};
    step_ = {.rows = kRows, .tokens = kRows, .decode_rows = kRows, .query_begin_host = begins_.data(),
             .query_begin = side.upload(begins_), .slots = side.upload<int32_t>({0, 1, 2, 3, 4})};
    for (int32_t** array : {&ids_, &positions_, &next_, &tokens_}) *array = side.upload(std::vector<int32_t>(kRows, 0));
    first_ = side.upload(std::vector<int32_t>(kRows, -1));
    rows_ = static_cast<SampleRow*>(side.allocate(kRows * sizeof(SampleRow)));
    sampled_ = static_cast<SampledToken*>(side.allocate(kRows * sizeof(SampledToken)));
    residual_ = side.tensor(Format::kF32, kRows, kVocabulary);
    normed_ = side.stream(kRows, kVocabulary);
  }

  // What a step has that the launches read on the device.
  void prepare(int step) {
    std::vector<SampleRow> rows;
    for (int32_t r = 0; r < kRows; ++r) rows.push_back({.slot = r, .position = step});
    side_.ops.copy_to_device(side_.device(), rows_, rows.data(), sizeof(SampleRow) * kRows);
    const std::vector<int32_t> next(kRows, step + 1);
    side_.ops.copy_to_device(side_.device(), next_, next.data(), 4 * kRows);
  }
  void launch() {
    const Ops& ops = side_.ops;
    ops.gather(side_.device(), {.token_ids = ids_, .positions = positions_, .step = step_, .first_position = first_,
                                .state = state_});
    ops.embed(side_.device(), {.out = residual_, .token_ids = ids_, .table = table_});
    ops.add_norm(side_.device(), {.out = normed_, .residual = residual_, .x = {}, .weight = norm_, .epsilon = 1e-5f});
    ops.add_norm(side_.device(), {.out = normed_, .residual = residual_, .x = normed_, .weight = norm_,
                                  .epsilon = 1e-5f});
    ops.sample(side_.device(), {.out = sampled_, .tokens = tokens_, .logits = static_cast<float*>(residual_.data),
                                .vocabulary = kVocabulary, .rows = kRows, .row = rows_, .state = &state_});
    ops.store_tokens(side_.device(), {.state = state_, .count = kRows, .slots = step_.slots, .positions = next_,
                                      .tokens = tokens_});
  }
  std::vector<int32_t> tokens() { return side_.download<int32_t>(state_.tokens, kRows * kTokensMax); }

 private:
  Side& side_;
  Tensor table_, residual_, normed_;
  const float* norm_;
  SlotState state_;
  StepView step_;
  std::vector<int32_t> begins_;
  int32_t *ids_, *positions_, *next_, *tokens_, *first_;
  SampleRow* rows_;
  SampledToken* sampled_;
};

TEST(Ops, RecordedStepsGiveWhatLaunchesGive) {
  std::vector<int32_t> launched, replayed, on_cpu;
  constexpr int kSteps = Chain::kTokensMax - 1;
  for (const bool record : {false, true}) {
    Side gpu(cuda_ops());
    Chain chain(gpu);
    for (int step = 0; step < kSteps; ++step) {
      chain.prepare(step);
      if (record && gpu.ops.replay(gpu.device(), 7)) continue;
      ASSERT_TRUE(!record || step == 0) << "recorded once";
      if (record) gpu.ops.record(gpu.device(), 7);
      chain.launch();
      ASSERT_TRUE(!record || gpu.ops.end_record(gpu.device()).ok());
    }
    (record ? replayed : launched) = chain.tokens();
  }
  EXPECT_EQ(launched, replayed);
  Side cpu(cpu_ops());
  Chain chain(cpu);
  for (int step = 0; step < kSteps; ++step) {
    chain.prepare(step);
    chain.launch();
  }
  on_cpu = chain.tokens();
  int different = 0;
  for (size_t i = 0; i < on_cpu.size(); ++i) different += on_cpu[i] != replayed[i];
  EXPECT_LE(different, 80) << "bf16 may tip a choice, and what follows it";
}

}  // namespace
}  // namespace skein::test
