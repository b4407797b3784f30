#pragma once

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/decode_attention.cuh"
#include "kernels/cuda/ptx.cuh"

// The products of a tile and how partial results are merged. Thread t of a consumer warp has, of any matrix with the
// q heads as columns, the heads 2 (t % 4) and + 1 of each group of eight, and the rows t / 4 and + 8 of each sixteen
// (tokens or dimensions).
//
// Scores are powers of two, and what is subtracted from them is their maximum rounded up to an integer. So bringing two
// results to a common maximum is exact, and sums come out the same whether they are rescaled step by step or at once.

namespace skein::cuda::decode {

constexpr float kNothing = -0x1p100f;  // the maximum of no scores: weighs nothing beside any other

__device__ __forceinline__ float max_over_rows(float x) {
#pragma unroll
  for (int distance = 4; distance < 32; distance *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffff, x, distance));
  return x;
}
__device__ __forceinline__ float sum_over_rows(float x) {
#pragma unroll
  for (int distance = 4; distance < 32; distance *= 2) x += __shfl_xor_sync(0xffffffff, x, distance);
  return x;
}

// The weight of a result with that maximum where the common one is `common`: both are integers, so it is exact (0 below
// 2^-126).
__device__ __forceinline__ float weight_of(float maximum, float common) { return exp2_fast(maximum - common); }

// --- A warp's part of a chunk ---

template <int kHeadDim, int kGroups>
struct WarpState {
  static constexpr int kTiles = kHeadDim / 16;
  float maximum[kGroups][2];
  float sum[kGroups][2];                 // this lane's rows only
  float out[kGroups][kTiles][4];

  __device__ void clear() {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        maximum[g][h] = kNothing;
        sum[g][h] = 0;
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[g][t][i] = 0;
      }
    }
  }
};

// Scores of 16 tokens, K Q^T, as powers of two; those of tokens outside of [begin, tokens) are
// -infinity.
template <int kHeadDim, int kGroups>
__device__ __forceinline__ void score(const uint8_t* keys, const uint32_t (&query)[kGroups][kHeadDim / 16][2],
                                      const Work& work, int first, float scale, float (&scores)[kGroups][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float parts[2][kGroups][4] = {};  // two chains of products
  const uint8_t* row = keys + (lane % 16) * 128;
  const int chunk = ((lane / 16) ^ (lane % 8)) * 16;
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    uint32_t a[4];
    load_matrix_x4(a, row + (step / 4) * 2048 + (chunk ^ (step % 4 * 32)));
#pragma unroll
    for (int g = 0; g < kGroups; ++g) mma_16x8x16(parts[step % 2][g], a, query[g][step][0], query[g][step][1]);
  }
  const int token = first + lane / 4;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = token + (i / 2) * 8;
      const float value = (parts[0][g][i] + parts[1][g][i]) * scale;
      scores[g][i] = at >= work.begin && at < work.tokens ? value : -INFINITY;
    }
  }
}

// out += V^T P^T; what is stored for tokens outside of [begin, tokens) may be anything.
template <int kHeadDim, int kGroups>
__device__ __forceinline__ void add_values(const uint8_t* values, const uint32_t (&weights)[kGroups][2],
                                           const Work& work, int first, float (&out)[kGroups][kHeadDim / 16][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t keep[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = first + 2 * (lane % 4) + 8 * i;
    keep[i] = (token >= work.begin && token < work.tokens ? 0xffffu : 0) |
              (token + 1 >= work.begin && token + 1 < work.tokens ? 0xffff0000u : 0);
  }
  const uint8_t* row = values + (lane % 8 + lane / 16 * 8) * 128;
  const int chunk = ((lane / 8 % 2) ^ (lane % 8)) * 16;
#pragma unroll
  for (int tile = 0; tile < kHeadDim / 16; ++tile) {
    uint32_t a[4];
    load_matrix_x4_transposed(a, row + (tile / 4) * 2048 + (chunk ^ (tile % 4 * 32)));
    a[0] &= keep[0];
    a[1] &= keep[0];
    a[2] &= keep[1];
    a[3] &= keep[1];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) mma_16x8x16(out[g][tile], a, weights[g][0], weights[g][1]);
  }
}

// 16 tokens from `first` on, at least one of which is seen.
template <int kHeadDim, int kGroups>
__device__ __forceinline__ void attend(const uint8_t* keys, const uint8_t* values,
                                       const uint32_t (&query)[kGroups][kHeadDim / 16][2], const Work& work, int first,
                                       float scale, WarpState<kHeadDim, kGroups>& state) {
  float scores[kGroups][4];
  score<kHeadDim, kGroups>(keys, query, work, first, scale, scores);
  float factor[kGroups][2];
  bool changed = false;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float highest = ceilf(max_over_rows(fmaxf(scores[g][h], scores[g][h + 2])));
      const float maximum = fmaxf(state.maximum[g][h], highest);
      changed |= maximum != state.maximum[g][h];
      factor[g][h] = weight_of(state.maximum[g][h], maximum);
      state.maximum[g][h] = maximum;
    }
  }
  if (__any_sync(0xffffffff, changed)) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        state.sum[g][h] *= factor[g][h];
#pragma unroll
        for (int t = 0; t < kHeadDim / 16; ++t) {
          state.out[g][t][h] *= factor[g][h];
          state.out[g][t][h + 2] *= factor[g][h];
        }
      }
    }
  }
  uint32_t weights[kGroups][2];
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      scores[g][i] = exp2_fast(scores[g][i] - state.maximum[g][i % 2]);
      state.sum[g][i % 2] += scores[g][i];
    }
    weights[g][0] = transposed(pack_bf16(scores[g][0], scores[g][1]));
    weights[g][1] = transposed(pack_bf16(scores[g][2], scores[g][3]));
  }
  add_values<kHeadDim, kGroups>(values, weights, work, first, state.out);
}

// --- A chunk's result, and those of chunks folded together ---

// Warp w has a quarter of the dimensions.
template <int kHeadDim, int kGroups>
struct Slice {
  static constexpr int kVectors = kHeadDim / 64;
  float maximum[kGroups][2];
  float sum[kGroups][2];
  float out[kGroups][kVectors][4];

  // No chunks: folding a result into it gives that result.
  __device__ void clear() {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        maximum[g][h] = kNothing;
        sum[g][h] = 0;
      }
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
#pragma unroll
        for (int i = 0; i < 4; ++i) out[g][v][i] = 0;
      }
    }
  }
};

// The same in a thread's part of one group of eight heads. Rounded the same way wherever it is compiled.
template <int kVectors>
__device__ __forceinline__ void add_result(float (&sum)[2], float (&out)[kVectors][4], const float4& sums,
                                           const float4 (&next)[kVectors], const float (&weight)[2]) {
  sum[0] = __fmaf_rn(sums.y, weight[0], sum[0]);
  sum[1] = __fmaf_rn(sums.w, weight[1], sum[1]);
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    out[v][0] = __fmaf_rn(next[v].x, weight[0], out[v][0]);
    out[v][1] = __fmaf_rn(next[v].y, weight[1], out[v][1]);
    out[v][2] = __fmaf_rn(next[v].z, weight[0], out[v][2]);
    out[v][3] = __fmaf_rn(next[v].w, weight[1], out[v][3]);
  }
}

// Folds some results into one, the first ones first. `sums`: of the two heads maximum, sum, maximum, sum.
template <int kCount, int kVectors>
__device__ __forceinline__ void fold(float (&maximum)[2], float (&sum)[2], float (&out)[kVectors][4],
                                     const float4 (&sums)[kCount], const float4 (&next)[kCount][kVectors]) {
  float common[2] = {maximum[0], maximum[1]};
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    common[0] = fmaxf(common[0], sums[i].x);
    common[1] = fmaxf(common[1], sums[i].z);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float weight = weight_of(maximum[h], common[h]);
    maximum[h] = common[h];
    sum[h] *= weight;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      out[v][h] *= weight;
      out[v][h + 2] *= weight;
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    add_result<kVectors>(sum, out, sums[i], next[i],
                         {weight_of(sums[i].x, common[0]), weight_of(sums[i].z, common[1])});
  }
}

// Folds the chunk's result into `folded`, from those of the warps. The barrier at the start lets everyone finish with
// what shared memory held.
template <int kHeadDim, int kGroups>
__device__ __forceinline__ void merge_warps(Shared<kHeadDim, kGroups>& shared,
                                            const WarpState<kHeadDim, kGroups>& state,
                                            Slice<kHeadDim, kGroups>& folded) {
  constexpr int kVectors = kHeadDim / 64;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const float4 own_sums = {state.maximum[g][0], sum_over_rows(state.sum[g][0]), state.maximum[g][1],
                             sum_over_rows(state.sum[g][1])};
    named_barrier_sync(kConsumerBarrier, kConsumers);
    if (lane < 4) shared.sums[warp][4 * g + lane] = own_sums;
    float4 own[kVectors];
#pragma unroll
    for (int to = 0; to < kWarps; ++to) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const float(&out)[4] = state.out[g][to * kVectors + v];
        const float4 vector = {out[0], out[1], out[2], out[3]};
        if (to == warp) {
          own[v] = vector;
        } else {
          shared.slices[to * (kWarps - 1) + warp - (warp > to)][v][lane] = vector;
        }
      }
    }
    named_barrier_sync(kConsumerBarrier, kConsumers);

    // The warps' results are added up before they meet earlier chunks.
    float4 sums[kWarps];
    float4 parts[kWarps][kVectors];
#pragma unroll
    for (int from = 0; from < kWarps; ++from) {
      sums[from] = shared.sums[from][4 * g + lane % 4];
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int slot = from == warp ? 0 : warp * (kWarps - 1) + from - (from > warp);
        parts[from][v] = from == warp ? own[v] : shared.slices[slot][v][lane];
      }
    }
    float maximum[2] = {kNothing, kNothing};
    float sum[2] = {};
    float out[kVectors][4] = {};
    fold<kWarps, kVectors>(maximum, sum, out, sums, parts);
    float4 vectors[1][kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) vectors[0][v] = {out[v][0], out[v][1], out[v][2], out[v][3]};
    fold<1, kVectors>(folded.maximum[g], folded.sum[g], folded.out[g], {{maximum[0], sum[0], maximum[1], sum[1]}},
                      vectors);
  }
}

}  // namespace skein::cuda::decode
