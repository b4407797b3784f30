#pragma once

#include <cstdint>

namespace skein {

inline constexpr int kHeadDimMax = 256;
inline constexpr int kKeyGroup = 64;        // keys that share a softmax step, by absolute position
inline constexpr int kPairsMax = 64;        // (query, head) pairs of one pass over the keys
inline constexpr int kOutFloatsMax = 32768; // of a unit whose output is quantised afterwards

// One thread's working memory for attention.
struct alignas(64) AttentionScratch {
  float keys[kHeadDimMax * kKeyGroup];    // (dim, key)
  float values[kKeyGroup * kHeadDimMax];  // (key, dim)
  float queries[kPairsMax * kHeadDimMax]; // scaled, padded with zeros to 16
  float sums[kPairsMax * kHeadDimMax];    // sum of p v
  float scores[kPairsMax * kKeyGroup];
  float maxima[kPairsMax];
  float normalisers[kPairsMax * 16];      // sum of p, by key position mod 16
  float out[kOutFloatsMax];
};

}  // namespace skein
