#pragma once

#include <cstdint>

namespace skein {

inline constexpr int kHeadDimMax = 256;
inline constexpr int kKeyGroup = 64;        // keys that share a softmax step, by absolute position
inline constexpr int kPairsMax = 128;       // (query, head) pairs of one pass over the keys
inline constexpr int kOutFloatsMax = 32768; // of a unit whose output is quantised afterwards

// Where the vectors of a group's keys lie in the pages; null: not a key of this pass.
struct GroupRows {
  const void* keys[kKeyGroup];
  const void* values[kKeyGroup];
};

// One thread's working memory for attention. "dim" is the head's, rounded up to 16. The arrays are used side
// by side: `skew` keeps their beginnings out of each other's cache sets.
struct alignas(64) AttentionScratch {
  float keys[kHeadDimMax * kKeyGroup];     // (dim, key), dimensions as key_row() orders them
  float skew1[112];
  float values[kKeyGroup * kHeadDimMax];   // (key, dim)
  float skew2[112];
  float queries[kPairsMax * kHeadDimMax];  // (pair, dim), scaled
  float skew3[112];
  float sums[kPairsMax * kHeadDimMax];     // (pair, dim), sum of p v
  float skew4[112];
  float scores[kPairsMax * kKeyGroup];     // (pair, key)
  float maxima[kPairsMax];
  float normalisers[kPairsMax * 16];       // (pair, key mod 16), sum of p
  uint64_t visible[kPairsMax];             // which keys of the group the pair sees
  GroupRows rows;
  GroupRows next_rows;                     // of the group after
  float out[kOutFloatsMax];
};

}  // namespace skein
