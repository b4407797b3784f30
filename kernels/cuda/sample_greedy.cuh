#pragma once

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/sample_row.cuh"

// Greedy rows: one pass over the logits. Warps read tiles of 1,024; their results come together in the cluster's first
// block, always in the same order. The next row's logits are on their way meanwhile.

namespace skein::cuda {

inline constexpr int kTileElements = 1024;
inline constexpr int kVectors = kTileElements / 128;  // of four logits, per lane and tile

// Of some logits: the largest, the sum of e^(logit - max), the first token that has it, how many have it.
struct RowPart {
  float max;
  float sum;
  int32_t token;
  int32_t count;
};

// e^(x - max), also where both are infinite.
__device__ __forceinline__ float rescaled(float x, float max) {
  return x == max ? 1.0f : exp2_fast((x - max) * kLog2E);
}

__device__ __forceinline__ RowPart merge(const RowPart& a, const RowPart& b) {
  RowPart out;
  out.max = fmaxf(a.max, b.max);
  out.sum = __fadd_rn(__fmul_rn(a.sum, rescaled(a.max, out.max)), __fmul_rn(b.sum, rescaled(b.max, out.max)));
  out.token = min(a.max == out.max ? a.token : INT32_MAX, b.max == out.max ? b.token : INT32_MAX);
  out.count = (a.max == out.max ? a.count : 0) + (b.max == out.max ? b.count : 0);
  return out;
}

// Over the first kLanes lanes.
template <int kLanes>
__device__ __forceinline__ RowPart merge_lanes(RowPart v) {
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) {
    v = merge(v, {__shfl_xor_sync(~0u, v.max, step), __shfl_xor_sync(~0u, v.sum, step),
                  __shfl_xor_sync(~0u, v.token, step), __shfl_xor_sync(~0u, v.count, step)});
  }
  return v;
}

__device__ __forceinline__ RowPart nothing() { return {-INFINITY, 0, INT32_MAX, 0}; }

// A warp's 1,024 logits in registers: lane's four at 4 * lane, and again every 128.
struct Tile {
  float at[kVectors][4];
};

__device__ __forceinline__ void load_tile(Tile& tile, const float* row, int n, int begin, bool aligned) {
  const int first = begin + static_cast<int>(threadIdx.x % 32 * 4);
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const int i = first + j * 128;
    if (aligned && i + 4 <= n) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(row + i));
      tile.at[j][0] = v.x, tile.at[j][1] = v.y, tile.at[j][2] = v.z, tile.at[j][3] = v.w;
    } else {
#pragma unroll
      for (int c = 0; c < 4; ++c) tile.at[j][c] = i + c < n ? __ldcg(row + i + c) : -INFINITY;
    }
  }
}

// All lanes get the result. A NaN makes the sum NaN.
__device__ __forceinline__ RowPart read_tile(const Tile& tile, int begin) {
  float max = -INFINITY;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    max = fmaxf(max, fmaxf(fmaxf(tile.at[j][0], tile.at[j][1]), fmaxf(tile.at[j][2], tile.at[j][3])));
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, step));

  // 2^(x log2 e - m), m being the rounded max log2 e: what rounding took is given back at the end.
  const float finite = fminf(fmaxf(max, -0x1p126f), 0x1p126f);
  const float shift = __fmul_rn(finite, kLog2E);
  const float lost = fmaf(finite, kLog2E, -shift);
  RowPart part = {max, 0, INT32_MAX, 0};
#pragma unroll
  for (int j = kVectors - 1; j >= 0; --j) {
    float sum = 0;
#pragma unroll
    for (int c = 3; c >= 0; --c) {
      sum += exp2_fast(fmaf(tile.at[j][c], kLog2E, -shift));
      const bool top = tile.at[j][c] == max;
      part.token = top ? j * 128 + c : part.token;
      part.count += top ? 1 : 0;
    }
    part.sum += sum;
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) part.sum += __shfl_xor_sync(~0u, part.sum, step);
  part.sum *= exp2_fast(-lost);
  const int first = begin + static_cast<int>(threadIdx.x % 32 * 4);
  part.token = part.count > 0 ? part.token + first : INT32_MAX;
  part.token = static_cast<int32_t>(__reduce_min_sync(~0u, static_cast<uint32_t>(part.token)));
  part.count = static_cast<int32_t>(__reduce_add_sync(~0u, static_cast<uint32_t>(part.count)));
  return part;
}

// By a warp.
__device__ __forceinline__ void write_result(const SampleJob& job, int r, int32_t token, float logprob, int32_t rank) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  int32_t* words = reinterpret_cast<int32_t*>(job.out + r);
  words[lane] = lane == 0 ? token : lane == 1 ? __float_as_int(logprob) : lane == 2 ? rank : 0;
  if (lane + 32 < kResultWords) words[lane + 32] = 0;
  if (lane == 0) job.tokens[r] = token;
}

struct GreedyShared {
  RowPart warps[2][kSampleWarps];   // in turns
  RowPart blocks[2][kClusterBlocks];  // block 0: written by all blocks
};

// The part of the cluster's row that this warp reads: tiles go round the blocks, so that a short row is spread, too.
__device__ __forceinline__ RowPart read_row(Tile& tile, const float* row, int n, int begin, bool aligned) {
  RowPart part = begin < n ? read_tile(tile, begin) : nothing();
  constexpr int kStride = kClusterBlocks * kSampleWarps * kTileElements;
  for (int next = begin + kStride; next < n; next += kStride) {
    load_tile(tile, row, n, next, aligned);
    part = merge(part, read_tile(tile, next));
  }
  return part;
}

// Block 0's first warp: the row's result.
__device__ __forceinline__ void finish_greedy(const SampleJob& job, int r, const RowPart (&blocks)[kClusterBlocks]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  RowPart row = merge_lanes<kClusterBlocks>(lane < kClusterBlocks ? blocks[lane] : nothing());
  row = {__shfl_sync(~0u, row.max, 0), __shfl_sync(~0u, row.sum, 0), __shfl_sync(~0u, row.token, 0),
         __shfl_sync(~0u, row.count, 0)};
  const bool valid = row.max < INFINITY && row.max > -INFINITY && row.sum == row.sum;
  const bool told = valid && reports(job.state.sampling[job.row[r].slot]);
  write_result(job, r, valid ? row.token : kInvalidLogits, told ? -logf(row.sum) : 0, told ? row.count : 0);
}

// The cluster's share of the greedy rows, every so-manieth of the list.
__device__ __forceinline__ void work_on_greedy_rows(const SampleJob& job, const uint16_t* rows, int count,
                                                    GreedyShared& shared) {
  const uint32_t rank = cluster_rank();
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int n = static_cast<int>(job.vocabulary);
  const int begin = (static_cast<int>(rank) + kClusterBlocks * warp) * kTileElements;
  const int clusters = static_cast<int>(gridDim.x / kClusterBlocks);
  int item = static_cast<int>(blockIdx.x / kClusterBlocks);
  Tile tile;
  const auto logits_of = [&](int item) { return job.logits + rows[item] * job.vocabulary; };
  const auto aligned = [](const float* row) { return reinterpret_cast<uintptr_t>(row) % 16 == 0; };
  if (item < count) load_tile(tile, logits_of(item), n, begin, aligned(logits_of(item)));
  for (int turn = 0; item < count; turn ^= 1) {
    const float* row = logits_of(item);
    RowPart part = read_row(tile, row, n, begin, aligned(row));
    if (lane == 0) shared.warps[turn][warp] = part;
    __syncthreads();
    if (warp == 0) {
      part = merge_lanes<kSampleWarps>(lane < kSampleWarps ? shared.warps[turn][lane] : nothing());
      if (lane == 0) {
        const uint32_t to = shared_address_of(&shared.blocks[turn][rank], 0);
        store_to(to, __float_as_uint(part.max));
        store_to(to + 4, __float_as_uint(part.sum));
        store_to(to + 8, static_cast<uint32_t>(part.token));
        store_to(to + 12, static_cast<uint32_t>(part.count));
      }
    }
    cluster_arrive();
    const int done = rows[item];
    item += clusters;
    if (item < count) load_tile(tile, logits_of(item), n, begin, aligned(logits_of(item)));
    cluster_wait();
    if (rank == 0 && warp == 0) finish_greedy(job, done, shared.blocks[turn]);
  }
}

}  // namespace skein::cuda
