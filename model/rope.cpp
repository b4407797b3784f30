#include <cmath>
#include <numbers>

#include "base/check.h"
#include "model/description.h"

// transformers computes frequencies and angles in float32, one rounding per operation; so do we, in
// its order. The power, which every later digit hangs on, is evaluated in double and rounded once;
// sine and cosine differ from its vectorised ones by an ulp.

namespace skein {
namespace {

// Slow rotations are divided by the factor, fast ones kept, those between blended (Llama 3.1).
float scale_llama3(const RopeSpec& rope, float frequency) {
  const auto factor = static_cast<float>(rope.factor);
  const auto low = static_cast<float>(rope.low_freq_factor);
  const auto context = static_cast<float>(rope.original_context);
  const auto low_wavelength = static_cast<float>(rope.original_context / rope.low_freq_factor);
  const auto high_wavelength = static_cast<float>(rope.original_context / rope.high_freq_factor);
  const float wavelength = 1.0f / frequency * static_cast<float>(2 * std::numbers::pi);
  if (wavelength > low_wavelength) return frequency / factor;
  if (wavelength < high_wavelength) return frequency;
  const auto width = static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  const float smooth = (1.0f / wavelength * context - low) / width;
  return (1 - smooth) * frequency / factor + smooth * frequency;
}

float frequency_of(const RopeSpec& rope, int pair) {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(rope.rotary_dim);
  const auto base = static_cast<double>(static_cast<float>(rope.theta));
  float frequency = 1.0f / static_cast<float>(std::pow(base, static_cast<double>(exponent)));
  switch (rope.scaling) {
    case RopeSpec::Scaling::kNone: break;
    case RopeSpec::Scaling::kLinear: frequency /= static_cast<float>(rope.factor); break;
    case RopeSpec::Scaling::kLlama3: frequency = scale_llama3(rope, frequency); break;
  }
  if (!rope.frequency_divisors.empty()) {
    frequency /= rope.frequency_divisors[static_cast<size_t>(pair)];
  }
  return frequency;
}

}  // namespace

std::vector<float> rope_table(const RopeSpec& rope, int positions) {
  CHECK_GE(positions, 0);
  CHECK_EQ(rope.rotary_dim % 2, 0);
  std::vector<float> frequencies;
  for (int pair = 0; pair < rope.rotary_dim / 2; ++pair) {
    frequencies.push_back(frequency_of(rope, pair));
  }
  std::vector<float> table(static_cast<size_t>(positions) * frequencies.size() * 2);
  float* out = table.data();
  for (int position = 0; position < positions; ++position) {
    for (const float frequency : frequencies) {
      const float angle = static_cast<float>(position) * frequency;
      *out++ = std::cos(angle);
      *out++ = std::sin(angle);
    }
  }
  return table;
}

}  // namespace skein
