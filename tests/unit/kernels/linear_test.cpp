#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/unit/kernels/fixture.h"

namespace skein::test {
namespace {

struct Shape {
  int64_t rows, columns, tokens;
};

std::vector<float> run_linear(Rank* rank, const Tensor& weight, const Tensor& x, const float* bias,
                              int64_t extra_stride = 0) {
  const int64_t stride = weight.rows + extra_stride;
  Owned out(Format::kF32, x.rows, stride);
  Tensor view = out.tensor;
  view.columns = weight.rows;
  cpu_ops().linear(rank->device(), {.out = view, .x = x, .weight = weight, .bias = bias});
  EXPECT_TRUE(out.memory.intact());
  std::vector<float> values;
  for (int64_t t = 0; t < x.rows; ++t) {
    const float* row = out.memory.as<float>() + t * stride;
    values.insert(values.end(), row, row + weight.rows);
    for (int64_t i = weight.rows; i < stride; ++i) {
      EXPECT_TRUE(std::isnan(row[i])) << "written beyond the row";
    }
  }
  return values;
}

Tensor rows_of(const Tensor& x, int64_t begin, int64_t count) {
  Tensor out = x;
  out.rows = count;
  if (x.format == Format::kF32) {
    out.data = static_cast<float*>(x.data) + begin * x.row_stride;
  } else {
    out.data = static_cast<int8_t*>(x.data) + begin * x.columns * 2;
    out.scales = static_cast<float*>(x.scales) + begin * (x.columns / 32) * 2;
  }
  return out;
}

std::string name_of(Format format) { return std::string(info(format).name); }

TEST(Linear, AgreesWithDoublePrecision) {
  Random random(1);
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa);
    for (Format format : kWeightFormats) {
      const bool blocks = info(format).block_elements > 1;
      for (int64_t rows : {1, 2, 7, 16, 17, 31, 48, 63, 65, 129}) {
        const int64_t columns = blocks ? 32 * random.below(1, 7) : random.below(1, 150);
        const int64_t tokens = random.below(1, 20);
        const Weight weight = random_weight(format, rows, columns, &random);
        Packed packed = pack(&rank, weight, format, random.below(1, 70));
        ASSERT_TRUE(packed.memory.intact());
        Owned x = activation(format, random.normals(tokens * columns), tokens, columns);
        const std::vector<float> bias = random.normals(rows);
        const bool biased = rows % 2 == 0;
        const auto out = run_linear(&rank, packed.tensor, x.tensor, biased ? bias.data() : nullptr, rows % 3);
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t r = 0; r < rows; ++r) {
            double sum = biased ? bias[static_cast<size_t>(r)] : 0;
            double magnitude = 1;
            for (int64_t k = 0; k < columns; ++k) {
              const double product = weight.at(r, k) * activation_at(x.tensor, t, k);
              sum += product;
              magnitude += std::fabs(product);
            }
            ASSERT_NEAR(out[static_cast<size_t>(t * rows + r)], sum, 2e-6 * magnitude)
                << isa << " " << name_of(format) << " " << rows << "x" << columns << " token " << t
                << " row " << r;
          }
        }
      }
    }
  }
}

TEST(Linear, IsBitwiseTheSameForEveryBatchThreadCountAndInstructionSet) {
  Random random(2);
  for (Format format : kWeightFormats) {
    const int64_t rows = 200;
    const int64_t columns = info(format).block_elements > 1 ? 288 : 301;
    const int64_t tokens = 141;
    const Weight weight = random_weight(format, rows, columns, &random);
    Owned x = activation(format, random.normals(tokens * columns), tokens, columns);
    std::vector<float> expected;
    for (const std::string& isa : instruction_sets()) {
      for (int threads : {1, 2, 3}) {
        Rank rank(isa, threads);
        Packed packed = pack(&rank, weight, format, 50);
        if (expected.empty()) expected = run_linear(&rank, packed.tensor, x.tensor, nullptr);
        for (int64_t batch : {1, 2, 3, 5, 8, 37, 64, 141}) {
          std::vector<float> out;
          for (int64_t t = 0; t < tokens; t += batch) {
            const Tensor part = rows_of(x.tensor, t, std::min(batch, tokens - t));
            const auto values = run_linear(&rank, packed.tensor, part, nullptr);
            out.insert(out.end(), values.begin(), values.end());
          }
          ASSERT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)), 0)
              << isa << " " << name_of(format) << " threads " << threads << " batch " << batch;
        }
      }
    }
  }
}

// Fewer panels than threads: the tokens are dealt out instead; few tokens with parts of the outputs.
TEST(Linear, SplitsTokensWhereThereAreFewOutputs) {
  Random random(3);
  Rank one("avx2", 1);
  Rank three("avx2", 3);
  for (const int64_t rows : {5, 75}) {
    const Weight weight = random_weight(Format::kF32, rows, 400, &random);
    Packed packed = pack(&one, weight, Format::kF32, rows);
    for (const int64_t tokens : {17, 40, 100}) {
      Owned x = activation(Format::kF32, random.normals(tokens * 400), tokens, 400);
      EXPECT_EQ(run_linear(&one, packed.tensor, x.tensor, nullptr),
                run_linear(&three, packed.tensor, x.tensor, nullptr))
          << rows << " outputs, " << tokens << " tokens";
    }
  }
}

// The largest integers: every weight and activation byte at its extreme, where narrow products would saturate.
TEST(Linear, DoesNotSaturate) {
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa);
    for (Format format : {Format::kQ8_0, Format::kQ4_0, Format::kQ4_1}) {
      for (uint8_t byte : {0x00, 0x80, 0x7f, 0xff}) {
        for (float sign : {1.0f, -1.0f}) {
          Random random(4);
          Weight weight = random_weight(format, 16, 64, &random);
          const int block_bytes = info(format).block_bytes;
          for (size_t i = 0; i < weight.bytes.size(); ++i) {
            const size_t in_block = i % static_cast<size_t>(block_bytes);
            weight.bytes[i] = byte;
            if (in_block < 4 && format == Format::kQ4_1) weight.bytes[i] = in_block % 2 == 1 ? 0x3c : 0;
            if (in_block < 2) weight.bytes[i] = in_block == 1 ? 0x3c : 0;  // d = 1
          }
          Packed packed = pack(&rank, weight, format, 16);
          for (int low : {0, 127, -128}) {
            Owned x = activation(format, std::vector<float>(64, sign * 127), 1, 64);  // the scale is 1 / 256
            auto* planes = static_cast<int8_t*>(x.tensor.data);
            for (int i = 0; i < 64; ++i) planes[i / 32 * 64 + 32 + i % 32] = static_cast<int8_t>(low);
            auto* scales = static_cast<float*>(x.tensor.scales);
            for (int b = 0; b < 2; ++b) scales[2 * b + 1] += static_cast<float>(32 * low) / 256;
            const auto out = run_linear(&rank, packed.tensor, x.tensor, nullptr);
            double sum = 0;
            for (int k = 0; k < 64; ++k) sum += weight.at(3, k) * (sign * 127 + low / 256.0);
            EXPECT_NEAR(out[3], sum, std::fabs(sum) * 1e-6 + 0.1)
                << isa << " " << name_of(format) << " byte " << int{byte} << " low " << low;
          }
        }
      }
    }
  }
}

TEST(Linear, ConvertsWhileItPacks) {
  Random random(5);
  Rank rank("avx2", 2);
  for (Format source : kWeightFormats) {
    for (Format format : {Format::kF32, Format::kF16, Format::kBF16}) {
      const Weight weight = random_weight(source, 35, 64, &random);
      Packed packed = pack(&rank, weight, format, 9);
      for (int64_t r = 0; r < 35; ++r) {
        for (int64_t k = 0; k < 64; ++k) {
          const double wanted = weight.at(r, k);
          const int64_t at = (r / 16 * 64 + k) * 16 + r % 16;
          double value = packed.memory.as<float>()[format == Format::kF32 ? at : 0];
          if (format == Format::kF16) value = half_to_double(packed.memory.as<uint16_t>()[at]);
          if (format == Format::kBF16) value = bf16_to_double(packed.memory.as<uint16_t>()[at]);
          const double bound = format == Format::kF32 ? 1e-7 : format == Format::kF16 ? 0.0005 : 0.004;
          ASSERT_NEAR(value, wanted, bound * std::fabs(wanted) + 1e-7)
              << name_of(source) << " to " << name_of(format);
          if (format == Format::kF16) {
            ASSERT_EQ(packed.memory.as<uint16_t>()[at], double_to_half(static_cast<float>(wanted)));
          }
        }
      }
    }
  }
}

// A quantised weight takes the file's bytes and no more, but for the last panel.
TEST(Linear, KeepsQuantisedWeightsSmall) {
  for (Format format : kWeightFormats) {
    EXPECT_EQ(cpu_ops().linear_bytes(format, 1536, 576), 1536 * row_bytes(format, 576)) << name_of(format);
  }
}

TEST(Linear, KeepsNaN) {
  for (const std::string& isa : instruction_sets()) {
    Rank rank(isa);
    Random random(6);
    for (Format format : {Format::kF32, Format::kQ8_0, Format::kQ4_1}) {
      const Weight weight = random_weight(format, 16, 64, &random);
      Packed packed = pack(&rank, weight, format, 16);
      std::vector<float> gate(64, 1.0f);
      std::vector<float> up(64, 1.0f);
      up[37] = NAN;
      gate.insert(gate.end(), up.begin(), up.end());
      Owned gate_up = f32_tensor(gate, 1, 128);
      Owned x(cpu_ops().activation_format(format), 1, 64);
      cpu_ops().silu_mul(rank.device(), {.out = x.tensor, .gate_up = gate_up.tensor});
      for (float value : run_linear(&rank, packed.tensor, x.tensor, nullptr)) {
        EXPECT_TRUE(std::isnan(value)) << isa << " " << name_of(format);
      }
    }
  }
}

}  // namespace
}  // namespace skein::test
