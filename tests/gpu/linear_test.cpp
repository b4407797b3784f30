#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "kernels/cuda/linear_choice.h"
#include "kernels/cuda/narrow_linear.h"
#include "kernels/cuda/tiled_linear.h"
#include "tests/gpu/fixture.h"

namespace skein::test {
namespace {

constexpr int kPadding = 24;  // columns that row strides have more than the matrix; keeps 16-byte alignment

// x, weight and bias of a product, on the GPU with padded rows, and x W^T + bias in float64.
struct Product {
  Product(int64_t tokens, int64_t outputs, int64_t inputs, uint32_t seed, int64_t padding = kPadding)
      : tokens(tokens), outputs(outputs), inputs(inputs), stride(inputs + padding), random(seed),
        x_host(bf16_normals(random, tokens * stride)),
        weight_host(bf16_normals(random, outputs * stride, 1.0f / std::sqrt(static_cast<float>(inputs)))),
        bias_host(bf16_normals(random, outputs)), x(upload(gpu(), to_bf16(x_host))),
        weight(upload(gpu(), to_bf16(weight_host))), bias(upload(gpu(), bias_host)) {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t o = 0; o < outputs; ++o) {
        double sum = 0;
        const float* a = &x_host[static_cast<size_t>(t * stride)];
        const float* b = &weight_host[static_cast<size_t>(o * stride)];
        for (int64_t i = 0; i < inputs; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
        expected.push_back(sum);
      }
    }
  }

  Tensor x_of(int64_t count) const {
    Tensor tensor = matrix(x.as(), Format::kBF16, count, inputs);
    tensor.row_stride = stride;
    return tensor;
  }
  Tensor weights() const {
    Tensor tensor = matrix(weight.as(), Format::kBF16, outputs, inputs);
    tensor.row_stride = stride;
    tensor.layout = Layout::kPacked;
    return tensor;
  }

  int64_t tokens, outputs, inputs, stride;
  std::mt19937 random;
  std::vector<float> x_host, weight_host, bias_host;
  GpuMemory x, weight, bias;
  std::vector<double> expected;  // (tokens, outputs), without bias
};

// An output with padded rows; values() also looks whether anything outside of the matrix was written.
struct Output {
  Output(Format format, int64_t tokens, int64_t columns)
      : format(format), tokens(tokens), columns(columns), stride(columns + 5),
        memory(gpu(), tokens * stride * (format == Format::kF32 ? 4 : 2)) {}
  Tensor tensor() const {
    Tensor out = matrix(memory.as(), format, tokens, columns);
    out.row_stride = stride;
    return out;
  }
  std::vector<float> values() const {
    const auto all = format == Format::kF32 ? download<float>(gpu(), memory.as(), tokens * stride)
                                            : from_bf16(download<uint16_t>(gpu(), memory.as(), tokens * stride));
    EXPECT_TRUE(memory.intact());
    std::vector<float> out;
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = &all[static_cast<size_t>(t * stride)];
      out.insert(out.end(), row, row + columns);
      for (int64_t i = columns; i < stride; ++i) EXPECT_TRUE(std::isnan(row[i])) << "padding of row " << t;
    }
    return out;
  }

  Format format;
  int64_t tokens, columns, stride;
  GpuMemory memory;
};

double tolerance(Format format) { return format == Format::kF32 ? 2e-5 : 3e-3; }

// The norm of the error, and each element's, which norms of many would hide.
void expect_close(const std::vector<float>& got, const std::vector<double>& expected, double tolerance,
                  const std::string& what) {
  EXPECT_LT(relative_error(got, expected), tolerance) << what;
  int shown = 0;
  for (size_t i = 0; i < got.size() && shown < 3; ++i) {
    const double limit = 4 * tolerance * (1 + std::abs(expected[i]));
    if (std::abs(static_cast<double>(got[i]) - expected[i]) <= limit) continue;
    ++shown;
    ADD_FAILURE() << what << ": element " << i << " is " << got[i] << ", not " << expected[i];
  }
}

std::vector<double> linear_expected(const Product& p, int64_t tokens, bool bias) {
  std::vector<double> out(p.expected.begin(), p.expected.begin() + tokens * p.outputs);
  for (size_t i = 0; bias && i < out.size(); ++i) {
    out[i] += static_cast<double>(p.bias_host[i % static_cast<size_t>(p.outputs)]);
  }
  return out;
}

std::vector<double> gated_expected(const Product& p, int64_t tokens, bool bias) {
  const std::vector<double> both = linear_expected(p, tokens, bias);
  const int64_t n = p.outputs / 2;
  std::vector<double> out;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < n; ++i) {
      const double gate = both[static_cast<size_t>(t * 2 * n + i)];
      out.push_back(gate / (1 + std::exp(-gate)) * both[static_cast<size_t>(t * 2 * n + n + i)]);
    }
  }
  return out;
}

// Zeros, to become keys of the rows' largest outputs.
GpuMemory no_keys(int64_t tokens) { return upload(gpu(), std::vector<uint64_t>(static_cast<size_t>(tokens))); }

void expect_keys(const GpuMemory& keys, const std::vector<float>& values, int64_t tokens, const std::string& what) {
  std::vector<uint64_t> expected(static_cast<size_t>(tokens));
  const size_t columns = values.size() / expected.size();
  for (size_t i = 0; i < values.size(); ++i) {
    uint64_t& key = expected[i / columns];
    key = std::max(key, largest_key(values[i], static_cast<int32_t>(i % columns)));
  }
  EXPECT_EQ(download<uint64_t>(gpu(), keys.as(), tokens), expected) << what;
  EXPECT_TRUE(keys.intact()) << what;
}

std::string name_of(const Product& p, int64_t tokens, Format format, bool bias) {
  std::ostringstream out;
  out << p.outputs << " x " << p.inputs << ", " << tokens << " tokens, " << info(format).name << (bias ? ", bias" : "");
  return out.str();
}

void check_linear(const Product& p, int64_t tokens, Format format, bool bias) {
  Output out(format, tokens, p.outputs);
  cuda::linear(gpu(), {.out = out.tensor(),
                       .x = p.x_of(tokens),
                       .weight = p.weights(),
                       .bias = bias ? p.bias.as<float>() : nullptr});
  expect_close(out.values(), linear_expected(p, tokens, bias), tolerance(format), name_of(p, tokens, format, bias));
}

void check_gated(const Product& p, int64_t tokens, bool bias) {
  Output out(Format::kBF16, tokens, p.outputs / 2);
  GpuMemory gate_up(gpu(), tokens * p.outputs * 2);
  cuda::gated_linear(gpu(), {.out = out.tensor(),
                             .gate_up = matrix(gate_up.as(), Format::kBF16, tokens, p.outputs),
                             .x = p.x_of(tokens),
                             .weight = p.weights(),
                             .bias = bias ? p.bias.as<float>() : nullptr});
  expect_close(out.values(), gated_expected(p, tokens, bias), 5e-3,  // gate and up may have been rounded to bf16
               "gated " + name_of(p, tokens, Format::kBF16, bias));
}

TEST(Linear, OddSizesAndTokens) {
  for (const auto& [outputs, inputs] : {std::pair{333, 48}, {96, 80}, {520, 1096}, {1000, 64}}) {
    const Product p(64, outputs, inputs, 1);
    for (const int64_t tokens : {1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64}) {
      check_linear(p, tokens, Format::kBF16, false);
      check_linear(p, tokens, Format::kF32, tokens % 2 == 1);
    }
  }
}

TEST(Linear, NoTokensAreNothing) {
  const Product p(1, 64, 64, 2);
  Output out(Format::kF32, 0, 64);
  cuda::linear(gpu(), {.out = out.tensor(), .x = p.x_of(0), .weight = p.weights()});
  out.values();
}

// A slice of a vocabulary: more rows than the blocks of one pass hold.
TEST(Linear, ManyOutputs) {
  const Product p(9, 128256, 128, 3);
  for (const int64_t tokens : {1, 9}) check_linear(p, tokens, Format::kF32, false);
  const Product slice(3, 42752, 64, 4);
  check_linear(slice, 3, Format::kF32, true);
}

TEST(Linear, LongSums) {
  const Product p(16, 256, 14336, 5);
  for (const int64_t tokens : {1, 16}) check_linear(p, tokens, Format::kF32, false);
}

// Of every output there are two, the first wins; a NaN or an infinity that the bias brings wins over all.
TEST(Linear, TellsTheLargest) {
  if (gpu().deterministic()) GTEST_SKIP() << "a deterministic device does not";
  for (const auto& [outputs, inputs] : {std::pair{333, 64}, {1001, 128}, {40003, 64}}) {
    Product p(17, outputs, inputs, 25);
    const int64_t half = outputs / 2;
    for (int64_t o = half; o < outputs; ++o) {
      std::copy_n(p.weight_host.begin() + (o - half) * p.stride, p.stride, p.weight_host.begin() + o * p.stride);
    }
    gpu().copy_to_device(p.weight.as(), to_bf16(p.weight_host).data(), p.weight.bytes());
    for (const float special : {0.0f, INFINITY, -NAN, -INFINITY}) {
      std::ranges::fill(p.bias_host, special == -INFINITY ? special : 0.5f);
      if (special != 0) p.bias_host[20] = p.bias_host[static_cast<size_t>(20 + half)] = special;
      gpu().copy_to_device(p.bias.as(), p.bias_host.data(), p.bias.bytes());
      for (const int64_t tokens : {1, 2, 5, 8, 9, 16, 17}) {
        const std::string what = name_of(p, tokens, Format::kF32, true) + " with " + std::to_string(special);
        Output out(Format::kF32, tokens, outputs);
        const GpuMemory keys = no_keys(tokens);
        cuda::linear(gpu(), {.out = out.tensor(), .x = p.x_of(tokens), .weight = p.weights(),
                             .bias = p.bias.as<float>(), .largest = keys.as<uint64_t>()});
        const auto got = download<uint64_t>(gpu(), keys.as(), tokens);
        if (tokens > 16) {
          EXPECT_EQ(got, std::vector<uint64_t>(17)) << what;
          continue;
        }
        expect_keys(keys, out.values(), tokens, what);
        for (const uint64_t key : got) EXPECT_LT(static_cast<uint32_t>(~key), half) << what;
      }
    }
  }
}

// Through cuBLASLt.
TEST(Linear, ManyTokens) {
  const Product p(300, 333, 200, 6);
  for (const int64_t tokens : {65, 128, 300}) {
    check_linear(p, tokens, Format::kBF16, tokens == 300);
    check_linear(p, tokens, Format::kF32, tokens == 65);
  }
}

TEST(Linear, RowsThatAreNotAligned) {
  const Product p(70, 50, 52, 7, 3);
  for (const int64_t tokens : {1, 5, 70}) check_linear(p, tokens, tokens == 5 ? Format::kF32 : Format::kBF16, true);
}

TEST(GatedLinear, OddSizesAndTokens) {
  for (const auto& [n, inputs] : {std::pair{80, 48}, {333, 64}, {1000, 328}}) {
    const Product p(64, 2 * n, inputs, 8);
    for (const int64_t tokens : {1, 8, 9, 16, 31, 33, 64}) check_gated(p, tokens, tokens % 2 == 1);
  }
}

TEST(GatedLinear, ManyTokensAndRowsThatAreNotAligned) {
  const Product p(130, 320, 96, 9);
  check_gated(p, 130, true);
  const Product odd(66, 100, 50, 10, 1);
  check_gated(odd, 4, false);
  check_gated(odd, 66, true);
}

cuda::NarrowPlan small_plan(int64_t rows, int tile_rows, int64_t tokens, int groups_max) {
  const int tiles = static_cast<int>((rows + tile_rows - 1) / tile_rows);
  const int share = tokens > 16 ? 2 : 1;
  const int groups = (tiles + share - 1) / share;
  return {.tile_rows = tile_rows,
          .tiles = tiles,
          .blocks = std::min(groups, groups_max) * share};
}

// Every height of a tile, not only those that are good for a shape; few blocks, several tiles for each.
TEST(NarrowLinear, EveryPlan) {
  const Product p(32, 520, 1088, 16);
  for (int tile_rows = 8; tile_rows <= 64; tile_rows += 8) {
    for (const int64_t tokens : {1, 3, 8, 9, 16, 17, 31, 32}) {
      for (const int groups_max : {1, 3, 100}) {
        const std::string what = std::to_string(tile_rows) + " rows, " + std::to_string(tokens) + " tokens, " +
                                 std::to_string(groups_max) + " clusters";
        Output out(Format::kF32, tokens, p.outputs);
        const GpuMemory keys = no_keys(tokens);
        cuda::narrow_linear(
            gpu(),
            {.out = out.tensor(), .x = p.x_of(tokens), .weight = p.weights(), .largest = keys.as<uint64_t>()},
            small_plan(520, tile_rows, tokens, groups_max));
        expect_close(out.values(), linear_expected(p, tokens, false), tolerance(Format::kF32), what);
        if (tokens <= 16) expect_keys(keys, out.values(), tokens, what);
      }
    }
  }
}

TEST(NarrowGatedLinear, EveryPlan) {
  const Product p(32, 2 * 260, 640, 17);
  for (int tile_rows = 8; tile_rows <= 32; tile_rows += 8) {
    for (const int64_t tokens : {1, 8, 13, 20, 32}) {
      Output out(Format::kBF16, tokens, p.outputs / 2);
      const GatedLinearArgs args = {.out = out.tensor(),
                                    .gate_up = out.tensor(),
                                    .x = p.x_of(tokens),
                                    .weight = p.weights(),
                                    .bias = p.bias.as<float>()};
      cuda::narrow_gated_linear(gpu(), args, small_plan(260, tile_rows, tokens, 2));
      expect_close(out.values(), gated_expected(p, tokens, true), tolerance(Format::kBF16),
                   std::to_string(tile_rows) + " pairs, " + std::to_string(tokens) + " tokens");
    }
  }
}

// Few clusters, several tiles for each.
cuda::TiledPlan small_tiles(const Product& p, int tokens, int tile_rows, int splits, int clusters_max) {
  const int row_tiles = static_cast<int>((p.outputs + tile_rows - 1) / tile_rows);
  return {.tokens = tokens,
          .warpgroups = (tile_rows + 63) / 64,
          .splits = splits,
          .tile_rows = tile_rows,
          .row_tiles = row_tiles,
          .token_tiles = 1,
          .blocks = std::min((row_tiles + 1) / 2, clusters_max) * 2 * splits};
}

// Every height of a tile; one to many tiles of a cluster; columns that fill no tile, blocks with unequal parts of them.
TEST(TiledLinear, EveryStreamingPlan) {
  for (const int64_t inputs : {328, 1096}) {
    const Product p(128, 1000, inputs, 19);
    const Product pairs(128, 2 * 504, inputs, 20);
    for (const int tile_tokens : {32, 64, 128}) {
      for (int tile_rows = 8; tile_rows <= (tile_tokens == 32 ? 64 : 128); tile_rows += 8) {
        for (const int splits : {1, 2}) {
          const int tokens = tile_tokens - tile_rows / 8 % 5 * (tile_rows / 8 % 3);
          const Format format = tile_rows / 8 % 2 == 0 ? Format::kBF16 : Format::kF32;
          const int clusters_max = tile_rows % 24 == 0 ? 100 : 3;
          const std::string what = std::to_string(tile_rows) + " rows, " + std::to_string(tile_tokens) +
                                   " tokens of a tile, " + std::to_string(splits) + " splits, ";
          Output out(format, tokens, p.outputs);
          cuda::tiled_linear(gpu(),
                             {.out = out.tensor(),
                              .x = p.x_of(tokens),
                              .weight = p.weights(),
                              .bias = p.bias.as<float>()},
                             small_tiles(p, tile_tokens, tile_rows, splits, clusters_max));
          expect_close(out.values(), linear_expected(p, tokens, true), tolerance(format),
                       what + name_of(p, tokens, format, true));
          if (tile_rows % 16 != 0) continue;
          Output gated(Format::kBF16, tokens, pairs.outputs / 2);
          cuda::tiled_gated_linear(gpu(),
                                   {.out = gated.tensor(),
                                    .gate_up = gated.tensor(),
                                    .x = pairs.x_of(tokens),
                                    .weight = pairs.weights(),
                                    .bias = tile_rows % 32 == 0 ? pairs.bias.as<float>() : nullptr},
                                   small_tiles(pairs, tile_tokens, tile_rows, splits, clusters_max));
          expect_close(gated.values(), gated_expected(pairs, tokens, tile_rows % 32 == 0), tolerance(Format::kBF16),
                       "gated, " + what + name_of(pairs, tokens, Format::kBF16, false));
        }
      }
    }
  }
}

// A token's row is bitwise the same however many tokens there are, and each time.
TEST(NarrowLinear, OrderDoesNotDependOnTokens) {
  for (const auto& [outputs, inputs] : {std::pair{4096, 4096}, {6144, 2048}, {1024, 14336}}) {
    std::mt19937 random(18);
    const GpuMemory x = upload(gpu(), to_bf16(bf16_normals(random, int64_t{32} * inputs)));
    const GpuMemory weight = upload(gpu(), to_bf16(bf16_normals(random, int64_t{outputs} * inputs, 0.02f)));
    const auto run = [&](int64_t tokens) {
      Output out(Format::kF32, tokens, outputs);
      cuda::narrow_linear(gpu(), {.out = out.tensor(),
                                  .x = matrix(x.as(), Format::kBF16, tokens, inputs),
                                  .weight = matrix(weight.as(), Format::kBF16, outputs, inputs)},
                          cuda::plan_narrow(outputs, tokens, false, gpu().multiprocessors()));
      return out.values();
    };
    const std::vector<float> all = run(32);
    EXPECT_EQ(run(32), all);
    for (const int64_t tokens : {1, 7, 8, 9, 16, 17}) {
      const std::vector<float> some = run(tokens);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin()))
          << outputs << " x " << inputs << ", " << tokens << " tokens";
    }
  }
}

// Launches overlap; each reads what the one before wrote. Replayed, a chain gives what it gives step by step.
TEST(Linear, ChainsOfOverlappingLaunches) {
  constexpr int64_t kWidth = 1024;
  constexpr int kLinks = 24;
  for (const int64_t tokens : {1, 5, 16, 30, 64, 100}) {
    std::mt19937 random(14);
    const GpuMemory weight = upload(gpu(), to_bf16(bf16_normals(random, kWidth * kWidth, 0.03f)));
    const GpuMemory start = upload(gpu(), to_bf16(bf16_normals(random, tokens * kWidth)));
    std::vector<GpuMemory> steps;
    for (int i = 0; i < 2; ++i) steps.emplace_back(gpu(), tokens * kWidth * 2);
    const auto link = [&](int i) {
      void* from = i == 0 ? start.as() : steps[static_cast<size_t>((i + 1) % 2)].as();
      const LinearArgs args = {.out = matrix(steps[static_cast<size_t>(i % 2)].as(), Format::kBF16, tokens, kWidth),
                               .x = matrix(from, Format::kBF16, tokens, kWidth),
                               .weight = matrix(weight.as(), Format::kBF16, kWidth, kWidth)};
      cuda::linear(gpu(), args);
    };
    for (int i = 0; i < kLinks; ++i) {
      link(i);
      ASSERT_TRUE(gpu().synchronize().ok());
    }
    const auto expected = download<uint16_t>(gpu(), steps[(kLinks - 1) % 2].as(), tokens * kWidth);
    const uint64_t key = 1000 + static_cast<uint64_t>(tokens);
    gpu().record(key);
    for (int i = 0; i < kLinks; ++i) link(i);
    ASSERT_TRUE(gpu().end_record().ok());
    for (int round = 0; round < 50; ++round) {
      for (GpuMemory& step : steps) step.poison();
      ASSERT_TRUE(gpu().replay(key));
      ASSERT_EQ(download<uint16_t>(gpu(), steps[(kLinks - 1) % 2].as(), tokens * kWidth), expected)
          << tokens << " tokens, round " << round;
    }
  }
}

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

Status tune(std::span<const PreparedProduct> products, const std::string& path) {
  return cuda_ops().prepare(gpu(), {.products = products.data(),
                                    .count = static_cast<int>(products.size()),
                                    .cache_path = path.c_str()});
}

TEST(LinearChoice, TunesOnceAndIgnoresWhatItCannotRead) {
  if (gpu().deterministic()) GTEST_SKIP() << "a deterministic device has one way";
  const std::string path = testing::TempDir() + "skein_linear_test_" + std::to_string(getpid());
  {
    std::ofstream file(path);
    file << "nonsense\n\n" << std::string(300, '\t') << "\nsome GPU\t1\t2\t3\t4\t5\tbf16\t1\t2\t3\t4\t5\t6\t7\t8\n";
  }
  const Product p(96, 256, 128, 15);
  Output out(Format::kBF16, 96, 256);
  const PreparedProduct product = {
      .linear = {.out = out.tensor(), .x = p.x_of(96), .weight = p.weights()}, .gated = {}};
  const PreparedProduct alike[] = {product, product};
  ASSERT_TRUE(tune(alike, path).ok());
  const std::string once = read_file(path);
  EXPECT_TRUE(once.starts_with("nonsense\n"));
  for (const std::string& line : {std::string("\t256\t128\t96\tbf16"), std::string("linear 1\t256\t128\t96\tbf16\t")}) {
    EXPECT_NE(once.find(line), std::string::npos) << once;
  }
  EXPECT_EQ(std::ranges::count(once, '\n'), 6);  // the algorithm and the way are new
  ASSERT_TRUE(tune({&product, 1}, path).ok());
  EXPECT_EQ(read_file(path), once);
  check_linear(p, 96, Format::kBF16, true);

  // A line cut off is timed again.
  std::ofstream(path) << once.substr(0, once.size() - 3);
  ASSERT_TRUE(tune({&product, 1}, path).ok());
  EXPECT_GT(read_file(path).size(), once.size());
  check_linear(p, 96, Format::kBF16, false);
  EXPECT_TRUE(tune({&product, 1}, path + "/below/a/file").ok()) << "nothing is kept, and the replica goes on";
  std::remove(path.c_str());
}

TEST(LinearChoice, EveryWayWhereItFits) {
  using enum cuda::LinearWay;
  const Product p(200, 2 * 336, 320, 22);
  const std::pair<int64_t, std::vector<cuda::LinearWay>> cases[] = {
      {1, {kVector, kNarrow, kInvariant, kStreaming, kSplit, kLibrary}},
      {17, {kNarrow, kInvariant, kStreaming, kSplit, kLibrary}},
      {40, {kInvariant, kStreaming, kSplit, kLibrary}},
      {128, {kInvariant, kStreaming, kSplit, kLibrary}},
      {200, {kInvariant, kLibrary}}};
  for (const auto& [tokens, ways] : cases) {
    GpuMemory gate_up(gpu(), tokens * p.outputs * 2);
    for (const cuda::LinearWay way : {kVector, kNarrow, kInvariant, kStreaming, kSplit, kLibrary}) {
      const std::string what = "way " + std::to_string(static_cast<int>(way)) + ", " + std::to_string(tokens) + " tokens";
      const bool fits = std::ranges::count(ways, way) != 0;
      ASSERT_EQ(cuda::linear_way_fits(way, p.x_of(tokens), p.weights(), false), fits) << what;
      ASSERT_EQ(cuda::linear_way_fits(way, p.x_of(tokens), p.weights(), true), fits) << what;
      if (!fits) continue;
      Output out(Format::kF32, tokens, p.outputs);
      cuda::run_linear(gpu(), way, {.out = out.tensor(), .x = p.x_of(tokens), .weight = p.weights()});
      expect_close(out.values(), linear_expected(p, tokens, false), tolerance(Format::kF32), what);
      Output gated(Format::kBF16, tokens, p.outputs / 2);
      cuda::run_gated_linear(gpu(), way, {.out = gated.tensor(),
                                          .gate_up = matrix(gate_up.as(), Format::kBF16, tokens, p.outputs),
                                          .x = p.x_of(tokens),
                                          .weight = p.weights(),
                                          .bias = p.bias.as<float>()});
      expect_close(gated.values(), gated_expected(p, tokens, true), 5e-3, "gated, " + what);
    }
  }
}

// What was found for the most tokens of a bucket serves the others, but rows that it cannot read.
TEST(LinearChoice, ServesWhatItCannotReadOtherwise) {
  const Product p(64, 2 * 336, 320, 23);
  const Product odd(64, 2 * 336, 320, 24, 3);
  Output out(Format::kBF16, 64, p.outputs);
  const PreparedProduct product = {
      .linear = {.out = out.tensor(), .x = p.x_of(64), .weight = p.weights()}, .gated = {}};
  ASSERT_TRUE(tune({&product, 1}, "").ok());
  for (const int64_t tokens : {49, 64}) {
    check_linear(p, tokens, Format::kBF16, true);
    check_linear(odd, tokens, Format::kBF16, true);
  }
}

}  // namespace
}  // namespace skein::test
