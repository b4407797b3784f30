#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

// How the blocks of the decode kernel share a step, computed on the device from the positions alone.
//
// The keys of a row are cut into tiles of 64 tokens at multiples of 64, and these into chunks whose size depends on the
// row's length (and the window) and on constants of the model and the device, never on the other rows. A chunk's result
// is computed in one way only, and the chunks of a row and KV head are folded from the first to the last, wherever they
// are computed: a row's output does not depend on the batch that it is in.
//
// Few rows: every row and KV head has blocks of its own, in clusters of eight, that take a chunk or more each. Many
// rows: all chunks of a step, ordered by row, KV head and position, form a line, and each block takes an equal share of
// it by cost: whole chunks that begin in its share. Some multiprocessors are done earlier than others, but the others
// then have all of the memory's rate: small shares at the end for whoever is free cost more than they gained.

namespace skein::cuda {

constexpr int kTileTokens = 64;
constexpr int kClusterBlocks = 8;
constexpr int kShortTiles = 64;  // a row up to this long has at most as many chunks as a cluster has blocks
constexpr int kChunkTilesMin = 2;
constexpr int kTileCost = 4;
constexpr int kChunkCost = 1;  // what a chunk costs besides its tiles
constexpr int kPlanRowsMax = 512;

struct RowPlan {
  int begin = 0;   // keys [begin, tokens) are seen
  int tokens = 0;  // 0: a padding row, which has one chunk without tiles
  int first_tile = 0;
  int tiles = 0;
  int chunk_tiles = kChunkTilesMin;
  int chunks = 1;  // of each KV head

  __device__ int chunk_cost() const { return kTileCost * chunk_tiles + kChunkCost; }
  __device__ int head_cost() const { return kTileCost * tiles + kChunkCost * chunks; }
  // How many of a KV head's chunks begin in the first `cost` of it.
  __device__ int chunks_within(int cost) const {
    return cost <= 0 ? 0 : min(chunks, (cost + chunk_cost() - 1) / chunk_cost());
  }
};

// `splits`: the number of chunks that a long row is cut into.
__device__ inline RowPlan plan_row(int position, int window, int splits) {
  RowPlan plan;
  if (position < 0) return plan;
  plan.tokens = position + 1;
  plan.begin = window > 0 ? max(plan.tokens - window, 0) : 0;
  plan.first_tile = plan.begin / kTileTokens;
  plan.tiles = position / kTileTokens + 1 - plan.first_tile;
  if (plan.tiles <= kShortTiles) splits = kClusterBlocks;
  plan.chunk_tiles = max(kChunkTilesMin, (plan.tiles + splits - 1) / splits);
  plan.chunks = (plan.tiles + plan.chunk_tiles - 1) / plan.chunk_tiles;
  return plan;
}

// The line of chunks, cut into equal shares.
struct Shares {
  uint32_t whole = 0;
  uint32_t rest = 0;  // the first `rest` shares are longer by one

  __device__ static Shares of(int total, int count) {
    return {static_cast<uint32_t>(total) / static_cast<uint32_t>(count),
            static_cast<uint32_t>(total) % static_cast<uint32_t>(count)};
  }
  __device__ int begin(int share) const {
    return static_cast<int>(static_cast<uint32_t>(share) * whole + min(static_cast<uint32_t>(share), rest));
  }
  __device__ int owner(int at) const {
    const uint32_t x = static_cast<uint32_t>(at);
    const uint32_t longer = rest * (whole + 1);
    return static_cast<int>(x < longer ? x / (whole + 1) : rest + (x - longer) / whole);
  }
};

__device__ inline int inclusive_sum(int value, int lane) {
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_up_sync(0xffffffff, value, distance);
    if (lane >= distance) value += other;
  }
  return value;
}

struct PlanInputs {
  const int32_t* positions;  // (rows)
  const int32_t* slots;      // (rows)
  int rows;                  // at most kPlanRowsMax
  int kv_heads;
  int window;
  int splits;

  __device__ RowPlan row(int position) const { return plan_row(position, window, splits); }
  __device__ int cost(int position) const { return kv_heads * row(position).head_cost(); }
};

// What all threads of a block find out about the step's rows when it starts.
struct PlannedRows {
  int positions[kPlanRowsMax];
  int slots[kPlanRowsMax];
  int costs[kPlanRowsMax];

  __device__ void fill(const PlanInputs& inputs, int thread, int threads) {
    for (int row = thread; row < inputs.rows; row += threads) {
      const int position = load_kept(inputs.positions + row);
      slots[row] = load_kept(inputs.slots + row);
      positions[row] = position;
      costs[row] = inputs.cost(position);
    }
  }
};

// Positions and slots of 32 rows, one a lane; by all lanes of a warp.
struct RowWindow {
  int first = 0;
  int position = -1;
  int slot = 0;

  __device__ static RowWindow of(const PlannedRows& rows, int count, int first, int lane) {
    const int row = first + lane;
    return {first, row < count ? rows.positions[row] : -1, row < count ? rows.slots[row] : 0};
  }
  __device__ void cover(const PlanInputs& inputs, int row, int lane) {
    if (row < first + 32) return;
    first = row;
    const bool there = first + lane < inputs.rows;
    position = there ? load_kept(inputs.positions + first + lane) : -1;
    slot = there ? load_kept(inputs.slots + first + lane) : 0;
  }
  __device__ int position_of(int row) const { return __shfl_sync(0xffffffff, position, row - first); }
  __device__ int slot_of(int row) const { return __shfl_sync(0xffffffff, slot, row - first); }
};

// A share and where it begins: in this row, whose own chunks begin at `row_begin`.
struct ShareStart {
  int begin;
  int end;
  int row;
  int row_begin;
  RowWindow rows;  // begins at `row`
};

// Adds up the cost of the step's rows, then finds the rows of shares; by all lanes of a warp, each of which has the sum
// of some neighbours.
class Line {
 public:
  __device__ Line(const PlannedRows& rows, int count, int lane)
      : rows_(rows), count_(count), lane_(lane), group_((count + 31) / 32) {
    const int end = min((lane + 1) * group_, count);
    for (int row = lane * group_; row < end; ++row) cost_ += rows.costs[row];
    sum_ = inclusive_sum(cost_, lane);
  }

  __device__ int total() const { return __shfl_sync(0xffffffff, sum_, 31); }

  __device__ ShareStart find(const Shares& shares, int share) const {
    ShareStart start = {.begin = shares.begin(share), .end = shares.begin(share + 1), .row = 0, .row_begin = 0,
                        .rows = {}};
    find_begin(sum_, cost_, start);
    const int first = start.row * group_;
    const int cost = lane_ < group_ && first + lane_ < count_ ? rows_.costs[first + lane_] : 0;
    find_begin(start.row_begin + inclusive_sum(cost, lane_), cost, start);
    start.row += first;
    start.rows = RowWindow::of(rows_, count_, start.row, lane_);
    return start;
  }

 private:
  // The last lane with rows that begins at or before the share.
  __device__ static void find_begin(int sum, int cost, ShareStart& start) {
    const uint32_t before = __ballot_sync(0xffffffff, cost > 0 && sum - cost <= start.begin);
    start.row = 31 - __clz(static_cast<int>(before));
    start.row_begin = __shfl_sync(0xffffffff, sum - cost, start.row);
  }

  const PlannedRows& rows_;
  int count_;
  int lane_;
  int group_;  // rows of a lane
  int cost_ = 0;
  int sum_ = 0;
};

}  // namespace skein::cuda
