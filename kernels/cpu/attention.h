#pragma once

#include "kernels/cpu/attention_scratch.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/pages.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/simd.h"

// Paged attention with an online softmax (Milakov and Gimelshein 2018; FlashAttention's forward pass).
// A query's result depends on its own keys alone: keys are taken in groups of 64 by absolute position;
// q k is summed over 16 dimension classes and then as a tree; p v is summed key by key. How many queries
// share a pass, and where the pages lie, change nothing.

namespace skein {
namespace {

constexpr int kScoreTile = kManyRegisters ? 4 : 2;  // pairs whose scores are made together
constexpr float kMinusInfinity = -__builtin_inff();

// Some queries of one row, and some q heads that share a KV head.
struct Pass {
  const AttentionArgs& args;
  int32_t slot;
  int64_t row_first_token;    // of the step
  int64_t row_first_position;
  int64_t row_last_position;
  Range queries;
  Range heads;
  int64_t kv_head;
  int padded_dim;             // head_dim rounded up to 16

  int64_t head_count() const { return heads.end - heads.begin; }
  int64_t pairs() const { return (queries.end - queries.begin) * head_count(); }
  int64_t query_of(int64_t pair) const { return queries.begin + pair / head_count(); }
  int64_t head_of(int64_t pair) const { return heads.begin + pair % head_count(); }
  int64_t position(int64_t query) const { return row_first_position + query - row_first_token; }
  int64_t first_key(int64_t query) const {
    const int64_t first = position(query) - args.window + 1;
    return args.window == 0 || first < 0 ? 0 : first;
  }
  int64_t last_key() const {
    return args.tree_mask != nullptr ? row_last_position : position(queries.end - 1);
  }
};

// Bits [begin, end) clipped to a word.
inline uint64_t bit_range(int64_t begin, int64_t end) {
  if (begin < 0) begin = 0;
  if (end > 64) end = 64;
  if (begin >= end) return 0;
  return (~uint64_t{0} >> (64 - (end - begin))) << begin;
}

// Which of the keys [base, base + 64) the query sees.
inline uint64_t visible_keys(const Pass& pass, int64_t query, int64_t base) {
  const int64_t first = pass.first_key(query) - base;
  if (pass.args.tree_mask == nullptr) return bit_range(first, pass.position(query) + 1 - base);
  const int64_t row_first = pass.row_first_position - base;  // where bit 0 of the mask belongs
  const uint64_t tree = pass.args.tree_mask[query];
  uint64_t own = 0;
  if (row_first >= 0 && row_first < 64) own = tree << row_first;
  if (row_first < 0 && row_first > -64) own = tree >> -row_first;
  own &= bit_range(first, pass.row_last_position + 1 - base);
  return bit_range(first, row_first) | own;
}

inline Vec load_page(Format format, const void* row, int i, int lanes) {
  if (format == Format::kF32) {
    const float* p = static_cast<const float*>(row) + i;
    return lanes == kLanes ? load(p) : load_n(p, lanes);
  }
  const auto* p = static_cast<const uint16_t*>(row) + i;
  uint16_t padded[kLanes] = {};
  if (lanes < kLanes) {
    __builtin_memcpy(padded, p, static_cast<size_t>(lanes) * sizeof(uint16_t));
    p = padded;
  }
  return format == Format::kF16 ? load_f16(p) : load_bf16(p);
}

// Keys [first, last] of the group at `base`, as f32: keys (dim, 64), values (64, dim); zero elsewhere in the
// sixteens that they touch.
inline void load_group(const Pass& pass, int64_t base, int64_t first, int64_t last,
                       AttentionScratch* scratch) {
  const KvPages& pages = pass.args.pages;
  for (int sixteen = 0; sixteen < kKeyGroup; sixteen += kLanes) {
    if (base + sixteen > last || base + sixteen + kLanes <= first) continue;
    const void* k[kLanes] = {};
    const void* v[kLanes] = {};
    for (int i = 0; i < kLanes; ++i) {
      const int64_t position = base + sixteen + i;
      if (position < first || position > last) continue;
      const PageAddress at = page_address(pages, pass.slot, position);
      k[i] = page_row(pages, at, pass.kv_head, 0);
      v[i] = page_row(pages, at, pass.kv_head, 1);
    }
    for (int d = 0; d < pass.padded_dim; d += kLanes) {
      const int lanes = lanes_at(d, pages.head_dim);
      Vec tile[16];
      for (int i = 0; i < kLanes; ++i) {
        tile[i] = k[i] == nullptr ? zero() : load_page(pages.format, k[i], d, lanes);
        const Vec value = v[i] == nullptr ? zero() : load_page(pages.format, v[i], d, lanes);
        store(scratch->values + (sixteen + i) * kHeadDimMax + d, value);
      }
      transpose(tile);
      for (int i = 0; i < kLanes; ++i) store(scratch->keys + (d + i) * kKeyGroup + sixteen, tile[i]);
    }
  }
}

// The part of q k of the dimensions congruent to `dim` modulo kStep, for kPairs queries and 16 keys. Adds
// classes 8 apart first, then 4, 2 and 1 apart: the order of reduce_add.
template <int kPairs, int kStep>
inline void class_scores(const float* keys, const float* queries, int padded_dim, int dim,
                         Vec (&out)[kPairs]) {
  if constexpr (kStep == kLanes) {
    const Vec first = load(keys + dim * kKeyGroup);
#pragma GCC unroll 4
    for (int n = 0; n < kPairs; ++n) out[n] = mul(set1(queries[n * kHeadDimMax + dim]), first);
    for (int d = dim + kLanes; d < padded_dim; d += kLanes) {
      const Vec k = load(keys + d * kKeyGroup);
#pragma GCC unroll 4
      for (int n = 0; n < kPairs; ++n) out[n] = fma(set1(queries[n * kHeadDimMax + d]), k, out[n]);
    }
  } else {
    class_scores<kPairs, 2 * kStep>(keys, queries, padded_dim, dim, out);
    Vec other[kPairs];
    class_scores<kPairs, 2 * kStep>(keys, queries, padded_dim, dim + kStep, other);
#pragma GCC unroll 4
    for (int n = 0; n < kPairs; ++n) out[n] = add(out[n], other[n]);
  }
}

template <int kPairs>
void score_tile(AttentionScratch* scratch, int64_t pair, int padded_dim, uint64_t visible) {
  for (int sixteen = 0; sixteen < kKeyGroup; sixteen += kLanes) {
    if ((visible >> sixteen & 0xffff) == 0) continue;
    Vec scores[kPairs];
    class_scores<kPairs, 1>(scratch->keys + sixteen, scratch->queries + pair * kHeadDimMax,
                            padded_dim, 0, scores);
#pragma GCC unroll 4
    for (int n = 0; n < kPairs; ++n) {
      store(scratch->scores + (pair + n) * kKeyGroup + sixteen, scores[n]);
    }
  }
}

// Turns one pair's scores into e^(score - maximum) and takes them into its normaliser; what was summed
// before is scaled to a new maximum.
inline void softmax_step(AttentionScratch* scratch, int64_t pair, int padded_dim, uint64_t visible) {
  float* scores = scratch->scores + pair * kKeyGroup;
  Vec highest = set1(kMinusInfinity);
  for (int i = 0; i < kKeyGroup; i += kLanes) {
    const auto bits = static_cast<uint32_t>(visible >> i & 0xffff);
    if (bits == 0) continue;
    highest = max(highest, select(lanes_from_bits(bits), load(scores + i), set1(kMinusInfinity)));
  }
  float* normaliser = scratch->normalisers + pair * kLanes;
  float maximum = scratch->maxima[pair];
  const float group_maximum = reduce_max(highest);
  if (group_maximum > maximum) {
    const Vec scale = exp(set1(maximum - group_maximum));
    float* sums = scratch->sums + pair * kHeadDimMax;
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

// sums += p v over keys [first, last) of the group, for kPairs pairs and kVecs vectors of dimensions.
template <int kPairs, int kVecs>
inline void value_tile(AttentionScratch* scratch, int64_t pair, int dim, int first, int last) {
  Vec sums[kPairs][kVecs];
  float* out = scratch->sums + pair * kHeadDimMax + dim;
#pragma GCC unroll 4
  for (int n = 0; n < kPairs; ++n) {
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) sums[n][j] = load(out + n * kHeadDimMax + j * kLanes);
  }
  const float* p = scratch->scores + pair * kKeyGroup;
  for (int key = first; key < last; ++key) {
    const float* values = scratch->values + key * kHeadDimMax + dim;
    Vec v[kVecs];
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) v[j] = load(values + j * kLanes);
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
    for (int j = 0; j < kVecs; ++j) store(out + n * kHeadDimMax + j * kLanes, sums[n][j]);
  }
}

template <int kPairs>
void add_values(AttentionScratch* scratch, int64_t pair, int padded_dim, uint64_t visible) {
  const int first = __builtin_ctzll(visible);
  const int last = 64 - __builtin_clzll(visible);
  constexpr int kVecs = kManyRegisters ? 4 : 2;
  int dim = 0;
  for (; dim + kVecs * kLanes <= padded_dim; dim += kVecs * kLanes) {
    value_tile<kPairs, kVecs>(scratch, pair, dim, first, last);
  }
  for (; dim < padded_dim; dim += kLanes) value_tile<kPairs, 1>(scratch, pair, dim, first, last);
}

// One group of keys for kPairs pairs.
template <int kPairs>
void attend_tile(const Pass& pass, int64_t base, int64_t pair, AttentionScratch* scratch) {
  uint64_t visible[kPairs];
  uint64_t any = 0;
  for (int n = 0; n < kPairs; ++n) {
    visible[n] = visible_keys(pass, pass.query_of(pair + n), base);
    any |= visible[n];
  }
  if (any == 0) return;
  score_tile<kPairs>(scratch, pair, pass.padded_dim, any);
  for (int n = 0; n < kPairs; ++n) softmax_step(scratch, pair + n, pass.padded_dim, visible[n]);
  add_values<kPairs>(scratch, pair, pass.padded_dim, any);
}

inline void start_pairs(const Pass& pass, AttentionScratch* scratch) {
  const int dim = pass.args.pages.head_dim;
  for (int64_t pair = 0; pair < pass.pairs(); ++pair) {
    const float* q = static_cast<const float*>(pass.args.q.data) +
                     pass.query_of(pair) * pass.args.q.row_stride + pass.head_of(pair) * dim;
    for (int d = 0; d < pass.padded_dim; d += kLanes) {
      const Vec scaled = mul(load_n(q + d, lanes_at(d, dim)), set1(pass.args.scale));
      store(scratch->queries + pair * kHeadDimMax + d, scaled);
      store(scratch->sums + pair * kHeadDimMax + d, zero());
    }
    scratch->maxima[pair] = kMinusInfinity;
    store(scratch->normalisers + pair * kLanes, zero());
  }
}

// Leaves e-weighted sums and normalisers of every pair in `scratch`.
inline void attend(const Pass& pass, AttentionScratch* scratch) {
  start_pairs(pass, scratch);
  const int64_t first = pass.first_key(pass.queries.begin);
  const int64_t last = pass.last_key();
  for (int64_t base = first / kKeyGroup * kKeyGroup; base <= last; base += kKeyGroup) {
    const int64_t group_first = first > base ? first : base;
    const int64_t group_last = last < base + kKeyGroup - 1 ? last : base + kKeyGroup - 1;
    load_group(pass, base, group_first, group_last, scratch);
    int64_t pair = 0;
    for (; pair + kScoreTile <= pass.pairs(); pair += kScoreTile) {
      attend_tile<kScoreTile>(pass, base, pair, scratch);
    }
    for (; pair < pass.pairs(); ++pair) attend_tile<1>(pass, base, pair, scratch);
  }
}

inline void store_pairs(const Pass& pass, const AttentionUnit& unit, AttentionScratch* scratch) {
  const int dim = pass.args.pages.head_dim;
  const bool staged = pass.args.out.format != Format::kF32 && dim % kBlock != 0;
  for (int64_t pair = 0; pair < pass.pairs(); ++pair) {
    const float* sums = scratch->sums + pair * kHeadDimMax;
    const Vec inverse = set1(1.0f / reduce_add(load(scratch->normalisers + pair * kLanes)));
    OutRow out = out_row(pass.args.out, pass.query_of(pair));
    if (staged) {
      const int64_t row = pass.query_of(pair) - unit.queries.begin;
      out = {scratch->out + row * pass.args.out.columns, nullptr, nullptr};
    }
    store_row(out, pass.head_of(pair) * dim, dim,
              [&](int64_t i) { return mul(load(sums + i), inverse); });
  }
}

// Blocks of 32 columns that span heads can only be quantised when all heads are there.
inline void quantise_staged(const AttentionArgs& args, const AttentionUnit& unit,
                            const AttentionScratch* scratch) {
  for (int64_t query = unit.queries.begin; query < unit.queries.end; ++query) {
    const float* row = scratch->out + (query - unit.queries.begin) * args.out.columns;
    store_row(out_row(args.out, query), 0, args.out.columns,
              [&](int64_t i) { return load(row + i); });
  }
}

void attention(const AttentionArgs& args, const AttentionUnit& unit, AttentionScratch* scratch) {
  const int64_t row_first = args.step.query_begin[unit.row];
  const int64_t row_end = args.step.query_begin[unit.row + 1];
  const int64_t first_position = args.step.positions[row_first];
  const int dim = args.pages.head_dim;
  for (int64_t head = unit.heads.begin; head < unit.heads.end;) {
    const int64_t kv_head = (head + args.group_offset) / args.group_size;
    int64_t head_end = (kv_head + 1) * args.group_size - args.group_offset;
    if (head_end > unit.heads.end) head_end = unit.heads.end;
    if (head_end > head + kPairsMax) head_end = head + kPairsMax;
    const int64_t queries = kPairsMax / (head_end - head);
    for (int64_t query = unit.queries.begin; query < unit.queries.end; query += queries) {
      const int64_t end = query + queries < unit.queries.end ? query + queries : unit.queries.end;
      const Pass pass = {args, args.step.slots[unit.row], row_first, first_position,
                         first_position + row_end - row_first - 1, {query, end}, {head, head_end},
                         kv_head, (dim + kLanes - 1) / kLanes * kLanes};
      attend(pass, scratch);
      store_pairs(pass, unit, scratch);
    }
    head = head_end;
  }
  if (args.out.format != Format::kF32 && dim % kBlock != 0) quantise_staged(args, unit, scratch);
}

}  // namespace
}  // namespace skein
