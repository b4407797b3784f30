#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/prefill_schedule.cuh"

// What the producer and the consumers of the prefill kernel share.

namespace skein::cuda {

constexpr int kWarpgroups = 2;  // of consumers: 64 rows of the tile each; warpgroup 0 of the block is the producer
constexpr int kThreads = 128 * (kWarpgroups + 1);
constexpr int kStages = 2;     // of queries, of keys and of values
constexpr int kTileSlots = 4;  // the producer is up to two items ahead, the consumers keep the one before
constexpr int kPanelBytes = 128;  // a row of a panel: 64 elements of head_dim

struct PrefillParams {
  PrefillBatch batch;
  __nv_bfloat16* out = nullptr;
  int64_t out_stride = 0;
  const int32_t* block_table = nullptr;
  int blocks_per_slot = 0;
  int block_tokens = 0;
  int page_shift = 0;  // a tile of keys is 1 << page_shift pages
  int kv_heads = 0;
  int group_size = 0;
  int group_offset = 0;
  float scale = 0;  // times log2(e)
  uint32_t* next_item = nullptr;
  uint32_t* arrivals = nullptr;  // (items, kWarpgroups) of a tile's first piece
  float* parts = nullptr;        // (items, kWarpgroups) of what store_part() keeps
};

template <int kDim>
struct alignas(1024) Shared {
  static constexpr int kPanels = kDim / 64;
  static constexpr int kQueryBytes = kPanels * 64 * kPanelBytes;       // of a warpgroup
  static constexpr int kKeyBytes = kPanels * kTileKeys * kPanelBytes;  // of a stage; V has the same

  uint8_t queries[kStages][kWarpgroups][kQueryBytes];
  uint8_t keys[kStages][kKeyBytes];
  uint8_t values[kStages][kKeyBytes];
  PrefillPlan plan;
  float sums[kWarpgroups * 128];  // written only
  float4 ended[kWarpgroups * 128];  // each thread's maxima and sums of the part that has ended
  int last_piece[kWarpgroups];
  PrefillTile tiles[kTileSlots];
  uint64_t query_full[kStages], query_empty[kStages];
  uint64_t key_full[kStages], key_empty[kStages];
  uint64_t value_full[kStages], value_empty[kStages];
};

// A ring of stages: which one is next and in which round.
struct Ring {
  uint32_t count = 0;
  __device__ __forceinline__ uint32_t stage() const { return count % kStages; }
  __device__ __forceinline__ uint32_t parity() const { return count / kStages % 2; }
  __device__ __forceinline__ void advance() { ++count; }
};

// Where row `at` of a tile goes.
template <int kDim>
__device__ __forceinline__ __nv_bfloat16* output_row(const PrefillParams& params, const PrefillTile& tile, int at) {
  const int shift = params.batch.pack_shift;
  const int head = (tile.head_pack << shift) + (at & ((1 << shift) - 1));
  return params.out + (tile.token + (at >> shift)) * params.out_stride + head * kDim;
}

}  // namespace skein::cuda
