#pragma once

#include <cmath>

#include "kernels/cuda/prefill_memory.cuh"
#include "kernels/cuda/wgmma.cuh"

// The consumers of the prefill kernel: two warpgroups with 64 rows of a tile each.

namespace skein::cuda {

// s (64 queries x 128 keys) = q k^T, K-major both.
template <int kDim>
__device__ __forceinline__ void multiply_keys(float (&s)[64], uint64_t q, uint64_t k) {
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    const uint32_t step = static_cast<uint32_t>(i % 4 * 32);
    const uint32_t panel = static_cast<uint32_t>(i / 4 * kPanelBytes);
    wgmma(s, q + ((panel * 64 + step) >> 4), k + ((panel * kTileKeys + step) >> 4), i > 0);
  }
}

// o (64 queries x kDim) += p v: p from registers, v MN-major.
template <int kDim>
__device__ __forceinline__ void multiply_values(float (&o)[kDim / 2], const uint32_t (&p)[32], uint64_t v) {
#pragma unroll
  for (int i = 0; i < kTileKeys / 16; ++i) {
    const uint32_t pairs[4] = {p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]};
    wgmma_registers<1>(o, pairs, v + static_cast<uint32_t>(i * 16 * kPanelBytes >> 4), true);
  }
}

constexpr float kGrowth = 8;  // probabilities may be up to 2^8

// Two parts of a row's keys under a common maximum, the later keys' weighted sum first: always in this order.
__device__ __forceinline__ float joined(float later, float later_weight, float earlier, float earlier_weight) {
  return __fmaf_rn(earlier, earlier_weight, __fmul_rn(later, later_weight));
}

// The running softmax of this thread's two rows, 8 apart: register i of s belongs to row i / 2 % 2.
struct Softmax {
  float top[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};  // of this thread's columns

  // Takes s in. `factor` is for what was summed before, the probabilities are exp2(scale s - offset).
  __device__ __forceinline__ void raise(const float (&s)[64], float scale, float (&factor)[2], float (&offset)[2]) {
    float best[4] = {top[0], top[1], s[4], s[6]};
#pragma unroll
    for (int i = 0; i < 64; ++i) best[i / 2 % 4] = fmaxf(best[i / 2 % 4], s[i]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = fmaxf(best[r], best[r + 2]);
      most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffff, most, 2));
      // A greater maximum is worth a rescaling of o only if the probabilities grow large otherwise.
      most = (most - top[r]) * scale > kGrowth ? most : top[r];
      factor[r] = most == top[r] ? 1.0f : exp2_fast((top[r] - most) * scale);
      offset[r] = most == -INFINITY ? 0.0f : most * scale;  // a row without keys so far
      top[r] = most;
      sum[r] *= factor[r];
    }
  }

  // Columns [kBegin, kEnd) of this thread's become probabilities.
  template <int kBegin, int kEnd>
  __device__ __forceinline__ void exponentiate(float (&s)[64], float scale, const float (&offset)[2]) {
#pragma unroll
    for (int i = kBegin; i < kEnd; ++i) {
      const int r = i / 2 % 2;
      s[i] = exp2_fast(fmaf(s[i], scale, -offset[r]));
      sum[r] += s[i];
    }
  }
};

// Columns of this thread's, relative to its first one, that a row may not see become -inf: those after high[r], and,
// if kWindow, those up to low[r].
template <bool kWindow>
__device__ __forceinline__ void mask(float (&s)[64], const int (&low)[2], const int (&high)[2]) {
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    const int column = i / 4 * 8 + i % 2;
    const int r = i / 2 % 2;
    if (column > high[r] || (kWindow && column <= low[r])) s[i] = -INFINITY;
  }
}

// Rows of 4-byte pairs to 16 bytes a lane: lane c of four gets the four pairs c from the lanes.
__device__ __forceinline__ void transpose_quad(uint32_t (&r)[4], int lane) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool odd = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      const uint32_t received = __shfl_xor_sync(0xffffffff, odd ? r[i] : r[i + step], step);
      (odd ? r[i] : r[i + step]) = received;
    }
  }
}

// Over the four threads that share a row.
__device__ __forceinline__ float sum_quad(float value) {
  value += __shfl_xor_sync(0xffffffff, value, 1);
  return value + __shfl_xor_sync(0xffffffff, value, 2);
}

template <int kDim, bool kFixedParts>
struct Consumer {
  using Memory = Shared<kDim>;
  Memory& shared;
  const PrefillParams& params;
  int warpgroup;
  int thread;  // of the warpgroup
  int row;     // of the tile: this thread's first, the other is 8 on
  int column;  // this thread's first in each 8
  uint64_t query_operand, key_operand, value_operand;
  Ring items;  // the next one's queries
  Ring keys;
  Ring values;

  static constexpr uint64_t kQueryStep = kWarpgroups * Memory::kQueryBytes >> 4;
  static constexpr uint64_t kStageStep = Memory::kKeyBytes >> 4;
  static constexpr int kPartVectors = kDim / 8 + 1;

  __device__ __forceinline__ void release(uint64_t* barrier) const {
    if (thread % 32 == 0) barrier_arrive(barrier);
  }
  // Values beyond the row's length: nothing was written there, or nothing loaded, and NaN times a probability of 0 is
  // NaN. Both warpgroups write the same zeros.
  __device__ __forceinline__ void clear_values(int first) const {
    barrier_wait(&shared.value_full[values.stage()], values.parity());
    const int chunks = (kTileKeys - first) * (kPanelBytes / 16);
    for (int panel = 0; panel < Memory::kPanels; ++panel) {
      auto* to = reinterpret_cast<uint4*>(shared.values[values.stage()] + (panel * kTileKeys + first) * kPanelBytes);
#pragma unroll 1
      for (int i = thread; i < chunks; i += 128) to[i] = uint4{0, 0, 0, 0};
    }
    fence_async_shared();
    named_barrier_sync(1 + warpgroup, 128);
  }

  __device__ __forceinline__ int position(const PrefillTile& tile, int r) const {
    return tile.position + ((row + 8 * r) >> params.batch.pack_shift);
  }

  // Tiles of keys [first, second) are seen whole by all of the warpgroup's rows.
  __device__ __forceinline__ int2 unmasked(const PrefillTile& tile) const {
    const int shift = params.batch.pack_shift;
    const int first = tile.position + (warpgroup * 64 >> shift);
    const int last = tile.position + ((warpgroup * 64 + 63) >> shift);
    const int window = params.batch.window;
    return {window > 0 ? (max(0, last - window + 1) + kTileKeys - 1) / kTileKeys : 0, (first + 1) / kTileKeys};
  }

  __device__ __forceinline__ void mask_tile(float (&s)[64], const PrefillTile& tile, int key_tile) const {
    const int window = params.batch.window;
    const int key = key_tile * kTileKeys;
    int low[2], high[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      high[r] = position(tile, r) - key - column;
      low[r] = high[r] - window;
    }
    if (window == 0) {
      mask<false>(s, low, high);
    } else {
      mask<true>(s, low, high);
    }
  }

  __device__ __forceinline__ void store(const float (&o)[kDim / 2], const float (&weight)[2],
                                        const PrefillTile& tile) const {
    const int shift = params.batch.pack_shift;
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int at = row + 8 * r;
      __nv_bfloat16* to = output_row<kDim>(params, tile, at) + lane % 4 * 8;
#pragma unroll
      for (int block = 0; block < kDim / 32; ++block) {
        uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at_register = (block * 4 + i) * 4 + 2 * r;
          pairs[i] = pack_bf16(o[at_register] * weight[r], o[at_register + 1] * weight[r]);
        }
        transpose_quad(pairs, lane);
        if (at >> shift < tile.queries) {
          *reinterpret_cast<uint4*>(to + block * 32) = uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
        }
      }
    }
  }

  // This thread's vectors of four floats, 128 of them apart: maxima and sums of its rows, then o.
  __device__ __forceinline__ float4* part(const PrefillTile& tile, int piece) const {
    const int64_t item = tile.first_part + piece * params.batch.head_packs;
    return reinterpret_cast<float4*>(params.parts) + (item * kWarpgroups + warpgroup) * kPartVectors * 128 +
           threadIdx.x % 128;
  }

  __device__ __forceinline__ void store_part(const float (&o)[kDim / 2], const float (&top)[2], const float (&sum)[2],
                                             const PrefillTile& tile) const {
    keep(part(tile, tile.piece), o, top, sum, lives(tile));
    __threadfence();
  }

  __device__ __forceinline__ bool last_of_pieces(const PrefillTile& tile) const {
    named_barrier_sync(1 + warpgroup, 128);
    if (threadIdx.x % 128 == 0) {
      uint32_t* arrivals = params.arrivals + tile.first_part * kWarpgroups + warpgroup;
      const bool last = atomicAdd(arrivals, 1) == static_cast<uint32_t>(tile.pieces) - 1;
      if (last) *arrivals = 0;
      __threadfence();
      shared.last_piece[warpgroup] = last ? 1 : 0;
    }
    named_barrier_sync(1 + warpgroup, 128);
    return shared.last_piece[warpgroup] != 0;
  }

  // What the maxima of two results are worth under the greater one, which `top` becomes.
  __device__ __forceinline__ void weigh(float (&top)[2], const float (&other)[2], float (&weight)[2],
                                        float (&other_weight)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float common = fmaxf(top[r], other[r]);
      weight[r] = exp2_fast((top[r] - common) * params.scale);
      other_weight[r] = exp2_fast((other[r] - common) * params.scale);
      top[r] = common;
    }
  }

  // Where a block keeps what the parts of its item come to while it goes on to earlier ones.
  __device__ __forceinline__ float4* aside() const {
    return reinterpret_cast<float4*>(params.parts) +
           (int64_t{blockIdx.x} * kWarpgroups + warpgroup) * kPartVectors * 128 + threadIdx.x % 128;
  }
  // Whether this warp's sixteen rows have queries: a decoded token leaves most of a tile without. Asked at every access
  // and not around them, for ptxas gives up on overlapping products where there are many branches.
  __device__ __forceinline__ bool lives(const PrefillTile& tile) const {
    return !kFixedParts || (row & ~15) >> params.batch.pack_shift < tile.queries;
  }
  __device__ __forceinline__ static void keep(float4* to, const float (&o)[kDim / 2], const float (&top)[2],
                                              const float (&sum)[2], bool live) {
    if (live) to[0] = float4{top[0], top[1], sum[0], sum[1]};
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      if (live) to[(i + 1) * 128] = float4{o[4 * i], o[4 * i + 1], o[4 * i + 2], o[4 * i + 3]};
    }
  }

  // The item's later parts, which were set aside, and this one.
  __device__ __forceinline__ void join_aside(float (&o)[kDim / 2], float (&top)[2], float (&sum)[2], bool live) const {
    const float4* from = aside();
    const float4 state = live ? from[0] : float4{};
    const float later_top[2] = {state.x, state.y};
    const float later_sum[2] = {state.z, state.w};
    float weight[2], later_weight[2];
    weigh(top, later_top, weight, later_weight);
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] = joined(later_sum[r], later_weight[r], sum[r], weight[r]);
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      const float4 v = live ? from[(i + 1) * 128] : float4{};
      const float later[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) o[4 * i + j] = joined(later[j], later_weight[j / 2], o[4 * i + j], weight[j / 2]);
    }
  }

  // A part is complete and earlier ones follow: `first` of the item or not.
  __device__ __forceinline__ void set_aside(float (&o)[kDim / 2], const PrefillTile& tile, bool first) const {
    const bool live = lives(tile);
    const float4 ended = shared.ended[warpgroup * 128 + thread];
    float top[2] = {ended.x, ended.y};
    float sum[2] = {sum_quad(ended.z), sum_quad(ended.w)};
    if (!first) join_aside(o, top, sum, live);
    keep(aside(), o, top, sum, live);
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) o[i] = 0;
  }

  // The same from the parts that blocks have stored, the last one first.
  __device__ __forceinline__ void join_fixed_parts(float (&o)[kDim / 2], float (&sum)[2],
                                                   const PrefillTile& tile) const {
    const bool live = lives(tile);
    const auto load = [live](const float4* from) { return live ? __ldcg(from) : float4{}; };
    const float4* last = part(tile, tile.pieces - 1);
    const float4 state = load(last);
    float top[2] = {state.x, state.y};
    sum[0] = state.z;
    sum[1] = state.w;
#pragma unroll
    for (int i = 0; i < kDim / 8; ++i) {
      const float4 v = load(last + (i + 1) * 128);
      o[4 * i] = v.x;
      o[4 * i + 1] = v.y;
      o[4 * i + 2] = v.z;
      o[4 * i + 3] = v.w;
    }
    for (int piece = tile.pieces - 2; piece >= 0; --piece) {
      const float4* from = part(tile, piece);
      const float4 next = load(from);
      const float next_top[2] = {next.x, next.y};
      const float next_sum[2] = {next.z, next.w};
      float weight[2], next_weight[2];
      weigh(top, next_top, weight, next_weight);
#pragma unroll
      for (int r = 0; r < 2; ++r) sum[r] = joined(sum[r], weight[r], next_sum[r], next_weight[r]);
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        const float4 v = load(from + (i + 1) * 128);
        const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          o[4 * i + j] = joined(o[4 * i + j], weight[j / 2], values[j], next_weight[j / 2]);
        }
      }
    }
  }

  // o and its sums from all parts, the first piece first.
  __device__ __forceinline__ void join_parts(float (&o)[kDim / 2], float (&sum)[2], const PrefillTile& tile) const {
    float top[2] = {-INFINITY, -INFINITY};
    for (int piece = 0; piece < tile.pieces; ++piece) {
      const float4 state = __ldcg(part(tile, piece));
      top[0] = fmaxf(top[0], state.x);
      top[1] = fmaxf(top[1], state.y);
    }
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) o[i] = 0;
    sum[0] = sum[1] = 0;
    for (int piece = 0; piece < tile.pieces; ++piece) {
      const float4* from = part(tile, piece);
      const float4 state = __ldcg(from);
      const float weight[2] = {exp2_fast((state.x - top[0]) * params.scale),
                               exp2_fast((state.y - top[1]) * params.scale)};
      sum[0] += weight[0] * state.z;
      sum[1] += weight[1] * state.w;
#pragma unroll
      for (int i = 0; i < kDim / 8; ++i) {
        const float4 v = __ldcg(from + (i + 1) * 128);
        o[4 * i] += weight[0] * v.x;
        o[4 * i + 1] += weight[0] * v.y;
        o[4 * i + 2] += weight[1] * v.z;
        o[4 * i + 3] += weight[1] * v.w;
      }
    }
  }

  __device__ __forceinline__ void finish(float (&o)[kDim / 2], const Softmax& softmax, const PrefillTile& tile) const {
    float sum[2] = {sum_quad(softmax.sum[0]), sum_quad(softmax.sum[1])};
    if (tile.pieces > 1) {
      store_part(o, softmax.top, sum, tile);
      if (!last_of_pieces(tile)) return;
      if constexpr (kFixedParts) {
        join_fixed_parts(o, sum, tile);
      } else {
        join_parts(o, sum, tile);
      }
    } else if constexpr (kFixedParts) {
      float top[2] = {softmax.top[0], softmax.top[1]};
      if (parts_of(tile) > 1) join_aside(o, top, sum, lives(tile));
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] = sum[r] > 0 ? 1 / sum[r] : 0;
    store(o, sum, tile);
  }

  // The item begun last (1) or the one before (2).
  __device__ __forceinline__ const PrefillTile& tile_before(uint32_t count) const {
    return shared.tiles[(items.count - count) % kTileSlots];
  }

  // Waits for the queries and the first keys of an item and begins with its S. After the last item S is of whatever is
  // there: ptxas overlaps only what every path through the loop has in flight.
  __device__ __forceinline__ void begin_item(float (&s)[64]) {
    const uint64_t query = query_operand + items.stage() * kQueryStep;
    barrier_wait(&shared.query_full[items.stage()], items.parity());
    items.advance();
    if (tile_before(1).token >= 0) barrier_wait(&shared.key_full[keys.stage()], keys.parity());
    wgmma_fence();
    multiply_keys<kDim>(s, query, key_operand + keys.stage() * kStageStep);
    wgmma_commit();
  }

  // After S of a tile of keys: frees the keys, and the queries if there are no more keys to come.
  __device__ __forceinline__ void take_scores(float (&s)[64], int key_tile, int key_begin, int2 whole) {
    release(&shared.key_empty[keys.stage()]);
    keys.advance();
    if (key_tile == key_begin) release(&shared.query_empty[(items.count - 1) % kStages]);
    if (key_tile < whole.x || key_tile >= whole.y) mask_tile(s, tile_before(1), key_tile);
  }

  // All items of the block, keys from the last tile down. Two products are under way at once: S of the next keys, and
  // O of these while S has its softmax; the other warpgroup fills what gaps there are. (Turns at the tensor cores, as
  // FlashAttention-3 has them, gained nothing here.)
  __device__ __forceinline__ void run() {
    float s[64], o[kDim / 2], factor[2], offset[2];
    uint32_t p[32];
#pragma unroll
    for (int i = 0; i < 64; ++i) s[i] = 0;
    begin_item(s);
    while (true) {
      wgmma_wait<0>();
      hold(s);
      if (tile_before(1).token < 0) return;
      // The last tile of keys: no row is without a key from here on but for those that only begin further down.
      int key_tile = tile_before(1).key_end - 1;
      const int key_begin = tile_before(1).key_begin;
      const int2 whole = unmasked(tile_before(1));
      const uint64_t query = query_operand + (items.count - 1) % kStages * kQueryStep;
      take_scores(s, key_tile, key_begin, whole);
      Softmax softmax;
      softmax.raise(s, params.scale, factor, offset);
      softmax.template exponentiate<0, 64>(s, params.scale, offset);
#pragma unroll
      for (int i = 0; i < 32; ++i) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
#pragma unroll
      for (int i = 0; i < kDim / 2; ++i) o[i] = 0;
      const int used = tile_before(1).length - key_tile * kTileKeys;
      if (used < kTileKeys) clear_values(used);

      while (--key_tile >= key_begin) {
        // Both products.
        barrier_wait(&shared.key_full[keys.stage()], keys.parity());
        wgmma_fence();
        multiply_keys<kDim>(s, query, key_operand + keys.stage() * kStageStep);
        wgmma_commit();
        barrier_wait(&shared.value_full[values.stage()], values.parity());
        wgmma_fence();
        multiply_values<kDim>(o, p, value_operand + values.stage() * kStageStep);
        wgmma_commit();

        // Softmax.
        wgmma_wait<1>();
        hold(s);
        take_scores(s, key_tile, key_begin, whole);
        const bool next_part = kFixedParts && (key_tile + 1) % kPartTiles == 0;
        if (next_part) {
          shared.ended[warpgroup * 128 + thread] = {softmax.top[0], softmax.top[1], softmax.sum[0], softmax.sum[1]};
          softmax = {};
        }
        softmax.raise(s, params.scale, factor, offset);
        softmax.template exponentiate<0, 32>(s, params.scale, offset);
        // O is complete about now. ptxas would wait for it before the exponentials; behind a store that needs them it
        // cannot.
        *const_cast<volatile float*>(&shared.sums[warpgroup * 128 + thread]) = softmax.sum[0] + softmax.sum[1];
        wgmma_wait<0>();
        hold(o);
        release(&shared.value_empty[values.stage()]);
        values.advance();
        softmax.template exponentiate<32, 64>(s, params.scale, offset);
        const auto pack = [&] {
#pragma unroll
          for (int i = 0; i < 32; ++i) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
        };
        if constexpr (kFixedParts) pack();  // setting a part aside takes registers
        if (next_part) {
          set_aside(o, tile_before(1), (key_tile + 1) / kPartTiles == (tile_before(1).key_end - 1) / kPartTiles);
        } else if (__any_sync(0xffffffff, factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
          for (int i = 0; i < kDim / 2; ++i) o[i] *= factor[i / 2 % 2];
        }
        if constexpr (!kFixedParts) pack();
      }

      // The last O, and S of the next item while O is stored.
      barrier_wait(&shared.value_full[values.stage()], values.parity());
      wgmma_fence();
      multiply_values<kDim>(o, p, value_operand + values.stage() * kStageStep);
      wgmma_commit();
      begin_item(s);
      wgmma_wait<1>();
      hold(o);
      release(&shared.value_empty[values.stage()]);
      values.advance();
      finish(o, softmax, tile_before(2));
    }
  }
};

template <int kDim, bool kFixedParts>
__device__ __forceinline__ void consume(Shared<kDim>& shared, const PrefillParams& params) {
  // Kept in a register: the compiler would read the special register over and over.
  const int thread = read_thread_index() % 128;
  const int warpgroup = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 128, 0) - 1;
  Consumer<kDim, kFixedParts> consumer{
      .shared = shared, .params = params, .warpgroup = warpgroup, .thread = thread,
      .row = warpgroup * 64 + thread / 32 * 16 + thread % 32 / 4, .column = thread % 4 * 2,
      .query_operand = k_major_operand(shared_address(shared.queries[0][warpgroup])),
      .key_operand = k_major_operand(shared_address(shared.keys)),
      .value_operand = mn_major_operand(shared_address(shared.values), kTileKeys * kPanelBytes),
      .items = {}, .keys = {}, .values = {}};
  consumer.run();
}

}  // namespace skein::cuda
