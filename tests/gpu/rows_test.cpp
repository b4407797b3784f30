#include <cmath>

#include "tests/gpu/fixture.h"

namespace skein::test {
namespace {

// A matrix on the device whose rows lie `stride` elements apart; what is between the rows stays 0xff.
struct Strided {
  Strided(Format format, int64_t rows, int64_t columns, int64_t stride)
      : memory(gpu(), rows * stride * info(format).block_bytes), tensor(matrix(memory.as(), format, rows, columns)) {
    tensor.row_stride = stride;
  }
  void fill(const std::vector<float>& values) {
    const auto bytes = static_cast<size_t>(info(tensor.format).block_bytes);
    std::vector<uint8_t> raw(static_cast<size_t>(memory.bytes()), 0xff);
    const std::vector<uint16_t> halves = to_bf16(values);
    for (int64_t i = 0; i < tensor.rows * tensor.columns; ++i) {
      const auto at = static_cast<size_t>(i / tensor.columns * tensor.row_stride + i % tensor.columns) * bytes;
      const auto from = static_cast<size_t>(i);
      std::memcpy(raw.data() + at, bytes == 2 ? static_cast<const void*>(&halves[from]) : &values[from], bytes);
    }
    gpu().copy_to_device(memory.as(), raw.data(), memory.bytes());
  }
  std::vector<float> read() const {
    const auto bytes = static_cast<size_t>(info(tensor.format).block_bytes);
    const auto raw = download<uint8_t>(gpu(), memory.as(), memory.bytes());
    std::vector<float> out;
    for (int64_t row = 0; row < tensor.rows; ++row) {
      for (int64_t i = 0; i < tensor.row_stride; ++i) {
        const size_t at = static_cast<size_t>(row * tensor.row_stride + i) * bytes;
        if (i >= tensor.columns) {
          for (size_t b = 0; b < bytes; ++b) EXPECT_EQ(raw[at + b], 0xff) << "between the rows";
          continue;
        }
        float value = 0;
        uint16_t half = 0;
        std::memcpy(bytes == 2 ? static_cast<void*>(&half) : &value, raw.data() + at, bytes);
        out.push_back(bytes == 2 ? bf16_to_f32(half) : value);
      }
    }
    EXPECT_TRUE(memory.intact());
    return out;
  }
  GpuMemory memory;
  Tensor tensor;
};

struct Shape {
  int64_t rows, columns, extra;  // extra: row_stride beyond columns
};

// Every size of block and both widths of access.
const Shape kShapes[] = {{1, 1, 0},    {3, 7, 0},     {2, 8, 0},     {5, 8, 8},      {1, 64, 0},   {3, 100, 3},
                         {2, 576, 0},  {1, 2048, 8},  {3, 4096, 0},  {2, 4100, 0},   {1, 8192, 0}, {2, 8200, 8},
                         {1, 16384, 0}, {2, 16383, 1}, {300, 256, 0}, {70000, 8, 0}};

TEST(Embed, GivesRowsOfTheSliceAndZeros) {
  std::mt19937 random(1);
  for (const Shape& shape : kShapes) {
    const int64_t vocabulary = 50;
    const int64_t first = 1000;
    const auto table = bf16_normals(random, vocabulary * shape.columns);
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < shape.rows; ++t) ids.push_back(static_cast<int32_t>(first - 2 + t % (vocabulary + 4)));
    if (shape.rows > 1) ids[1] = -1;
    const GpuMemory device_ids = upload(gpu(), ids);
    for (const bool packed : {false, true}) {
      Strided weights(Format::kBF16, vocabulary, shape.columns, shape.columns + (packed ? 0 : shape.extra));
      weights.fill(table);
      if (packed) {
        weights.tensor.layout = Layout::kPacked;
        weights.tensor.row_stride = 0;
      }
      Strided out(Format::kF32, shape.rows, shape.columns, shape.columns + shape.extra);
      cuda::embed(gpu(), {.out = out.tensor, .token_ids = device_ids.as<int32_t>(), .table = weights.tensor,
                          .first_token = first});
      const auto got = out.read();
      for (int64_t t = 0; t < shape.rows; ++t) {
        const int64_t row = ids[static_cast<size_t>(t)] - first;
        for (int64_t i = 0; i < shape.columns; ++i) {
          const bool here = row >= 0 && row < vocabulary;
          ASSERT_EQ(got[static_cast<size_t>(t * shape.columns + i)],
                    here ? table[static_cast<size_t>(row * shape.columns + i)] : 0.0f)
              << shape.rows << " x " << shape.columns << " at " << t << ", " << i;
        }
      }
    }
  }
}

TEST(AddNorm, MatchesDoublePrecision) {
  std::mt19937 random(2);
  for (const Shape& shape : kShapes) {
    const int64_t count = shape.rows * shape.columns;
    for (const bool has_x : {true, false}) {
      auto residual = bf16_normals(random, count, 3);
      for (float& value : residual) value += 1e-4f;
      const auto x = bf16_normals(random, count);
      const auto weight = bf16_normals(random, shape.columns);
      Strided device_residual(Format::kF32, shape.rows, shape.columns, shape.columns + shape.extra);
      Strided device_x(Format::kBF16, shape.rows, shape.columns, shape.columns + shape.extra);
      Strided out(Format::kBF16, shape.rows, shape.columns, shape.columns + shape.extra);
      device_residual.fill(residual);
      device_x.fill(x);
      const GpuMemory device_weight = upload(gpu(), weight);
      Tensor given = device_x.tensor;
      if (!has_x) given.data = nullptr;
      cuda::add_norm(gpu(), {.out = out.tensor, .residual = device_residual.tensor, .x = given,
                             .weight = device_weight.as<float>(), .epsilon = 1e-5f});
      std::vector<double> wanted;
      for (int64_t t = 0; t < shape.rows; ++t) {
        double squares = 0;
        for (int64_t i = t * shape.columns; i < (t + 1) * shape.columns; ++i) {
          if (has_x) residual[static_cast<size_t>(i)] += x[static_cast<size_t>(i)];
          squares += std::pow(static_cast<double>(residual[static_cast<size_t>(i)]), 2);
        }
        const double scale = 1 / std::sqrt(squares / static_cast<double>(shape.columns) + 1e-5);
        for (int64_t i = 0; i < shape.columns; ++i) {
          wanted.push_back(static_cast<double>(weight[static_cast<size_t>(i)]) * scale *
                           static_cast<double>(residual[static_cast<size_t>(t * shape.columns + i)]));
        }
      }
      EXPECT_EQ(device_residual.read(), residual) << shape.rows << " x " << shape.columns;
      EXPECT_LT(relative_error(out.read(), wanted), 3e-3) << shape.rows << " x " << shape.columns;
    }
  }
}

TEST(AddNorm, DependsOnItsOwnRowAlone) {
  std::mt19937 random(3);
  const int64_t columns = 4096;
  const auto residual = bf16_normals(random, 64 * columns);
  const auto weight = bf16_normals(random, columns);
  const GpuMemory device_weight = upload(gpu(), weight);
  std::vector<float> all;
  for (const int64_t rows : {64, 1}) {
    Strided values(Format::kF32, rows, columns, columns);
    Strided out(Format::kBF16, rows, columns, columns);
    values.fill({residual.end() - rows * columns, residual.end()});
    cuda::add_norm(gpu(), {.out = out.tensor, .residual = values.tensor, .x = {}, .weight = device_weight.as<float>(),
                           .epsilon = 1e-5f});
    const auto got = out.read();
    if (rows == 64) all.assign(got.end() - columns, got.end());
    EXPECT_EQ(std::vector<float>(got.end() - columns, got.end()), all);
  }
}

TEST(SiluMul, MatchesDoublePrecision) {
  std::mt19937 random(4);
  for (const Shape& shape : kShapes) {
    const int64_t n = shape.columns;
    auto gate_up = bf16_normals(random, shape.rows * 2 * n, 2);
    gate_up[0] = -100;  // e^100 overflows
    if (n > 2) gate_up[2] = 100;
    Strided input(Format::kBF16, shape.rows, 2 * n, 2 * n + shape.extra);
    Strided out(Format::kBF16, shape.rows, n, n + shape.extra);
    input.fill(gate_up);
    cuda::silu_mul(gpu(), {.out = out.tensor, .gate_up = input.tensor});
    std::vector<double> wanted;
    for (int64_t t = 0; t < shape.rows; ++t) {
      for (int64_t i = 0; i < n; ++i) {
        const double gate = gate_up[static_cast<size_t>(t * 2 * n + i)];
        const double up = gate_up[static_cast<size_t>(t * 2 * n + n + i)];
        wanted.push_back(gate / (1 + std::exp(-gate)) * up);
      }
    }
    const auto got = out.read();
    double worst = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      worst = std::max(worst, std::fabs(got[i] - wanted[i]) / (std::fabs(wanted[i]) + 1e-6));
    }
    EXPECT_LT(worst, 5e-3) << shape.rows << " x " << n;
  }
}

TEST(GatherRows, CopiesThemAsTheyAre) {
  std::mt19937 random(5);
  for (const Format format : {Format::kBF16, Format::kF32}) {
    for (const Shape& shape :
         {Shape{1, 1, 0}, Shape{5, 7, 2}, Shape{9, 4096, 0}, Shape{9, 576, 8}, Shape{3, 4095, 1}}) {
      const auto values = bf16_normals(random, shape.rows * shape.columns);
      Strided x(format, shape.rows, shape.columns, shape.columns + shape.extra);
      x.fill(values);
      std::vector<int32_t> rows;
      for (int i = 0; i < 20; ++i) rows.push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(shape.rows)));
      rows[3] = -1;
      const GpuMemory device_rows = upload(gpu(), rows);
      Strided out(format, 20, shape.columns, shape.columns + 2 * shape.extra);
      const GpuMemory zeroed(gpu(), 20 * 8);
      cuda::gather_rows(gpu(), {.out = out.tensor, .x = x.tensor, .rows = device_rows.as<int32_t>(), .count = 20,
                                .zeroed = zeroed.as<uint64_t>()});
      EXPECT_EQ(download<uint64_t>(gpu(), zeroed.as(), 20), std::vector<uint64_t>(20));
      EXPECT_TRUE(zeroed.intact());
      const auto got = out.read();
      for (size_t i = 0; i < got.size(); ++i) {
        const int64_t row = rows[i / static_cast<size_t>(shape.columns)];
        const int64_t column = static_cast<int64_t>(i) % shape.columns;
        ASSERT_EQ(got[i], row < 0 ? 0.0f : values[static_cast<size_t>(row * shape.columns + column)]) << i;
      }
    }
  }
}

// Slots with random tokens on host and device.
struct DeviceSlots {
  DeviceSlots(int slots, int tokens_max, std::mt19937& random)
      : tokens(static_cast<size_t>(slots * tokens_max)), lengths(static_cast<size_t>(slots)) {
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 100000);
    for (int32_t& length : lengths) length = static_cast<int32_t>(1 + random() % static_cast<uint32_t>(tokens_max));
    device_tokens = std::make_unique<GpuMemory>(upload(gpu(), tokens));
    device_lengths = std::make_unique<GpuMemory>(upload(gpu(), lengths));
    state = {.slots = slots, .tokens_max = tokens_max, .tokens = device_tokens->as<int32_t>(),
             .lengths = device_lengths->as<int32_t>()};
  }
  std::vector<int32_t> tokens, lengths;
  std::unique_ptr<GpuMemory> device_tokens, device_lengths;
  SlotState state;
};

TEST(Gather, ReadsTokensOfRowsOfAnyLength) {
  std::mt19937 random(6);
  DeviceSlots slots(7, 9000, random);
  slots.lengths[2] = 1;
  gpu().copy_to_device(slots.device_lengths->as(), slots.lengths.data(), 28);
  // Decodes, a padding row, chunks short and long.
  const std::vector<int32_t> row_slots = {2, 0, -1, 5, 3, 6, 1};
  const std::vector<int32_t> firsts = {-1, -1, -1, 17, 0, 0, 8999};
  const std::vector<int32_t> begins = {0, 1, 2, 3, 4, 133, 8633, 8634};
  const auto tokens = static_cast<int>(begins.back());
  const GpuMemory device_slots = upload(gpu(), row_slots), device_firsts = upload(gpu(), firsts),
                  device_begins = upload(gpu(), begins);
  GpuMemory ids(gpu(), tokens * 4), positions(gpu(), tokens * 4);
  cuda::gather(gpu(), {.token_ids = ids.as<int32_t>(),
                       .positions = positions.as<int32_t>(),
                       .step = {.rows = 7, .tokens = tokens, .query_begin = device_begins.as<int32_t>(),
                                .slots = device_slots.as<int32_t>()},
                       .first_position = device_firsts.as<int32_t>(),
                       .state = slots.state});
  const auto got_ids = download<int32_t>(gpu(), ids.as(), tokens);
  const auto got_positions = download<int32_t>(gpu(), positions.as(), tokens);
  EXPECT_TRUE(ids.intact() && positions.intact());
  for (size_t r = 0; r < row_slots.size(); ++r) {
    const int32_t slot = row_slots[r];
    int32_t position = slot < 0 ? -1 : firsts[r] < 0 ? slots.lengths[static_cast<size_t>(slot)] - 1 : firsts[r];
    for (int32_t t = begins[r]; t < begins[r + 1]; ++t, ++position) {
      ASSERT_EQ(got_positions[static_cast<size_t>(t)], position) << r;
      ASSERT_EQ(got_ids[static_cast<size_t>(t)],
                slot < 0 ? -1 : slots.tokens[static_cast<size_t>(slot * 9000 + position)]) << r;
    }
  }
}

TEST(StoreTokens, StoresAndGrows) {
  std::mt19937 random(7);
  DeviceSlots slots(300, 20, random);
  std::vector<int32_t> to, positions, tokens;
  for (int32_t slot = 299; slot >= 0; --slot) {
    to.push_back(slot % 7 == 0 ? -1 : slot);
    positions.push_back(static_cast<int32_t>(random() % 20));
    tokens.push_back(slot % 5 == 0 ? -1 - slot % 2 : slot + 7);
  }
  for (const int32_t position : {19, 18}) {  // two for one slot
    to.push_back(1);
    positions.push_back(position);
    tokens.push_back(42);
  }
  const GpuMemory device_to = upload(gpu(), to), device_positions = upload(gpu(), positions),
                  device_tokens = upload(gpu(), tokens);
  cuda::store_tokens(gpu(), {.state = slots.state, .count = 302, .slots = device_to.as<int32_t>(),
                             .positions = device_positions.as<int32_t>(), .tokens = device_tokens.as<int32_t>()});
  for (size_t i = 0; i < to.size(); ++i) {
    if (to[i] < 0 || tokens[i] < 0) continue;
    const auto slot = static_cast<size_t>(to[i]);
    slots.tokens[slot * 20 + static_cast<size_t>(positions[i])] = tokens[i];
    slots.lengths[slot] = std::max(slots.lengths[slot], positions[i] + 1);
  }
  EXPECT_EQ(download<int32_t>(gpu(), slots.state.tokens, 6000), slots.tokens);
  EXPECT_EQ(download<int32_t>(gpu(), slots.state.lengths, 300), slots.lengths);
}

TEST(CopyBlocks, CopiesPairs) {
  std::mt19937 random(8);
  for (const int block_tokens : {16, 64}) {
    const int blocks = 9, heads = 3, dim = 128;
    const int64_t block = int64_t{2} * heads * block_tokens * dim;
    std::vector<uint16_t> data(static_cast<size_t>(blocks * block));
    for (uint16_t& value : data) value = static_cast<uint16_t>(random());
    const GpuMemory pages = upload(gpu(), data);
    const std::vector<int32_t> pairs = {0, 8, 3, 2, 7, 1};
    const GpuMemory device_pairs = upload(gpu(), pairs);
    cuda::copy_blocks(gpu(), {.pages = {.data = pages.as(), .format = Format::kBF16, .blocks = blocks,
                                        .kv_heads = heads, .block_tokens = block_tokens, .head_dim = dim},
                              .pairs = device_pairs.as<int32_t>(), .count = 3});
    for (size_t p = 0; p < pairs.size(); p += 2) {
      std::copy_n(data.begin() + pairs[p] * block, block, data.begin() + pairs[p + 1] * block);
    }
    EXPECT_EQ(download<uint16_t>(gpu(), pages.as(), blocks * block), data);
    EXPECT_TRUE(pages.intact());
  }
}

}  // namespace
}  // namespace skein::test
