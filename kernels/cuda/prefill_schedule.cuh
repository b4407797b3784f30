#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

// Which tiles of a ragged batch there are and in which order they are worth starting. Every block works the same plan
// out for itself from what the device knows: positions may change from step to step where counts do not.

namespace skein::cuda {

constexpr int kTileRows = 128;  // (query, head) pairs of a tile
constexpr int kTileKeys = 128;
constexpr int kEntriesMax = 2048;  // query blocks of a launch
constexpr int kRowsMax = 2048;
constexpr int kSplitEntriesMax = 256;
constexpr int kPieceTilesMin = 8;  // tiles of keys that are worth a piece of their own
// In a deterministic launch a query's keys are added up in parts of so many tiles, and then the parts, the last one
// first: by one block, or by several that take a part each. The bits are the same. Less would cost long prompts more,
// more would leave a long decode to few blocks.
constexpr int kPartTiles = 8;

struct PrefillBatch {
  const int32_t* query_begin = nullptr;  // (rows + 1), of the launch's first row on
  const int32_t* positions = nullptr;    // (tokens of the step)
  const int32_t* slots = nullptr;        // (rows)
  int rows = 0;
  int entries = 0;      // query blocks of all rows
  int pack_shift = 0;   // a block is 128 >> pack_shift queries by 1 << pack_shift heads
  int head_packs = 0;   // blocks of heads
  int packs_per_kv_head = 0;
  int window = 0;
  bool may_split = false;    // too few tiles for the device: cut their keys into pieces
  bool fixed_parts = false;  // deterministic: pieces are parts of kPartTiles
  int pieces_max = 0;        // that there is room for, in a deterministic launch
  int kv_token_bytes = 0;    // of one KV head
  int64_t kv_bytes_max = 0;  // of the L2 cache, for what runs at one time
};

// A tile or a piece of one, as a block's warps pass it on.
struct PrefillTile {
  int head_pack = 0;
  int slot = 0;
  int token = -1;     // of the tile's first query in the step; -1: there are no more tiles
  int queries = 0;    // of the tile: 128 >> pack_shift, or what is left of the row
  int position = 0;   // of the first query
  int length = 0;     // keys of the row that the pages hold
  int key_begin = 0;  // tiles of keys
  int key_end = 0;
  int pieces = 1;      // that the tile's keys are cut into
  int piece = 0;       // this one
  int first_part = 0;  // where the tile's first piece has its part of the result; the others: head_packs further on
};

// In shared memory.
struct PrefillPlan {
  uint32_t order[kEntriesMax];  // row << 16 | block, by falling length
  int pieces_before[kSplitEntriesMax + 1];  // of the entries in `order`, if they are cut
  int items;          // tiles, or pieces of tiles
  int packs_at_once;  // heads that run at a time
  bool split;
};

// Working memory of make_plan(), in shared memory.
struct PlanMemory {
  uint32_t keys[kEntriesMax];
  int starts[kRowsMax];  // entries before each row
};

__device__ __forceinline__ PrefillTile tile_of(const PrefillBatch& batch, int row, int block) {
  PrefillTile tile;
  const int begin = batch.query_begin[row];
  const int queries = batch.query_begin[row + 1] - begin;
  const int first = block * (kTileRows >> batch.pack_shift);
  tile.slot = batch.slots[row];
  tile.token = begin + first;
  tile.queries = min(queries - first, kTileRows >> batch.pack_shift);
  const int row_position = batch.positions[begin];
  tile.position = row_position + first;
  tile.length = row_position + queries;
  if (tile.slot < 0) return tile;  // padding
  tile.key_begin = batch.window > 0 ? max(0, tile.position - batch.window + 1) / kTileKeys : 0;
  tile.key_end = (tile.position + tile.queries - 1) / kTileKeys + 1;
  return tile;
}

__device__ __forceinline__ int parts_of(const PrefillTile& tile) {
  return tile.key_end == 0 ? 1 : (tile.key_end - 1) / kPartTiles - tile.key_begin / kPartTiles + 1;
}

__device__ __forceinline__ int sum_below(int value, int lane) {
  int sum = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int below = __shfl_up_sync(0xffffffff, sum, step);
    if (lane >= step) sum += below;
  }
  return sum - value;
}

// By one warp: entries before each row, and how many KV heads the L2 cache holds.
__device__ __forceinline__ void count_entries(const PrefillBatch& batch, PrefillPlan& plan, PlanMemory& memory,
                                              int lane) {
  int entries = 0;
  int64_t keys = 0;
  for (int base = 0; base < batch.rows; base += 32) {
    const int row = base + lane;
    int blocks = 0;
    if (row < batch.rows) {
      const int begin = batch.query_begin[row];
      const int queries = batch.query_begin[row + 1] - begin;
      blocks = ((queries << batch.pack_shift) + kTileRows - 1) / kTileRows;
      if (queries > 0) keys += batch.positions[begin] + queries;
    }
    const int below = entries + sum_below(blocks, lane);
    if (row < batch.rows) memory.starts[row] = below;
    entries = __shfl_sync(0xffffffff, below + blocks, 31);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) keys += __shfl_xor_sync(0xffffffff, keys, step);
  if (lane != 0) return;
  const int64_t heads = max(batch.kv_bytes_max / max(keys * batch.kv_token_bytes, int64_t{1}), int64_t{1});
  plan.packs_at_once =
      static_cast<int>(min(heads * batch.packs_per_kv_head, static_cast<int64_t>(batch.head_packs)));
  plan.items = batch.entries * batch.head_packs;
  plan.split = false;
}

__device__ __forceinline__ int key_tiles(uint32_t key) { return static_cast<int>(key >> 11); }

__device__ __forceinline__ PrefillTile tile_in_order(const PrefillBatch& batch, const PrefillPlan& plan, int place) {
  const uint32_t entry = plan.order[place];
  return tile_of(batch, static_cast<int>(entry >> 16), static_cast<int>(entry & 0xffff));
}

// By one warp: each entry in as many pieces as pieces_of(its tile) says.
template <typename PiecesOf>
__device__ __forceinline__ int count_pieces(const PrefillBatch& batch, PrefillPlan& plan, int lane,
                                            const PiecesOf& pieces_of) {
  int before = 0;
  for (int base = 0; base < batch.entries; base += 32) {
    const int own = base + lane < batch.entries ? pieces_of(tile_in_order(batch, plan, base + lane)) : 0;
    const int below = before + sum_below(own, lane);
    if (base + lane < batch.entries) plan.pieces_before[base + lane] = below;
    before = __shfl_sync(0xffffffff, below + own, 31);
  }
  return before;
}

__device__ __forceinline__ void take_pieces(const PrefillBatch& batch, PrefillPlan& plan, int pieces) {
  plan.pieces_before[batch.entries] = pieces;
  plan.items = pieces * batch.head_packs;
  plan.split = pieces > batch.entries;
}

// By one warp: a piece for each part, if there is room.
__device__ __forceinline__ void cut_into_parts(const PrefillBatch& batch, PrefillPlan& plan, int lane) {
  const int pieces = count_pieces(batch, plan, lane, parts_of);
  if (lane == 0 && pieces * batch.head_packs <= batch.pieces_max) take_pieces(batch, plan, pieces);
}

// By one warp: the smallest pieces of which all fit on the device at one time.
__device__ __forceinline__ void cut_entries(const PrefillBatch& batch, PrefillPlan& plan, const PlanMemory& memory,
                                            int lane) {
  int total = 0, longest = 0;
  for (int entry = lane; entry < batch.entries; entry += 32) {
    total += key_tiles(memory.keys[entry]);
    longest = max(longest, key_tiles(memory.keys[entry]));
  }
  total = __reduce_add_sync(0xffffffff, total);
  longest = __reduce_max_sync(0xffffffff, longest);
  const int grid = static_cast<int>(gridDim.x);
  const int least = max(kPieceTilesMin, (total * batch.head_packs + grid - 1) / grid);
  if (longest <= least) return;
  const int tiles = least + least * lane / 8;  // each lane tries another size
  int pieces = 0;
  for (int entry = 0; entry < batch.entries; ++entry) {
    pieces += max(1, (key_tiles(memory.keys[entry]) + tiles - 1) / tiles);
  }
  const uint32_t fitting = __ballot_sync(0xffffffff, pieces * batch.head_packs <= grid);
  if (fitting == 0) return;
  const int chosen = __shfl_sync(0xffffffff, tiles, __ffs(static_cast<int>(fitting)) - 1);
  const int all = count_pieces(batch, plan, lane, [chosen](const PrefillTile& tile) {
    return max(1, (tile.key_end - tile.key_begin + chosen - 1) / chosen);
  });
  if (lane == 0) take_pieces(batch, plan, all);
}

// By all `threads` threads of the block, which must meet before they use the plan.
__device__ __forceinline__ void make_plan(const PrefillBatch& batch, PrefillPlan& plan, PlanMemory& memory,
                                          int threads) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < 32) count_entries(batch, plan, memory, thread);
  __syncthreads();
  const auto row_of = [&](int entry) {
    int low = 0, high = batch.rows;  // the last row that starts at or before the entry
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (memory.starts[middle] <= entry ? low : high) = middle;
    }
    return low;
  };
  // Sort keys: length, then the lower entry first; no two are equal.
  for (int entry = thread; entry < batch.entries; entry += threads) {
    const int row = row_of(entry);
    const PrefillTile tile = tile_of(batch, row, entry - memory.starts[row]);
    const int length = min(tile.key_end - tile.key_begin, (1 << 20) - 1);
    memory.keys[entry] = static_cast<uint32_t>(length) << 11 | static_cast<uint32_t>(kEntriesMax - 1 - entry);
  }
  __syncthreads();
  // An entry's place is the number of greater keys; one row's blocks are in order already, from the last to the first.
  const bool rising = batch.rows == 1 && batch.window == 0;
  for (int entry = thread; entry < batch.entries; entry += threads) {
    const uint32_t key = memory.keys[entry];
    int place = rising ? batch.entries - 1 - entry : 0;
#pragma unroll 4
    for (int other = 0; other < batch.entries && !rising; ++other) place += memory.keys[other] > key ? 1 : 0;
    const int row = row_of(entry);
    plan.order[place] = static_cast<uint32_t>(row) << 16 | static_cast<uint32_t>(entry - memory.starts[row]);
  }
  if (!batch.may_split) return;
  __syncthreads();
  if (thread >= 32) return;
  if (batch.fixed_parts) {
    cut_into_parts(batch, plan, thread);
  } else {
    cut_entries(batch, plan, memory, thread);
  }
}

// Item `index` of the plan. Whole tiles: as many heads at a time as the L2 cache holds keys and values for, of these
// the longest blocks first.
__device__ __forceinline__ PrefillTile item_at(const PrefillBatch& batch, const PrefillPlan& plan, int index) {
  PrefillTile tile;
  if (index >= plan.items) return tile;
  int place, pack, piece = 0, pieces = 1;
  if (plan.split) {
    place = 0;
    for (int end = batch.entries; end - place > 1;) {  // the last entry that begins at or before the piece
      const int middle = (place + end) / 2;
      (plan.pieces_before[middle] <= index / batch.head_packs ? place : end) = middle;
    }
    pack = index % batch.head_packs;
    piece = index / batch.head_packs - plan.pieces_before[place];
    pieces = plan.pieces_before[place + 1] - plan.pieces_before[place];
  } else {
    const int section = index / (batch.entries * plan.packs_at_once);
    const int within = index - section * batch.entries * plan.packs_at_once;
    const int packs = min(plan.packs_at_once, batch.head_packs - section * plan.packs_at_once);
    place = within / packs;
    pack = section * plan.packs_at_once + within % packs;
  }
  tile = tile_in_order(batch, plan, place);
  tile.head_pack = pack;
  if (pieces > 1) {
    if (batch.fixed_parts) {
      const int part = tile.key_begin / kPartTiles + piece;
      tile.key_begin = max(tile.key_begin, part * kPartTiles);
      tile.key_end = min(tile.key_end, (part + 1) * kPartTiles);
    } else {
      const int length = tile.key_end - tile.key_begin;
      tile.key_end = tile.key_begin + length * (piece + 1) / pieces;
      tile.key_begin += length * piece / pieces;
    }
    tile.pieces = pieces;
    tile.piece = piece;
    tile.first_part = plan.pieces_before[place] * batch.head_packs + pack;
  }
  return tile;
}

}  // namespace skein::cuda
