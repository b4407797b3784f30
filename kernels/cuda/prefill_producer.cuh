#pragma once

#include <cuda.h>

#include "kernels/cuda/prefill_memory.cuh"
#include "kernels/cuda/ptx.cuh"

// The producer of the prefill kernel: one warp that finds the items and has their queries, keys and values copied.

namespace skein::cuda {

// By one warp: zeros for rows of padding.
template <int kDim>
__device__ __forceinline__ void clear_rows(const PrefillParams& params, const PrefillTile& tile, int lane) {
#pragma unroll 1
  for (int at = 0; at < tile.queries << params.batch.pack_shift; ++at) {
    if (lane < kDim / 8) {
      reinterpret_cast<uint4*>(output_row<kDim>(params, tile, at))[lane] = uint4{0, 0, 0, 0};
    }
  }
}

// What a lane copies of a tile of keys.
struct PageCopy {
  int slice = -1;      // of its page: K's number, V's is the next one; -1: none
  uint32_t bytes = 0;  // that all lanes copy
};

// Copies of one item's pages: of each tile of keys, this lane copies panel lane % kPanels of page lane / kPanels.
template <int kDim>
struct PageReader {
  static constexpr int kPanels = Shared<kDim>::kPanels;
  const PrefillParams& params;
  const CUtensorMap* pages;
  int lane;
  int offset;  // of this lane's copy in a stage
  int slot = 0;
  int kv_head = 0;
  int pages_valid = 0;
  int window_begin = 0;  // page of lane 0's entry
  int entry = 0;         // block_table entry of page window_begin + lane

  __device__ __forceinline__ void turn_to(const PrefillTile& tile) {
    slot = tile.slot;
    kv_head = ((tile.head_pack << params.batch.pack_shift) + params.group_offset) / params.group_size;
    pages_valid = (tile.length + params.block_tokens - 1) / params.block_tokens;
    window_begin = -1;
  }

  __device__ __forceinline__ PageCopy copy_of(int key_tile) {
    const int first = key_tile << params.page_shift;
    if ((first & ~31) != window_begin) {
      window_begin = first & ~31;
      const int page = window_begin + lane;
      entry = page < pages_valid ? params.block_table[int64_t{slot} * params.blocks_per_slot + page] : 0;
    }
    const int page = first + lane / kPanels;
    const int block = __shfl_sync(0xffffffff, entry, page & 31);
    const bool there = lane < kPanels << params.page_shift && page < pages_valid;
    const int loaded = min(pages_valid - first, 1 << params.page_shift);
    return {.slice = there ? (block * params.kv_heads + kv_head) * 2 : -1,
            .bytes = static_cast<uint32_t>(loaded * params.block_tokens * kPanelBytes * kPanels)};
  }

  // K, or V if values is 1.
  __device__ __forceinline__ void load(uint8_t* to, uint64_t* full, const PageCopy& copy, int values) const {
    if (lane == 0) barrier_arrive_expect(full, copy.bytes);
    __syncwarp();
    if (copy.slice >= 0) {
      tensor_load_3d(to + offset, pages, lane % kPanels * 64, 0, copy.slice + values, full, evict_last_policy());
    }
  }
};

// By one warp. Each item asks for another one; the last of all requests leaves the counter as it was.
template <int kDim>
__device__ __forceinline__ int next_item(const Shared<kDim>& shared, const PrefillParams& params, int lane) {
  uint32_t taken = 0;
  if (lane == 0) {
    taken = atomicAdd(params.next_item, 1);
    if (taken == static_cast<uint32_t>(shared.plan.items) - 1) *params.next_item = 0;
  }
  return static_cast<int>(gridDim.x + __shfl_sync(0xffffffff, taken, 0));
}

// By one warp: the next item that has keys; rows of padding get their zeros.
template <int kDim>
__device__ __forceinline__ PrefillTile find_item(const Shared<kDim>& shared, const PrefillParams& params, int index,
                                                 int lane) {
  while (true) {
    const PrefillTile tile = item_at(params.batch, shared.plan, index);
    if (tile.token < 0 || tile.key_end > 0) return tile;
    clear_rows<kDim>(params, tile, lane);
    index = next_item(shared, params, lane);
  }
}

// By one warp: the queries of an item.
template <int kDim>
__device__ __forceinline__ void load_queries(Shared<kDim>& shared, const PrefillParams& params, const PrefillTile& tile,
                                             const Ring& items, const CUtensorMap* queries, int lane) {
  using Memory = Shared<kDim>;
  uint64_t* full = &shared.query_full[items.stage()];
  barrier_wait(&shared.query_empty[items.stage()], items.parity() ^ 1);
  if (lane == 0) barrier_arrive_expect(full, kWarpgroups * Memory::kQueryBytes);
  __syncwarp();
  if (lane < kWarpgroups * Memory::kPanels) {
    const int warpgroup = lane / Memory::kPanels;
    const int panel = lane % Memory::kPanels;
    const int shift = params.batch.pack_shift;
    tensor_load_3d(shared.queries[items.stage()][warpgroup] + panel * 64 * kPanelBytes, queries, panel * 64,
                   tile.head_pack << shift, tile.token + warpgroup * (64 >> shift), full, evict_first_policy());
  }
}

// By one warp. Keys run one tile ahead of values, as their readers do, also from one item to the next.
template <int kDim>
__device__ __forceinline__ void produce(Shared<kDim>& shared, const PrefillParams& params,
                                        const CUtensorMap* queries, const CUtensorMap* pages) {
  using Memory = Shared<kDim>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  PageReader<kDim> reader{
      .params = params, .pages = pages, .lane = lane,
      .offset = (lane % Memory::kPanels * kTileKeys + lane / Memory::kPanels * params.block_tokens) * kPanelBytes};
  Ring items, keys, values;
  PageCopy before;            // of the tile whose values are next; none before the first item
  const auto load_values = [&] {
    if (before.bytes == 0) return;
    barrier_wait(&shared.value_empty[values.stage()], values.parity() ^ 1);
    reader.load(shared.values[values.stage()], &shared.value_full[values.stage()], before, 1);
    values.advance();
  };
  int index = static_cast<int>(blockIdx.x);
  while (true) {
    const PrefillTile tile = find_item(shared, params, index, lane);
    if (lane == 0) shared.tiles[items.count % kTileSlots] = tile;
    if (tile.token < 0) break;
    reader.turn_to(tile);
#pragma unroll 1
    for (int key_tile = tile.key_end - 1; key_tile >= tile.key_begin; --key_tile) {
      const PageCopy copy = reader.copy_of(key_tile);
      const bool first = key_tile == tile.key_end - 1;
      if (first) {  // the item before is waiting for its last values
        load_values();
        load_queries(shared, params, tile, items, queries, lane);
      }
      barrier_wait(&shared.key_empty[keys.stage()], keys.parity() ^ 1);
      reader.load(shared.keys[keys.stage()], &shared.key_full[keys.stage()], copy, 0);
      keys.advance();
      if (!first) load_values();
      before = copy;
      if (key_tile == tile.key_begin) index = next_item(shared, params, lane);  // late, but not too late
    }
    items.advance();
  }
  load_values();
  barrier_wait(&shared.query_empty[items.stage()], items.parity() ^ 1);
  if (lane == 0) barrier_arrive(&shared.query_full[items.stage()]);  // there are no more
}

}  // namespace skein::cuda
