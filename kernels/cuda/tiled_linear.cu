#include "kernels/cuda/tiled_linear.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_tile.cuh"

namespace skein::cuda {
namespace {

constexpr int kHeaderBytes = 1024;
constexpr int kStagesMax = 32;
constexpr int kSharedBytesMax = 216 << 10;
constexpr int kSplitRowsMax = 16384;  // products of more have tiles enough
constexpr int kBand = 8;  // token tiles that run side by side, so that the L2 cache serves what blocks read of them

struct TiledArgs {
  LinearOut out;
  int tile_rows = 0;
  int row_clusters = 0;
  int token_tiles = 0;
  int tiles = 0;  // those behind the last row, which fill clusters, included
  int steps = 0;  // stages of all columns
  int stages = 0;
  uint32_t* claims = nullptr;  // {tiles taken, blocks done}, zero between launches; null: every block has its tiles
  uint32_t* arrived = nullptr;  // [tile][warpgroup] of split products: who has stored, zero between launches
  float4* parts = nullptr;      // [tile][warpgroup][split][four of the sums][thread]
};

// The kShare blocks of a cluster work on neighbouring rows of the same tokens and columns, and each reads a share of
// those tokens. A tile has kSplits blocks (1 or 2), which take a part of the columns each.
template <int kTokens_, int kGroups_, bool kGated_, int kShare_, int kSplits_ = 1>
struct Shape {
  static constexpr int kTokens = kTokens_;
  static constexpr int kGroups = kGroups_;
  static constexpr bool kGated = kGated_;
  static constexpr int kShare = kShare_;
  static constexpr int kSplits = kSplits_;
  static constexpr int kSums = kTokens / 2;  // of a thread
  static constexpr int kDepth = kTokens <= 32 ? 4 : kTokens <= 64 ? 2 : 1;  // column tiles of a stage
  static constexpr int kXBytes = kDepth * kTokens * kTileRowBytes;
  static constexpr int kSlice = kTokens / kShare;  // tokens that a block reads of a tile
  static constexpr int kConsumers = 128 * kGroups;
  static constexpr int kThreads = kConsumers + 32;
};

template <typename S>
struct Ring {
  uint64_t* full;
  uint64_t* empty;
  int* tile_of;  // (stages) which tile a stage's weights belong to, -1 behind the last
  bool* last;    // [warpgroup]: whether the other split's sums are there
  unsigned char* weights;  // [stage][column tile][row]
  unsigned char* x;        // [stage][column tile][token]
  int weight_bytes;        // of a stage

  __device__ Ring(unsigned char* shared, const TiledArgs& args)
      : full(reinterpret_cast<uint64_t*>(shared)),
        empty(full + kStagesMax),
        tile_of(reinterpret_cast<int*>(empty + kStagesMax)),
        last(reinterpret_cast<bool*>(tile_of + kStagesMax)),
        weights(shared + kHeaderBytes),
        weight_bytes(args.tile_rows * S::kDepth * kTileRowBytes) {
    x = weights + args.stages * weight_bytes;
  }
};

struct Tile {
  int row;    // of the row tiles
  int token;  // of the token tiles
};

// Bands of kBand token tiles; in a band, all token tiles of a cluster's rows before the next rows.
template <typename S>
__device__ __forceinline__ Tile tile_at(const TiledArgs& args, int index) {
  const int cluster = index / S::kShare;
  const int band = cluster / (kBand * args.row_clusters);
  const int within = cluster - band * kBand * args.row_clusters;
  const int width = max(1, min(kBand, args.token_tiles - band * kBand));  // there may be no such tile
  return {.row = within / width * S::kShare + index % S::kShare, .token = band * kBand + within % width};
}

// What a block does if nobody claims tiles: every tile_step-th one. All blocks of a cluster go round as often.
template <typename S>
struct Work {
  int share = static_cast<int>(blockIdx.x) % S::kShare;
  int split = static_cast<int>(blockIdx.x) / S::kShare % S::kSplits;
  int tile = static_cast<int>(blockIdx.x) / (S::kShare * S::kSplits) * S::kShare + share;
  int tile_step = static_cast<int>(gridDim.x) / S::kSplits;
  int first_step;  // stages of a tile
  int steps;
  int passes;

  __device__ explicit Work(const TiledArgs& args)
      : first_step(args.steps * split / S::kSplits),
        steps(args.steps * (split + 1) / S::kSplits - first_step),
        passes((args.tiles - (tile - share) + tile_step - 1) / tile_step) {}
};

// Which stage of which tile a block loads next. Finding a tile takes divisions, which are done once a tile.
template <typename S>
struct Cursor {
  const TiledArgs& args;
  const Work<S>& work;
  int index = work.tile;  // of the tile
  int pass = 0;
  int step = 0;
  Tile tile = tile_at<S>(args, index);

  __device__ __forceinline__ void turn_to(int to) {
    index = to;
    tile = tile_at<S>(args, index);
  }
  __device__ __forceinline__ void advance() {
    if (++step < work.steps) return;
    step = 0;
    ++pass;
    turn_to(index + work.tile_step);
  }
};

// The one thread that feeds the ring. Weights are constant: the ring's first filling does not wait for other launches.
template <typename S>
struct Producer {
  const Ring<S>& ring;
  const CUtensorMap& weight_map;
  const CUtensorMap& x_map;
  const TiledArgs& args;
  uint64_t weight_policy;
  uint64_t x_policy;
  Work<S> work;

  // Slices of a tile that have tokens. The others stay unread: the copy engine takes its time to fill in zeros.
  __device__ __forceinline__ int slices(const Tile& tile) const {
    return min(S::kShare, (args.out.tokens - tile.token * S::kTokens + S::kSlice - 1) / S::kSlice);
  }

  __device__ __forceinline__ void load_weights(int stage, const Cursor<S>& at) const {
    uint64_t* full = &ring.full[stage];
    ring.tile_of[stage] = at.index;
    constexpr int kSliceBytes = S::kDepth * S::kSlice * kTileRowBytes;
    barrier_arrive_expect(full, static_cast<uint32_t>(ring.weight_bytes + slices(at.tile) * kSliceBytes));
    unsigned char* to = ring.weights + stage * ring.weight_bytes;
#pragma unroll
    for (int i = 0; i < S::kDepth; ++i, to += args.tile_rows * kTileRowBytes) {
      const int column = ((work.first_step + at.step) * S::kDepth + i) * kTileColumns;
      if constexpr (S::kGated) {
        tensor_load_4d(to, &weight_map, column, 0, 0, at.tile.row * (args.tile_rows / 16), full, weight_policy);
      } else {
        tensor_load_2d(to, &weight_map, column, at.tile.row * args.tile_rows, full, weight_policy);
      }
    }
  }

  __device__ __forceinline__ void load_x(int stage, const Cursor<S>& at) const {
    if (work.share >= slices(at.tile)) return;
    unsigned char* to = ring.x + stage * S::kXBytes;
    const int token = at.tile.token * S::kTokens;
#pragma unroll
    for (int i = 0; i < S::kDepth; ++i, to += S::kTokens * kTileRowBytes) {
      const int column = ((work.first_step + at.step) * S::kDepth + i) * kTileColumns;
      if constexpr (S::kShare == 1) {
        tensor_load_2d(to, &x_map, column, token, &ring.full[stage], x_policy);
      } else {
        constexpr uint32_t mask = (1u << S::kShare) - 1;
        tensor_multicast_2d(to + work.share * S::kSlice * kTileRowBytes, &x_map, column, token + work.share * S::kSlice,
                            &ring.full[stage], mask, x_policy);
      }
    }
  }

  __device__ void produce() {
    const int passes = work.passes;
    // Tiles that the first filling of the ring reaches are the block's own; it takes the others as it goes, for some
    // SMs are nearer to the memory than others.
    const int own_passes = args.claims == nullptr ? passes : (args.stages + work.steps - 1) / work.steps;
    const int ahead = min(args.stages, passes * work.steps);
    Cursor<S> weights_at{args, work};
    for (int stage = 0; stage < ahead; ++stage, weights_at.advance()) load_weights(stage, weights_at);
    if constexpr (S::kShare > 1) cluster_wait();  // the others' barriers are there
    wait_for_previous_launch();
    Cursor<S> at{args, work};
    for (int stage = 0; stage < ahead; ++stage, at.advance()) load_x(stage, at);
    let_next_launch_start();

    const int first_claim = own_passes * static_cast<int>(gridDim.x);
    int claimed = args.claims == nullptr ? 0 : first_claim + static_cast<int>(atomicAdd(args.claims, 1));
    int stage = ahead % args.stages;
    uint32_t parity = 0;
    for (;;) {
      if (at.step == 0 && at.pass >= own_passes) {
        if (args.claims == nullptr) return;
        if (claimed >= args.tiles) break;
        at.turn_to(claimed);
        claimed = first_claim + static_cast<int>(atomicAdd(args.claims, 1));  // needed a tile later
      }
      barrier_wait(&ring.empty[stage], parity);
      load_weights(stage, at);
      load_x(stage, at);
      at.advance();
      if (++stage == args.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    barrier_wait(&ring.empty[stage], parity);
    ring.tile_of[stage] = -1;
    barrier_arrive(&ring.full[stage]);
    if (atomicInc(args.claims + 1, gridDim.x - 1) == gridDim.x - 1) args.claims[0] = 0;  // nobody claims any more
  }
};

// A warpgroup's sums of both splits, if this block is the second of the two to come here. Each stores its own first.
template <typename S>
__device__ __forceinline__ bool combine(const Ring<S>& ring, const TiledArgs& args, int split, int tile, int group,
                                        float (&sums)[S::kSums]) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int at = tile * S::kGroups + group;
  const auto part = [&](int of, int four) {
    return args.parts + ((int64_t{at} * S::kSplits + of) * (S::kSums / 4) + four) * 128 + thread;
  };
#pragma unroll
  for (int four = 0; four < S::kSums / 4; ++four) {
    __stcg(part(split, four),
           make_float4(sums[4 * four], sums[4 * four + 1], sums[4 * four + 2], sums[4 * four + 3]));
  }
  named_barrier_sync(1 + group, 128);
  if (thread == 0) {
    uint32_t* arrived = args.arrived + at;
    __threadfence();  // for all of the warpgroup
    ring.last[group] = atomicAdd(arrived, 1) == S::kSplits - 1;
    if (ring.last[group]) *arrived = 0;
    __threadfence();
  }
  named_barrier_sync(1 + group, 128);
  if (!ring.last[group]) return false;
#pragma unroll
  for (int four = 0; four < S::kSums / 4; ++four) {
    const float4 other = __ldcg(part(1 - split, four));
    const float values[4] = {other.x, other.y, other.z, other.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[4 * four + i] += values[i];  // of two summands either may come first
  }
  return true;
}

// Each warpgroup multiplies 64 rows of weights (the tile may have fewer) with all tokens, K rising.
template <typename S>
__device__ void consume(const Ring<S>& ring, const TiledArgs& args) {
  const int warp = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 32, 0);
  constexpr uint32_t kXStep = S::kTokens * kTileRowBytes / 16;
  const Work<S> work(args);
  const auto tile_step = static_cast<uint32_t>(args.tile_rows * kTileRowBytes / 16);
  const uint32_t weights = static_cast<uint32_t>(k_major_operand(shared_address(ring.weights))) +
                           static_cast<uint32_t>(warp / 4) * (kGroupRows * kTileRowBytes / 16);
  const auto x = static_cast<uint32_t>(k_major_operand(shared_address(ring.x)));
  if constexpr (S::kShare > 1) cluster_wait();
  wait_for_previous_launch();  // it may still read what this one writes
  int stage = 0;
  uint32_t parity = 0;
  int tile = work.tile;
  for (int pass = 0;; ++pass, tile += work.tile_step) {
    if (args.claims == nullptr) {
      if (pass == work.passes) break;
    } else {
      barrier_wait(&ring.full[stage], parity);
      // Read by the lane that gives the stage back.
      tile = __shfl_sync(0xffffffff, threadIdx.x % 32 == 0 ? ring.tile_of[stage] : 0, 0);
      if (tile < 0) break;
    }
    float sums[S::kSums] = {};
    hold(sums);
    int before = -1;  // the stage whose products may still run
#pragma unroll 1
    for (int step = 0; step < work.steps; ++step) {
      barrier_wait(&ring.full[stage], parity);
      const uint32_t a = weights + static_cast<uint32_t>(stage) * (tile_step * S::kDepth);
      const uint32_t b = x + static_cast<uint32_t>(stage) * (S::kXBytes / 16);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < S::kDepth; ++i) {
#pragma unroll
        for (int k = 0; k < kTileColumns / 16; ++k) {
          wgmma(sums, operand(a + i * tile_step + 2 * k), operand(b + i * kXStep + 2 * k), true);
        }
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (before >= 0) release<S::kShare>(&ring.empty[before]);
      before = stage;
      if (++stage == args.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    wgmma_wait<0>();
    release<S::kShare>(&ring.empty[before]);
    hold(sums);
    const Tile at = tile_at<S>(args, tile);
    if constexpr (S::kSplits > 1) {
      if (!combine<S>(ring, args, work.split, tile, warp / 4, sums)) continue;
    }
    store_sums<S::kGated>(args.out, sums, at.row, args.tile_rows, warp * 16, at.token * S::kTokens);
  }
}

template <typename S>
__global__ void __launch_bounds__(S::kThreads, 1)
    tiled_kernel(const __grid_constant__ CUtensorMap weight_map, const __grid_constant__ CUtensorMap x_map,
                 const TiledArgs args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Ring<S> ring(shared, args);
  if (threadIdx.x == S::kConsumers) {
    prefetch_tensor_map(&weight_map);
    prefetch_tensor_map(&x_map);
    for (int i = 0; i < args.stages; ++i) {
      barrier_init(&ring.full[i], 1);
      barrier_init(&ring.empty[i], S::kShare * S::kConsumers / 32);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if constexpr (S::kShare > 1) cluster_arrive_relaxed();
  if (threadIdx.x < S::kConsumers) {
    consume<S>(ring, args);
  } else if (threadIdx.x == S::kConsumers) {
    Producer<S>{ring, weight_map, x_map, args, evict_first_policy(), evict_last_policy(), Work<S>(args)}
        .produce();
  } else if constexpr (S::kShare > 1) {
    cluster_wait();
  }
  if constexpr (S::kShare > 1) {  // nobody leaves while others may write to its shared memory
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();
  }
}

// Of a tile's sums in all splits.
int64_t part_bytes(const TiledPlan& plan) {
  return int64_t{plan.splits} * plan.warpgroups * kGroupRows * plan.tokens * static_cast<int64_t>(sizeof(float));
}

template <typename S>
void launch_tiled(CudaDevice& device, const Tensor& weight, const Tensor& x, const TiledPlan& plan,
                      TiledArgs args) {
  CHECK_EQ(plan.blocks % (S::kShare * S::kSplits), 0);
  CHECK(plan.tile_rows % (S::kGated ? 16 : 8) == 0 && plan.tile_rows <= kGroupRows * S::kGroups);
  CHECK(S::kGroups == 1 || plan.tile_rows > kGroupRows * (S::kGroups - 1));
  const int stage_bytes = plan.tile_rows * S::kDepth * kTileRowBytes + S::kXBytes;
  args.tile_rows = plan.tile_rows;
  args.row_clusters = ceil_div(plan.row_tiles, S::kShare);
  args.token_tiles = plan.token_tiles;
  args.tiles = args.row_clusters * S::kShare * plan.token_tiles;
  args.steps = static_cast<int>(ceil_div<int64_t>(weight.columns, kTileColumns * S::kDepth));
  CHECK_GE(args.steps, S::kSplits);
  if (S::kSplits > 1) {
    CHECK(part_bytes(plan) * args.tiles <= CudaDevice::kScratchBytes);
    CHECK(int64_t{args.tiles} * S::kGroups <= CudaDevice::kCounters);
    args.arrived = device.counters();
    args.parts = static_cast<float4*>(device.scratch());
  }
  args.stages = std::clamp((kSharedBytesMax - kHeaderBytes) / stage_bytes, 2, kStagesMax);
  // A product reads 64 rows of a tile that may have fewer: what follows must be there, not mean anything.
  const int beyond = (kGroupRows * S::kGroups - plan.tile_rows) * kTileRowBytes;
  const int overhang = std::max(0, beyond - args.stages * S::kXBytes);
  const auto shared_bytes = static_cast<size_t>(kHeaderBytes + args.stages * stage_bytes + overhang);
  // Worth its while if a block makes several tiles; the first filling must not reach the last.
  const int64_t own = ceil_div(args.stages, args.steps) * int64_t{plan.blocks};
  if (S::kShare == 1 && args.tiles >= 2 * own) args.claims = device.counters();
  const auto kernel = tiled_kernel<S>;
  allow_shared_memory(device, kernel, shared_bytes);
  launch(device, "tiled linear", kernel,
         {.blocks = dim3(static_cast<unsigned>(plan.blocks)),
          .threads = dim3(S::kThreads),
          .shared_bytes = shared_bytes,
          .cluster = S::kShare},
         S::kGated ? map_of_pairs(weight, plan.tile_rows) : map_of_rows(weight, plan.tile_rows),
         map_of_rows(x, S::kTokens / S::kShare), args);
}

template <bool kGated>
void run_tiled(CudaDevice& device, const Tensor& out, const Tensor& weight, const Tensor& x, const float* bias,
               const TiledPlan& plan) {
  const int64_t rows = kGated ? weight.rows / 2 : weight.rows;
  CHECK(kGated ? tiled_gated_fits(x, weight) : tiled_linear_fits(x, weight));
  CHECK_EQ(out.rows, x.rows);
  CHECK_EQ(out.columns, rows);
  CHECK_GE(int64_t{plan.row_tiles} * plan.tile_rows, weight.rows);
  CHECK_GE(int64_t{plan.token_tiles} * plan.tokens, x.rows);
  const TiledArgs args = {.out = linear_out(out, bias)};
  const auto run = [&]<int kTokens, int kGroups, int kShare, int kSplits>() {
    launch_tiled<Shape<kTokens, kGroups, kGated, kShare, kSplits>>(device, weight, x, plan, args);
  };
  const bool split = plan.splits == 2;
  switch (plan.tokens * 10 + plan.warpgroups) {
    case 8 * 10 + 1: return run.template operator()<8, 1, 1, 1>();
    case 16 * 10 + 1: return run.template operator()<16, 1, 1, 1>();
    case 32 * 10 + 1: return split ? run.template operator()<32, 1, 2, 2>() : run.template operator()<32, 1, 2, 1>();
    case 64 * 10 + 1: return split ? run.template operator()<64, 1, 2, 2>() : run.template operator()<64, 1, 2, 1>();
    case 64 * 10 + 2: return split ? run.template operator()<64, 2, 2, 2>() : run.template operator()<64, 2, 2, 1>();
    case 128 * 10 + 1: return split ? run.template operator()<128, 1, 2, 2>() : run.template operator()<128, 1, 2, 1>();
    case 128 * 10 + 2: return split ? run.template operator()<128, 2, 2, 2>() : run.template operator()<128, 2, 2, 1>();
    case 256 * 10 + 2: return run.template operator()<256, 2, 2, 1>();
    default: CHECK(false);
  }
}

TiledPlan cut(const Tensor& x, const Tensor& weight, int tokens, int warpgroups, int tile_rows, int splits,
              int multiprocessors) {
  const int share = tokens <= 16 ? 1 : 2;
  const int clusters_max = multiprocessors / (share * splits);  // each of `splits` clusters
  const int64_t row_tiles = ceil_div<int64_t>(weight.rows, tile_rows);
  const int64_t token_tiles = ceil_div<int64_t>(x.rows, tokens);
  const int64_t clusters =
      std::min<int64_t>(ceil_div<int64_t>(row_tiles, share) * token_tiles, clusters_max);
  return {.tokens = tokens,
          .warpgroups = warpgroups,
          .splits = splits,
          .tile_rows = tile_rows,
          .row_tiles = static_cast<int>(row_tiles),
          .token_tiles = static_cast<int>(token_tiles),
          .blocks = static_cast<int>(clusters * share * splits)};
}

}  // namespace

bool tiled_linear_fits(const Tensor& x, const Tensor& weight) {
  return copy_engine_reads(x) && copy_engine_reads(weight);
}

bool tiled_gated_fits(const Tensor& x, const Tensor& weight) {
  return tiled_linear_fits(x, weight) && weight.rows % 16 == 0;
}

TiledPlan plan_invariant(const Tensor& x, const Tensor& weight, bool gated, int multiprocessors) {
  TiledPlan best;
  double best_cost = 0;
  const auto consider = [&](const TiledPlan& plan, double cost) {
    if (best.blocks != 0 && cost >= best_cost) return;
    best = plan;
    best_cost = cost;
  };
  if (x.rows <= 64) {
    // In rows of weights, for the slowest block: the tiles' own, the activations' (from the L2 cache), the tiles' ends.
    const int tokens = x.rows <= 8 ? 8 : x.rows <= 16 ? 16 : x.rows <= 32 ? 32 : 64;
    const int grain = gated ? 16 : 8;
    for (int tile_rows = grain; tile_rows <= kGroupRows; tile_rows += grain) {
      const TiledPlan plan = cut(x, weight, tokens, 1, tile_rows, 1, multiprocessors);
      const double rest = 0.2 * tokens + 0.5;
      const int passes = ceil_div(plan.row_tiles, plan.blocks);
      const double even = static_cast<double>(weight.rows) / tile_rows / plan.blocks;
      const bool claims = tokens <= 16 && passes >= 5;
      consider(plan, claims ? even * (tile_rows + rest) + 0.6 * tile_rows : passes * (tile_rows + rest));
    }
    return best;
  }
  // In nanoseconds of an H100, for the slowest block: for every 64 columns what a multiprocessor can take in or
  // multiply (its products are of 64 rows, whatever a tile has), and the tiles' ends.
  const auto consider_cut = [&](int tokens, int tile_rows) {
    const int warpgroups = ceil_div(tile_rows, kGroupRows);
    const TiledPlan plan = cut(x, weight, tokens, warpgroups, tile_rows, 1, multiprocessors);
    const double steps = static_cast<double>(ceil_div<int64_t>(weight.columns, kTileColumns));
    const double area = static_cast<double>(tokens * warpgroups * kGroupRows) / 32768;  // of the largest tile's
    const double step = std::max(1.8 * (tile_rows + tokens), 760 * area);
    const int64_t tiles = round_up(plan.row_tiles, 2) * int64_t{plan.token_tiles};
    consider(plan, static_cast<double>(ceil_div<int64_t>(tiles, plan.blocks)) * (steps * step + 3000 * area));
  };
  for (int tile_rows = 32; tile_rows <= 2 * kGroupRows; tile_rows += 16) {
    if (tile_rows <= kGroupRows) consider_cut(64, tile_rows);
    consider_cut(128, tile_rows);
    if (tile_rows > kGroupRows) consider_cut(256, tile_rows);
  }
  return best;
}

bool splits_fit(const Tensor& weight) {
  return weight.columns > 4 * kTileColumns && weight.rows <= kSplitRowsMax;
}

TiledPlan plan_streaming(const Tensor& x, const Tensor& weight, bool gated, int splits, int multiprocessors) {
  TiledPlan best;
  double best_cost = 0;
  const int tokens = x.rows <= 32 ? 32 : x.rows <= 64 ? 64 : 128;
  const int depth = tokens == 32 ? 4 : tokens == 64 ? 2 : 1;
  const double columns = static_cast<double>(ceil_div<int64_t>(weight.columns, kTileColumns * depth) * depth);
  const int grain = gated ? 16 : 8;
  for (int rows = 2 * grain; rows <= kGroupRows * (tokens == 32 ? 1 : 2); rows += grain) {
    const int warpgroups = ceil_div(rows, kGroupRows);
    const TiledPlan plan = cut(x, weight, tokens, warpgroups, rows, splits, multiprocessors);
    // In nanoseconds, for the slowest block: for every 64 columns what memory gives it (an H200's) or the L2 cache, and
    // the tile's end.
    const double step = std::max(3.9 * rows, 3.0 * (rows + 0.5 * tokens));
    const int passes = ceil_div(ceil_div(plan.row_tiles, 2) * plan.token_tiles, plan.blocks / (2 * splits));
    const double cost = passes * (columns / splits * step + 1500);
    if (best.blocks != 0 && cost >= best_cost) continue;
    if (splits > 1 && part_bytes(plan) * round_up(plan.row_tiles, 2) > CudaDevice::kScratchBytes / 2) continue;
    best = plan;
    best_cost = cost;
  }
  return best;
}

void tiled_linear(CudaDevice& device, const LinearArgs& args, const TiledPlan& plan) {
  run_tiled<false>(device, args.out, args.weight, args.x, args.bias, plan);
}

void tiled_gated_linear(CudaDevice& device, const GatedLinearArgs& args, const TiledPlan& plan) {
  CHECK(args.out.format == Format::kBF16);
  run_tiled<true>(device, args.out, args.weight, args.x, args.bias, plan);
}

}  // namespace skein::cuda
