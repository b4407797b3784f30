#pragma once

#include "kernels/cpu/attention_scratch.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/pages.h"
#include "kernels/cpu/row_ops.h"
#include "kernels/cpu/simd.h"

// Paged attention with an online softmax (Milakov and Gimelshein 2018; FlashAttention's forward pass).
// A query's result depends on its own keys alone: keys are taken in groups of 64 by absolute position, and
// within a group as attention_tile.h says. How many queries share a pass, and where the pages lie, change
// nothing.

namespace skein {
namespace {

constexpr int kPairTile = kManyRegisters ? 4 : 2;  // pairs that read a value together

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

// kDim below: the padded dimension where it is one of the usual ones, so that the compiler unrolls; or 0.

// Notes which keys of the group each pair sees; returns those that any pair does.
inline uint64_t find_visible(const Pass& pass, int64_t base, AttentionScratch* scratch) {
  uint64_t any = 0;
  int64_t pair = 0;
  for (int64_t query = pass.queries.begin; query < pass.queries.end; ++query) {
    const uint64_t visible = visible_keys(pass, query, base);
    any |= visible;
    for (int64_t h = 0; h < pass.head_count(); ++h) scratch->visible[pair++] = visible;
  }
  return any;
}

template <int kPairs>
inline uint64_t any_visible(const AttentionScratch& scratch, int64_t pair) {
  uint64_t any = 0;
  for (int n = 0; n < kPairs; ++n) any |= scratch.visible[pair + n];
  return any;
}

template <int kPairs, int kDim>
inline void score_pairs(const Pass& pass, int64_t pair, AttentionScratch* scratch) {
  const int padded_dim = kDim != 0 ? kDim : pass.padded_dim;
  score_tile<kPairs>(scratch, pair, padded_dim, any_visible<kPairs>(*scratch, pair));
}

template <int kPairs, int kDim>
inline void value_pairs(const Pass& pass, int64_t pair, AttentionScratch* scratch) {
  const int padded_dim = kDim != 0 ? kDim : pass.padded_dim;
  const uint64_t any = any_visible<kPairs>(*scratch, pair);
  if (any == 0) return;
  const float* values = scratch->values;
  add_values<kPairs>(scratch, pair, padded_dim, any,
                     [&](int key, int d) { return load(values + key * padded_dim + d); });
}

// One group of keys for all pairs, from copies: first all scores, then all values, so that each copy has
// the first-level cache to itself.
template <int kDim>
inline void attend_copy(const Pass& pass, AttentionScratch* scratch) {
  const int padded_dim = kDim != 0 ? kDim : pass.padded_dim;
  const int64_t pairs = pass.pairs();
  copy_keys(pass.args.pages, padded_dim, scratch);
  int64_t pair = 0;
  for (; pair + 2 <= pairs; pair += 2) score_pairs<2, kDim>(pass, pair, scratch);
  for (; pair < pairs; ++pair) score_pairs<1, kDim>(pass, pair, scratch);
  for (pair = 0; pair < pairs; ++pair) {
    softmax_step(scratch, pair, padded_dim, scratch->visible[pair]);
  }
  copy_values(pass.args.pages, padded_dim, scratch);
  pair = 0;
  for (; pair + kPairTile <= pairs; pair += kPairTile) {
    value_pairs<kPairTile, kDim>(pass, pair, scratch);
  }
  for (; pair < pairs; ++pair) value_pairs<1, kDim>(pass, pair, scratch);
}

// One group of keys for all of a pass's few pairs, from the pages.
template <int kPairs, int kDim, Format kFormat>
inline void attend_direct(const Pass& pass, uint64_t any, AttentionScratch* scratch) {
  const int dim = kDim != 0 ? kDim : pass.padded_dim;
  score_direct<kPairs, kFormat>(scratch, 0, dim, any);
  for (int n = 0; n < kPairs; ++n) softmax_step(scratch, n, dim, scratch->visible[n]);
  const void* const* rows = scratch->rows.values;
  const void* const* next_keys = scratch->next_rows.keys;
  add_values<kPairs>(scratch, 0, dim, any, [&](int key, int d) {
    prefetch_element(kFormat, next_keys[key], d);
    return load_page(kFormat, rows[key], d);
  });
}

template <int kPairs, int kDim>
inline void attend_pages(const Pass& pass, uint64_t any, AttentionScratch* scratch) {
  switch (pass.args.pages.format) {
    case Format::kF16: return attend_direct<kPairs, kDim, Format::kF16>(pass, any, scratch);
    case Format::kBF16: return attend_direct<kPairs, kDim, Format::kBF16>(pass, any, scratch);
    default: return attend_direct<kPairs, kDim, Format::kF32>(pass, any, scratch);
  }
}

inline void start_pairs(const Pass& pass, AttentionScratch* scratch) {
  const int dim = pass.args.pages.head_dim;
  for (int64_t pair = 0; pair < pass.pairs(); ++pair) {
    const float* q = static_cast<const float*>(pass.args.q.data) +
                     pass.query_of(pair) * pass.args.q.row_stride + pass.head_of(pair) * dim;
    for (int d = 0; d < pass.padded_dim; d += kLanes) {
      const Vec scaled = mul(load_n(q + d, lanes_at(d, dim)), set1(pass.args.scale));
      store(scratch->queries + pair * pass.padded_dim + d, scaled);
      store(scratch->sums + pair * pass.padded_dim + d, zero());
    }
    scratch->maxima[pair] = -__builtin_inff();
    store(scratch->normalisers + pair * kLanes, zero());
  }
}

// Leaves the sums and normalisers of every pair in `scratch`.
template <int kDim>
inline void attend(const Pass& pass, AttentionScratch* scratch) {
  start_pairs(pass, scratch);
  const KvPages& pages = pass.args.pages;
  const int64_t first = pass.first_key(pass.queries.begin);
  const int64_t last = pass.last_key();
  const int64_t direct = pages.head_dim % kLanes == 0 ? pass.pairs() : 0;
  const auto find = [&](int64_t base, GroupRows* rows) {
    const int64_t group_last = last < base + kKeyGroup - 1 ? last : base + kKeyGroup - 1;
    find_rows(pages, pass.slot, pass.kv_head, base, first > base ? first : base, group_last, rows);
  };
  find(first / kKeyGroup * kKeyGroup, &scratch->next_rows);
  for (int64_t base = first / kKeyGroup * kKeyGroup; base <= last; base += kKeyGroup) {
    scratch->rows = scratch->next_rows;
    find(base + kKeyGroup, &scratch->next_rows);
    const uint64_t any = find_visible(pass, base, scratch);
    if (any == 0) continue;
    switch (direct) {
      case 1: attend_pages<1, kDim>(pass, any, scratch); break;
      case 2: attend_pages<2, kDim>(pass, any, scratch); break;
      case 3: attend_pages<3, kDim>(pass, any, scratch); break;
      case 4: attend_pages<4, kDim>(pass, any, scratch); break;
      default: attend_copy<kDim>(pass, scratch);
    }
  }
}

inline void store_pairs(const Pass& pass, const AttentionUnit& unit, AttentionScratch* scratch) {
  const int dim = pass.args.pages.head_dim;
  const bool staged = pass.args.out.format != Format::kF32 && dim % kBlock != 0;
  for (int64_t pair = 0; pair < pass.pairs(); ++pair) {
    const float* sums = scratch->sums + pair * pass.padded_dim;
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
      if (pass.padded_dim == 64) {
        attend<64>(pass, scratch);
      } else if (pass.padded_dim == 128) {
        attend<128>(pass, scratch);
      } else {
        attend<0>(pass, scratch);
      }
      store_pairs(pass, unit, scratch);
    }
    head = head_end;
  }
  if (args.out.format != Format::kF32 && dim % kBlock != 0) quantise_staged(args, unit, scratch);
}

}  // namespace
}  // namespace skein
