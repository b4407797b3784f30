#pragma once

#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/largest_key.cuh"
#include "kernels/cuda/sample_noise.cuh"

// Greedy rows, and draws by noise of which nothing is reported: one pass over the logits. Warps read tiles of 1,024;
// their results come together in the cluster's first block, always in the same order. A greedy row's logits are on
// their way while the row before is finished.

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

// From the i-th on; -infinity behind the last.
__device__ __forceinline__ float4 four_logits(const float* row, int n, int i, bool aligned) {
  if (aligned && i + 4 <= n) return __ldcg(reinterpret_cast<const float4*>(row + i));
  return {i < n ? __ldcg(row + i) : -INFINITY, i + 1 < n ? __ldcg(row + i + 1) : -INFINITY,
          i + 2 < n ? __ldcg(row + i + 2) : -INFINITY, i + 3 < n ? __ldcg(row + i + 3) : -INFINITY};
}

// A warp's 1,024 logits in registers: lane's four at 4 * lane, and again every 128.
struct Tile {
  float at[kVectors][4];
};

__device__ __forceinline__ void load_tile(Tile& tile, const float* row, int n, int begin, bool aligned) {
  const int first = begin + static_cast<int>(threadIdx.x % 32 * 4);
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const float4 v = four_logits(row, n, first + j * 128, aligned);
    tile.at[j][0] = v.x, tile.at[j][1] = v.y, tile.at[j][2] = v.z, tile.at[j][3] = v.w;
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

// A lane's part of a row that is drawn: the largest with its noise, whose token, and a sum that is NaN if a logit is a
// NaN or +infinity. Straight from memory: the noise leaves no registers for what is to come.
__device__ __forceinline__ RowPart read_noisy_row(const float* row, int n, int begin, bool aligned, const Draw& draw) {
  constexpr int kStride = kClusterBlocks * kSampleWarps * kTileElements;
  RowPart part = nothing();
#pragma unroll 1
  for (int tile = begin; tile < n; tile += kStride) {
#pragma unroll 1
    for (int at = tile + static_cast<int>(threadIdx.x % 32 * 4); at < min(tile + kTileElements, n); at += 128) {
      const float4 x = four_logits(row, n, at, aligned);
      if (!(x.x < INFINITY && x.y < INFINITY && x.z < INFINITY && x.w < INFINITY)) part.sum = NAN;
      const float4 keys = with_noise(draw, at, x);
      const float most = fmaxf(fmaxf(keys.x, keys.y), fmaxf(keys.z, keys.w));
      if (!(most > part.max)) continue;
      part.max = most;
      part.token = at + (keys.x == most ? 0 : keys.y == most ? 1 : keys.z == most ? 2 : 3);
    }
  }
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

// By a warp: the rows that its threads have keys of, by thread; 0: none.
__device__ __forceinline__ void take_keys(const SampleJob& job, uint64_t key) {
  for (uint32_t left = __ballot_sync(~0u, key != 0); left != 0; left &= left - 1) {
    const int lane = __ffs(static_cast<int>(left)) - 1;
    const uint64_t of_row = __shfl_sync(~0u, key, lane);
    const float max = value_of_key(of_row);
    const bool valid = max < INFINITY && max > -INFINITY;
    write_result(job, static_cast<int>(threadIdx.x) / 32 * 32 + lane, valid ? token_of_key(of_row) : kInvalidLogits, 0,
                 0);
  }
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

// The cluster's share of greedy rows, or of drawn ones: every so-manieth of the list. `turn`: of `shared`, from call to
// call.
template <bool kDrawn>
__device__ __forceinline__ void work_in_one_pass(const SampleJob& job, const uint16_t* rows, int count,
                                                 GreedyShared& shared, int& turn) {
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
  const auto load_ahead = [&] {
    if constexpr (!kDrawn) {
      if (item < count) load_tile(tile, logits_of(item), n, begin, aligned(logits_of(item)));
    }
  };
  load_ahead();
  for (; item < count; turn ^= 1) {
    const float* row = logits_of(item);
    RowPart part;
    if constexpr (kDrawn) {
      const SampleRow& request = job.row[rows[item]];
      const Draw draw = draw_of(job.state.sampling[request.slot], known_tokens(request));
      part = merge_lanes<32>(read_noisy_row(row, n, begin, aligned(row), draw));
    } else {
      part = read_row(tile, row, n, begin, aligned(row));
    }
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
    load_ahead();
    cluster_wait();
    if (rank == 0 && warp == 0) finish_greedy(job, done, shared.blocks[turn]);
  }
}

}  // namespace skein::cuda
