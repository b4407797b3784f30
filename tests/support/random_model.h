#pragma once

#include <cstdint>
#include <string>

namespace skein::testing {

// A tiny model of any shape, for tests that compare one backend with another: tests/oracles has those that
// transformers knows.
struct RandomModel {
  int layers = 3;
  int hidden = 64;
  int q_heads = 4;
  int kv_heads = 2;
  int head_dim = 64;
  int intermediate = 96;
  int vocabulary = 320;
  int sliding_window = 0;  // 0: none
};

// Writes config.json and model.safetensors into a folder that is there. BF16 weights with which attention is peaked and
// the likeliest token has about a fifth of the probability.
void write_random_model(const std::string& folder, const RandomModel& model, uint32_t seed);

}  // namespace skein::testing
