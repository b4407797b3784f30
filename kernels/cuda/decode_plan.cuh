#pragma once

#include <cstdint>

// How the blocks of the decode kernel share a step, computed on the device from the positions alone.
//
// The keys of a row are cut into tiles of 64 tokens at multiples of 64, and these into chunks whose size depends on the
// row's length (and the window) and on constants of the model and the device, never on the other rows. A chunk's result
// is computed in one way only, and the chunks of a row and KV head are folded from the first to the last, wherever they
// are computed: a row's output does not depend on the batch that it is in.
//
// Few rows: every row and KV head has blocks of its own, in clusters of eight, that take a chunk or more each. Many
// rows: all chunks of a step, ordered by row, KV head and position, form a line, and each block takes an equal share of
// most of it by cost, whole chunks that begin in its share. What is left of the line is cut into small shares for
// whoever is done first: multiprocessors differ in speed by a fifth.

namespace skein::cuda {

constexpr int kTileTokens = 64;
constexpr int kClusterBlocks = 8;
constexpr int kShortTiles = 64;  // a row up to this long has at most as many chunks as a cluster has blocks
constexpr int kChunkTilesMin = 2;
constexpr int kTileCost = 4;
constexpr int kChunkCost = 1;  // what a chunk costs besides its tiles
constexpr int kSmallShareCost = 4 * kTileCost;
constexpr int kLargeShareCostMin = 8 * kTileCost;  // below, there are no small shares

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

// Part of the line, cut into equal shares.
struct EqualShares {
  uint32_t whole = 0;
  uint32_t rest = 0;  // the first `rest` shares are longer by one

  __device__ static EqualShares of(int total, int count) {
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

// The line of chunks: a large share for every block, then small ones.
struct Shares {
  int blocks = 0;
  int small_count = 0;
  int small_begin = 0;  // on the line
  EqualShares large;
  EqualShares small;

  __device__ static Shares of(int total, int blocks, int small_max) {
    const int small_total = total / blocks < kLargeShareCostMin ? 0 : total / 8;
    const int small_count = min(small_total / kSmallShareCost, small_max);
    const int small_begin = small_count > 0 ? total - small_total : total;
    return {blocks, small_count, small_begin, EqualShares::of(small_begin, blocks),
            EqualShares::of(total - small_begin, max(small_count, 1))};
  }
  __device__ int begin(int share) const {
    return share < blocks ? large.begin(share) : small_begin + small.begin(share - blocks);
  }
  __device__ int owner(int at) const {
    return at < small_begin ? large.owner(at) : blocks + small.owner(at - small_begin);
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
constexpr int kPlanRowsMax = 1024;

// Positions and slots of up to 32 rows, one a lane; by all lanes of a warp.
struct RowWindow {
  int first = 0;
  int count = 0;
  int position = -1;
  int slot = 0;

  __device__ void load(const PlanInputs& inputs, int first_row, int rows, int lane) {
    first = first_row;
    count = rows;
    const bool there = lane < rows && first + lane < inputs.rows;
    position = there ? __ldcg(inputs.positions + first + lane) : -1;
    slot = there ? __ldcg(inputs.slots + first + lane) : 0;
  }
  __device__ void cover(const PlanInputs& inputs, int row, int lane) {
    if (row >= first + count) load(inputs, row, 32, lane);
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
  RowWindow rows;  // begins at or before `row`
};

// Adds up the cost of the step's rows, then finds the rows of shares; by all lanes of a warp. With more than 32 rows, a
// lane has the sum of several.
class Line {
 public:
  __device__ Line(const PlanInputs& inputs, int lane) : inputs_(inputs), lane_(lane) {
    if (inputs.rows <= 32) {
      rows_.load(inputs, 0, 32, lane);
      cost_ = lane < inputs.rows ? inputs.cost(rows_.position) : 0;
    } else {
      constexpr int kAtOnce = 4;
      group_ = (inputs.rows + 31) / 32;
      const int end = min((lane + 1) * group_, inputs.rows);
      for (int row = lane * group_; row < end; row += kAtOnce) {
        int positions[kAtOnce];
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) positions[i] = row + i < end ? __ldcg(inputs.positions + row + i) : -1;
#pragma unroll 1
        for (int i = 0; i < kAtOnce; ++i) {
          cost_ += row + i < end ? inputs.cost(positions[0]) : 0;
#pragma unroll
          for (int j = 1; j < kAtOnce; ++j) positions[j - 1] = positions[j];
        }
      }
    }
    sum_ = inclusive_sum(cost_, lane);
  }

  __device__ int total() const { return __shfl_sync(0xffffffff, sum_, 31); }

  __device__ ShareStart find(const Shares& shares, int share) const {
    ShareStart start = {.begin = shares.begin(share), .end = shares.begin(share + 1), .row = 0, .row_begin = 0,
                        .rows = rows_};
    find_begin(sum_, cost_, true, start);
    if (group_ == 1) return start;
    start.row *= group_;
    const int first = start.row;
    start.rows.load(inputs_, first, group_, lane_);
    const bool there = lane_ < group_ && first + lane_ < inputs_.rows;
    const int cost = there ? inputs_.cost(start.rows.position) : 0;
    find_begin(start.row_begin + inclusive_sum(cost, lane_), cost, there, start);
    start.row += first;
    return start;
  }

 private:
  // The last lane that begins at or before the share.
  __device__ static void find_begin(int sum, int cost, bool there, ShareStart& start) {
    const uint32_t before = __ballot_sync(0xffffffff, there && sum - cost <= start.begin);
    start.row = 31 - __clz(static_cast<int>(before));
    start.row_begin = __shfl_sync(0xffffffff, sum - cost, start.row);
  }

  const PlanInputs& inputs_;
  int lane_;
  int group_ = 1;
  int cost_ = 0;
  int sum_ = 0;
  RowWindow rows_;
};

}  // namespace skein::cuda
