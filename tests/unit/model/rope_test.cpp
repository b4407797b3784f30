#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "model/description.h"

namespace skein {
namespace {

float cosine(const std::vector<float>& table, const RopeSpec& rope, int position, int pair) {
  return table[static_cast<size_t>(position * rope.rotary_dim + 2 * pair)];
}
float sine(const std::vector<float>& table, const RopeSpec& rope, int position, int pair) {
  return table[static_cast<size_t>(position * rope.rotary_dim + 2 * pair + 1)];
}

TEST(RopeTable, RotatesByPositionTimesFrequency) {
  const RopeSpec rope{.theta = 10000, .rotary_dim = 8};
  const auto table = rope_table(rope, 50);
  ASSERT_EQ(table.size(), 50u * 8u);
  constexpr double kFrequencies[] = {1, 0.1, 0.01, 0.001};
  for (int position = 0; position < 50; ++position) {
    for (int pair = 0; pair < 4; ++pair) {
      const double angle = position * kFrequencies[pair];
      EXPECT_NEAR(cosine(table, rope, position, pair), std::cos(angle), 4e-6);
      EXPECT_NEAR(sine(table, rope, position, pair), std::sin(angle), 4e-6);
    }
  }
}

TEST(RopeTable, LinearScalingDividesEveryFrequency) {
  const RopeSpec plain{.theta = 10000, .rotary_dim = 8};
  RopeSpec scaled = plain;
  scaled.scaling = RopeSpec::Scaling::kLinear;
  scaled.factor = 4;
  const auto a = rope_table(plain, 10);
  const auto b = rope_table(scaled, 40);
  for (int position = 0; position < 10; ++position) {
    for (int pair = 0; pair < 4; ++pair) {
      EXPECT_EQ(cosine(a, plain, position, pair), cosine(b, scaled, 4 * position, pair));
    }
  }
}

RopeSpec llama3() {
  return {.theta = 500000,
          .rotary_dim = 16,
          .scaling = RopeSpec::Scaling::kLlama3,
          .factor = 8,
          .low_freq_factor = 1,
          .high_freq_factor = 4,
          .original_context = 8192};
}

// cos and sin at position 1000 as transformers 5.23 computes them for that rope_parameters: pairs 0
// to 3 keep their frequency, pair 4 is blended, 5 to 7 are divided by 8.
TEST(RopeTable, Llama3ScalingIsThatOfTransformers) {
  constexpr std::array kCos = {0.5623790621757507f, 0.6554753184318542f, 0.9956709742546082f,
                               0.5323012471199036f, 0.8654010891914368f, 0.999412477016449f,
                               0.9999778866767883f, 0.9999991655349731f};
  constexpr std::array kSin = {0.8268795609474182f,   -0.7552165985107422f,  -0.09294797480106354f,
                               0.8465549945831299f,   0.5010797381401062f,   0.03427430987358093f,
                               0.006647820584475994f, 0.0012891727965325117f};
  const RopeSpec rope = llama3();
  const auto table = rope_table(rope, 1001);
  for (int pair = 0; pair < 8; ++pair) {
    EXPECT_NEAR(cosine(table, rope, 1000, pair), kCos[static_cast<size_t>(pair)], 1e-6) << pair;
    EXPECT_NEAR(sine(table, rope, 1000, pair), kSin[static_cast<size_t>(pair)], 1e-6) << pair;
  }
}

TEST(RopeTable, Llama3ScalingFollowsItsFormula) {
  const RopeSpec rope = llama3();
  const auto table = rope_table(rope, 2);
  int blended = 0;
  for (int pair = 0; pair < 8; ++pair) {
    const double plain = std::pow(500000.0, -pair / 8.0);
    const double turns = 8192 * plain / (2 * M_PI);  // in the original context
    double frequency = plain;
    if (turns < 1) {
      frequency = plain / 8;
    } else if (turns <= 4) {
      const double smooth = (turns - 1) / 3;
      frequency = (1 - smooth) * plain / 8 + smooth * plain;
      ++blended;
    }
    EXPECT_NEAR(sine(table, rope, 1, pair), std::sin(frequency), 1e-6 * frequency);
  }
  EXPECT_EQ(blended, 1);
}

TEST(RopeTable, DivisorsDivideTheirFrequency) {
  const RopeSpec plain{.theta = 100, .rotary_dim = 4};
  RopeSpec divided = plain;
  divided.frequency_divisors = {1, 8};
  const auto a = rope_table(plain, 3);
  const auto b = rope_table(divided, 17);
  EXPECT_EQ(sine(a, plain, 2, 0), sine(b, divided, 2, 0));
  EXPECT_EQ(sine(a, plain, 2, 1), sine(b, divided, 16, 1));
}

}  // namespace
}  // namespace skein
