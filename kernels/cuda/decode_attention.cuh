#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include "kernels/cuda/decode_plan.cuh"

// The decode kernel's parameters, and what its warps tell each other.

namespace skein::cuda::decode {

constexpr int kWarps = 4;  // consumers: warp w has the tokens [16 w, 16 w + 16) of each tile
constexpr int kConsumers = 32 * kWarps;
constexpr int kThreads = kConsumers + 32;
constexpr int kConsumerBarrier = 1;  // named barrier of the consumers

struct Parameters {
  CUtensorMap pages_map;  // (rows of all pages, head_dim) in boxes of 16 rows
  PlanInputs plan;
  bool clusters;  // the grid: (blocks of a row and KV head, kv_heads, rows); otherwise (shares)
  int blocks_per_multiprocessor;
  int pairs;  // of q heads of a KV head, of each group of eight, that partial results have room for
  __nv_bfloat16* out;
  int64_t out_stride;
  const __nv_bfloat16* q;
  int64_t q_stride;
  const int32_t* block_table;
  float4* partials;    // clusters: [row][kv_head][chunk]; otherwise [share][chunk]
  uint32_t* counters;  // [row][kv_head]: chunks that have arrived
  float scale;         // of scores, as powers of two
  int q_heads, group_size, group_offset;
  int page_heads;  // KV heads of the pages
  int block_tokens, blocks_per_slot;
  // With append:
  bool append;
  __nv_bfloat16* pages;
  const float* cos_sin;
  const float* q_norm;
  const float* k_norm;
  float epsilon;
  int rotary_half;

  // Neighbouring shares lie on one multiprocessor, so that few shares of work are spread over all of them.
  __device__ int share() const {
    const int multiprocessors = static_cast<int>(gridDim.x) / blocks_per_multiprocessor;
    const int block = static_cast<int>(blockIdx.x);
    return block % multiprocessors * blocks_per_multiprocessor + block / multiprocessors;
  }
  __device__ int first_head(int kv_head) const { return max(kv_head * group_size - group_offset, 0); }
  __device__ int head_count(int kv_head) const {
    return min((kv_head + 1) * group_size - group_offset, q_heads) - first_head(kv_head);
  }
};

// One tile's worth of work, written by the producer. A run is the block's part of a row and KV head.
struct alignas(16) Work {
  static constexpr int kRunStart = 1;  // first tile of the run
  static constexpr int kChunkEnd = 2;
  static constexpr int kRunEnd = 4;
  static constexpr int kLastChunk = 8;  // the run has the last chunk, and so the newest token
  static constexpr int kStop = 16;

  // Of the tile:
  int flags, first_token, chunk, unused;
  // Of the run, in its first tile's only:
  int row, kv_head, begin, tokens;  // keys [begin, tokens) are seen
  int chunks;                       // of the row and KV head
  int run_begin;                    // the run's first chunk
  int run_chunks;                   // clusters: chunks of every run but maybe the last
  int head_begin, chunk_cost;       // otherwise: on the line of chunks
  int share;

  // Whether the chunks meet in the shared memory of the cluster's first block.
  __device__ bool in_cluster(const Parameters& p) const { return p.clusters && chunks <= kClusterBlocks; }
};

// A multiprocessor has room for two blocks, or for one where two groups of eight q heads take all registers.
template <int kHeadDim, int kGroups>
constexpr int kBlocksPerMultiprocessor = kHeadDim * kGroups > 128 ? 1 : 2;

// Where a thread has its part of a result: [vector of the thread][thread / 4][pair of q heads], then [pair] for maxima
// and sums. All pairs of a group of eight heads in shared memory, just those there are elsewhere.
template <int kHeadDim>
struct Partial {
  static constexpr int kVectors = kHeadDim / 64;
  __host__ __device__ static constexpr int float4s(int pairs) { return (kVectors * kConsumers / 4 + 1) * pairs; }
  __device__ static int vector_at(int v, int thread, int pairs) {
    return (v * kConsumers / 4 + thread / 4) * pairs + thread % 4;
  }
  __device__ static int sums_at(int thread, int pairs) { return kVectors * kConsumers / 4 * pairs + thread % 4; }
};

template <int kHeadDim, int kGroups>
struct Ring {
  static constexpr int kBlockBytes = 16 * kHeadDim * 2;  // 16 tokens: [64 dimensions][token][128 B], swizzled
  static constexpr int kStageBytes = 2 * kWarps * kBlockBytes;  // four blocks of K, then of V
  static constexpr int kStages = (192 << 10) / kStageBytes / kBlocksPerMultiprocessor<kHeadDim, kGroups>;
  static constexpr int kReceivedBytes = (kClusterBlocks - 1) * kGroups * Partial<kHeadDim>::float4s(4) * 16;
  // The last stages are no stages where a cluster's first block receives the others' results there.
  static constexpr int kStagesBesidesReceived = kStages - (kReceivedBytes + kStageBytes - 1) / kStageBytes;
  static_assert(kStagesBesidesReceived >= 2);

  int stages = kStages;
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1;
  }
};

template <int kHeadDim, int kGroups>
struct Shared {
  using Stages = Ring<kHeadDim, kGroups>;
  static constexpr int kQueryPitch = kHeadDim + 8;

  alignas(1024) uint8_t ring[Stages::kStages * Stages::kStageBytes];
  union {
    PlannedRows rows;  // until the first tile is described
    float4 slices[kWarps * (kWarps - 1)][Partial<kHeadDim>::kVectors][32];  // [to, from][..][lane]
    __nv_bfloat16 queries[8 * kGroups * kQueryPitch];
  };
  Work work[Stages::kStages];
  alignas(16) __nv_bfloat16 new_key[kHeadDim];
  alignas(16) __nv_bfloat16 new_value[kHeadDim];
  float4 sums[kWarps][4 * kGroups];       // of heads 2 i and 2 i + 1: maximum, sum, maximum, sum
  uint64_t described[Stages::kStages];    // `work` is there
  uint64_t filled[Stages::kStages];       // keys and values are there
  uint64_t emptied[Stages::kStages];
  uint64_t received;                      // the results of the cluster's other blocks
  int last_block[Stages::kStages];  // the page of the tile's last token
  Shares shares;
  int arrived;
  bool others_arrived;  // all of them, when the run's last tile was waited for

  __device__ float4* received_at(int chunk, int group) {
    return reinterpret_cast<float4*>(ring + Stages::kStagesBesidesReceived * Stages::kStageBytes) +
           ((chunk - 1) * kGroups + group) * Partial<kHeadDim>::float4s(4);
  }
};

}  // namespace skein::cuda::decode
