#pragma once

#include "kernels/cpu/attention_scratch.h"
#include "kernels/cpu/pages.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/simd.h"

// Products of queries with a group of 64 keys, and of their softmax with the values: two ways to the same
// bits. Many pairs share a copy of the group in f32, keys transposed; a few read the pages directly.
//   score = sum over 16 classes of dimensions (d mod 16), each a chain of rising d, then the classes as a
//   tree: 8 apart, 4, 2, 1 (reduce_add). sums += p v, key by key.

namespace skein {
namespace {

// The row of the transposed keys that holds dimension d: dimensions of one class lie together.
inline int key_row(int d, int padded_dim) { return d % kLanes * (padded_dim / kLanes) + d / kLanes; }

inline Vec load_page(Format format, const void* row, int i) {
  if (format == Format::kF32) return load(static_cast<const float*>(row) + i);
  const auto* p = static_cast<const uint16_t*>(row) + i;
  return format == Format::kF16 ? load_f16(p) : load_bf16(p);
}

inline Vec load_page_n(Format format, const void* row, int i, int lanes) {
  if (lanes == kLanes) return load_page(format, row, i);
  if (format == Format::kF32) return load_n(static_cast<const float*>(row) + i, lanes);
  uint16_t padded[kLanes] = {};
  __builtin_memcpy(padded, static_cast<const uint16_t*>(row) + i,
                   static_cast<size_t>(lanes) * sizeof(uint16_t));
  return load_page(format, padded, 0);
}

// Where keys [first, last] of the group at `base` lie.
inline void find_rows(const KvPages& pages, int32_t slot, int64_t kv_head, int64_t base, int64_t first,
                      int64_t last, GroupRows* rows) {
  const int64_t row_bytes = pages.head_dim * element_bytes(pages.format);
  for (int i = 0; i < kKeyGroup; ++i) rows->keys[i] = rows->values[i] = nullptr;
  for (int64_t position = first; position <= last;) {
    const PageAddress at = page_address(pages, slot, position);
    const auto* key = static_cast<const uint8_t*>(page_row(pages, at, kv_head, 0));
    const auto* value = static_cast<const uint8_t*>(page_row(pages, at, kv_head, 1));
    int64_t run = pages.block_tokens - at.token;
    for (; run > 0 && position <= last; --run, ++position, key += row_bytes, value += row_bytes) {
      rows->keys[position - base] = key;
      rows->values[position - base] = value;
    }
  }
}

// The line of the row's element i; nothing where there is no row.
[[gnu::always_inline]] inline void prefetch_element(Format format, const void* row, int i) {
  if (row != nullptr) prefetch(static_cast<const uint8_t*>(row) + i * element_bytes(format));
}

// Whether the pass has one of keys [first, first + 16) of the group.
inline bool has_keys(const AttentionScratch& scratch, int first) {
  for (int i = first; i < first + kLanes; ++i) {
    if (scratch.rows.keys[i] != nullptr) return true;
  }
  return false;
}

// The group's keys as f32, transposed; zeros for the others of the sixteens that they touch.
inline void copy_keys(const KvPages& pages, int padded_dim, AttentionScratch* scratch) {
  for (int first = 0; first < kKeyGroup; first += kLanes) {
    if (!has_keys(*scratch, first)) continue;
    for (int d = 0; d < padded_dim; d += kLanes) {
      const int lanes = lanes_at(d, pages.head_dim);
      Vec tile[16];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const void* row = scratch->rows.keys[first + i];
        tile[i] = row == nullptr ? zero() : load_page_n(pages.format, row, d, lanes);
      }
      transpose(tile);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        store(scratch->keys + key_row(d + i, padded_dim) * kKeyGroup + first, tile[i]);
      }
    }
  }
}

// The group's values as f32; rows that aren't the pass's stay what they were.
inline void copy_values(const KvPages& pages, int padded_dim, AttentionScratch* scratch) {
  for (int key = 0; key < kKeyGroup; ++key) {
    const void* row = scratch->rows.values[key];
    if (row == nullptr) continue;
    for (int d = 0; d < padded_dim; d += kLanes) {
      const Vec v = load_page_n(pages.format, row, d, lanes_at(d, pages.head_dim));
      store(scratch->values + key * padded_dim + d, v);
    }
  }
}

// Scores of kPairs queries with kKeys times 16 keys, as far as the dimensions congruent to `dim` modulo
// kStep go.
template <int kPairs, int kKeys, int kStep>
[[gnu::always_inline]] inline void class_scores(const float* keys, const float* queries, int padded_dim, int dim,
                         Vec (&out)[kPairs][kKeys]) {
  if constexpr (kStep == kLanes) {
    const float* row = keys + key_row(dim, padded_dim) * kKeyGroup;
    Vec k[kKeys];
#pragma GCC unroll 2
    for (int i = 0; i < kKeys; ++i) k[i] = load(row + i * kLanes);
#pragma GCC unroll 4
    for (int n = 0; n < kPairs; ++n) {
#pragma GCC unroll 2
      for (int i = 0; i < kKeys; ++i) out[n][i] = mul(set1(queries[n * padded_dim + dim]), k[i]);
    }
#pragma GCC unroll 8
    for (int d = dim + kLanes; d < padded_dim; d += kLanes) {
      row += kKeyGroup;
#pragma GCC unroll 2
      for (int i = 0; i < kKeys; ++i) k[i] = load(row + i * kLanes);
#pragma GCC unroll 4
      for (int n = 0; n < kPairs; ++n) {
        const Vec q = set1(queries[n * padded_dim + d]);
#pragma GCC unroll 2
        for (int i = 0; i < kKeys; ++i) out[n][i] = fma(q, k[i], out[n][i]);
      }
    }
  } else {
    class_scores<kPairs, kKeys, 2 * kStep>(keys, queries, padded_dim, dim, out);
    Vec other[kPairs][kKeys];
    class_scores<kPairs, kKeys, 2 * kStep>(keys, queries, padded_dim, dim + kStep, other);
#pragma GCC unroll 4
    for (int n = 0; n < kPairs; ++n) {
#pragma GCC unroll 2
      for (int i = 0; i < kKeys; ++i) out[n][i] = add(out[n][i], other[n][i]);
    }
  }
}

// Scores of pairs [pair, pair + kPairs) with the sixteens of keys that `visible` touches.
template <int kPairs>
[[gnu::always_inline]] inline void score_tile(AttentionScratch* scratch, int64_t pair, int padded_dim,
                                              uint64_t visible) {
  constexpr int kKeys = kManyRegisters ? 2 : 1;
  for (int first = 0; first < kKeyGroup; first += kKeys * kLanes) {
    const uint64_t bits = visible >> first & (kKeys == 2 ? 0xffffffff : 0xffff);
    if (bits == 0) continue;
    Vec scores[kPairs][kKeys];
    class_scores<kPairs, kKeys, 1>(scratch->keys + first, scratch->queries + pair * padded_dim,
                                   padded_dim, 0, scores);
#pragma GCC unroll 4
    for (int n = 0; n < kPairs; ++n) {
#pragma GCC unroll 2
      for (int k = 0; k < kKeys; ++k) {
        store(scratch->scores + (pair + n) * kKeyGroup + first + k * kLanes, scores[n][k]);
      }
    }
  }
}

// sums += p v over keys [first, last) of the group, for kPairs pairs and kVecs vectors of dimensions;
// row(key) is the key's vectors, load(row, j) one of them.
template <int kPairs, int kVecs, typename Load>
inline void value_tile(AttentionScratch* scratch, int64_t pair, int padded_dim, int dim, int first,
                       int last, const Load& load_value) {
  Vec sums[kPairs][kVecs];
  float* out = scratch->sums + pair * padded_dim + dim;
#pragma GCC unroll 4
  for (int n = 0; n < kPairs; ++n) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) sums[n][j] = load(out + n * padded_dim + j * kLanes);
  }
  const float* p = scratch->scores + pair * kKeyGroup;
  for (int key = first; key < last; ++key) {
    Vec v[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) v[j] = load_value(key, dim + j * kLanes);
#pragma GCC unroll 4
    for (int n = 0; n < kPairs; ++n) {
      const Vec weight = set1(p[n * kKeyGroup + key]);
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) sums[n][j] = fma(weight, v[j], sums[n][j]);
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < kPairs; ++n) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) store(out + n * padded_dim + j * kLanes, sums[n][j]);
  }
}

template <int kPairs, typename Load>
inline void add_values(AttentionScratch* scratch, int64_t pair, int padded_dim, uint64_t visible,
                       const Load& load_value) {
  const int first = __builtin_ctzll(visible);
  const int last = 64 - __builtin_clzll(visible);
  constexpr int kVecs = kManyRegisters ? 4 : 2;
  int dim = 0;
  for (; dim + kVecs * kLanes <= padded_dim; dim += kVecs * kLanes) {
    value_tile<kPairs, kVecs>(scratch, pair, padded_dim, dim, first, last, load_value);
  }
  for (; dim < padded_dim; dim += kLanes) {
    value_tile<kPairs, 1>(scratch, pair, padded_dim, dim, first, last, load_value);
  }
}

// As score_tile, from the pages; asks for the group's values meanwhile. Requires: the head's dimension is a
// multiple of 16.
template <int kPairs, Format kFormat>
inline void score_direct(AttentionScratch* scratch, int64_t pair, int dim, uint64_t visible) {
  const float* queries = scratch->queries + pair * dim;
  for (int first = 0; first < kKeyGroup; first += kLanes) {
    if ((visible >> first & 0xffff) == 0) continue;
    Vec sums[kPairs][16];
    for (int i = 0; i < kLanes; ++i) {
      for (int d = 0; d < dim; d += kLanes) {
        prefetch_element(kFormat, scratch->rows.values[first + i], d);
      }
      const void* row = scratch->rows.keys[first + i];
      if (row == nullptr) {
        for (int n = 0; n < kPairs; ++n) sums[n][i] = zero();
        continue;
      }
      Vec sum[kPairs];
      const Vec k0 = load_page(kFormat, row, 0);
#pragma GCC unroll 4
      for (int n = 0; n < kPairs; ++n) sum[n] = mul(load(queries + n * dim), k0);
      for (int d = kLanes; d < dim; d += kLanes) {
        const Vec k = load_page(kFormat, row, d);
#pragma GCC unroll 4
        for (int n = 0; n < kPairs; ++n) sum[n] = fma(load(queries + n * dim + d), k, sum[n]);
      }
#pragma GCC unroll 4
      for (int n = 0; n < kPairs; ++n) sums[n][i] = sum[n];
    }
#pragma GCC unroll 4
    for (int n = 0; n < kPairs; ++n) {
      store(scratch->scores + (pair + n) * kKeyGroup + first, reduce_add16(sums[n]));
    }
  }
}

// Turns one pair's scores into e^(score - maximum) and takes them into its normaliser; what was summed
// before is scaled to a new maximum. Does nothing for a pair that sees none of the keys but to clear its
// scores: others may.
inline void softmax_step(AttentionScratch* scratch, int64_t pair, int padded_dim, uint64_t visible) {
  float* scores = scratch->scores + pair * kKeyGroup;
  Vec highest = set1(-__builtin_inff());
  for (int i = 0; i < kKeyGroup; i += kLanes) {
    const auto bits = static_cast<uint32_t>(visible >> i & 0xffff);
    if (bits == 0) continue;
    highest = max(highest, select(lanes_from_bits(bits), load(scores + i), set1(-__builtin_inff())));
  }
  float* normaliser = scratch->normalisers + pair * kLanes;
  float maximum = scratch->maxima[pair];
  const float group_maximum = reduce_max(highest);
  if (group_maximum > maximum) {
    const Vec scale = exp(set1(maximum - group_maximum));
    float* sums = scratch->sums + pair * padded_dim;
    for (int d = 0; d < padded_dim; d += kLanes) store(sums + d, mul(load(sums + d), scale));
    store(normaliser, mul(load(normaliser), scale));
    maximum = group_maximum;
    scratch->maxima[pair] = maximum;
  }
  Vec total = load(normaliser);
  for (int i = 0; i < kKeyGroup; i += kLanes) {
    const auto bits = static_cast<uint32_t>(visible >> i & 0xffff);
    Vec p = zero();
    if (bits != 0) {
      p = select(lanes_from_bits(bits), exp(sub(load(scores + i), set1(maximum))), zero());
      total = add(total, p);
    }
    store(scores + i, p);
  }
  store(normaliser, total);
}

}  // namespace
}  // namespace skein
