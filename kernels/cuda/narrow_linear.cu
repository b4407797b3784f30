#include "kernels/cuda/narrow_linear.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/largest_key.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_tile.cuh"

namespace skein::cuda {
namespace {

constexpr int kConsumers = 256;  // two warpgroups; then a warp that feeds the ring
constexpr int kThreads = kConsumers + 32;
constexpr int kHeaderBytes = 1024;  // barriers
constexpr int kStagesMax = 32;
// One block an SM: a second one would leave another SM without, and the slowest SM decides. Room for small blocks of
// other launches is left.
constexpr int kSharedBytesMax = 216 << 10;

struct NarrowArgs {
  int rows = 0;       // outputs, or pairs
  int tile_rows = 0;  // of those
  int tiles = 0;
  int steps = 0;  // stages of a tile
  int stages = 0;
  int tokens = 0;
  uint32_t* claims = nullptr;  // {tiles taken, blocks done}, zero between launches; null: every block has its tiles
  unsigned char* out = nullptr;
  int64_t out_stride = 0;
  int out_bytes = 2;  // of an element: bf16, or f32
  const float* bias = nullptr;
  uint64_t* largest = nullptr;  // (tokens) or null
};

// The kShare blocks of a cluster work on neighbouring tiles and share what they read of x.
template <int kTokens_, bool kGated_, int kShare_>
struct Shape {
  static constexpr int kTokens = kTokens_;
  static constexpr bool kGated = kGated_;
  static constexpr int kShare = kShare_;
  static constexpr bool kLargest = !kGated && kTokens <= kLargestTokensMax;
  static constexpr int kDepth = 4;            // column tiles of a stage, half of them for each warpgroup
  static constexpr int kChains = kDepth / 2;  // sums that a warpgroup keeps, so that products overlap
  static constexpr int kXBytes = kDepth * kTokens * kTileRowBytes;
  static constexpr int kPitch = kTokens + 2;  // of the parts: spreads rows over the banks
  static constexpr int kPartFloats = kGroupRows * kPitch;
  static constexpr int kFixedBytes = kHeaderBytes + (2 * kPartFloats * 4 + 1023) / 1024 * 1024;
};

template <typename S>
struct Ring {
  uint64_t* full;
  uint64_t* empty;
  int* tile_of;  // (stages) which tile a stage's weights belong to, -1 behind the last
  float* parts;  // [warpgroup][row of the tile][token]
  unsigned char* weights;
  unsigned char* x;
  int weight_bytes;  // of a stage

  __device__ Ring(unsigned char* shared, const NarrowArgs& args)
      : full(reinterpret_cast<uint64_t*>(shared)),
        empty(full + kStagesMax),
        tile_of(reinterpret_cast<int*>(empty + kStagesMax)),
        parts(reinterpret_cast<float*>(shared + kHeaderBytes)),
        weights(shared + S::kFixedBytes),
        weight_bytes(args.tile_rows * (S::kGated ? 2 : 1) * S::kDepth * kTileRowBytes) {
    x = weights + args.stages * weight_bytes;
  }
};

// What a block does if nobody claims tiles: every tile_step-th one.
template <typename S>
struct Work {
  int share = static_cast<int>(blockIdx.x) % S::kShare;
  int tile = static_cast<int>(blockIdx.x);
  int tile_step = static_cast<int>(gridDim.x);

  // All blocks of a cluster go round as often, whether their tiles are there or not.
  __device__ int passes(const NarrowArgs& args) const {
    return (args.tiles - (tile - share) + tile_step - 1) / tile_step;
  }
};

// The one thread that feeds the ring. Weights are constant: the ring's first filling does not wait for other launches.
template <typename S>
__device__ void produce(const Ring<S>& ring, const CUtensorMap& weight_map, const CUtensorMap& x_map,
                        const NarrowArgs& args) {
  const uint64_t weight_policy = evict_first_policy();
  const uint64_t x_policy = evict_last_policy();
  const Work<S> work;
  const int steps = args.steps;
  const int passes = work.passes(args);
  // Tiles that the first filling of the ring reaches are the block's own; it takes the others as it goes, for some SMs
  // are nearer to the memory than others.
  const int own_passes = args.claims == nullptr ? passes : (args.stages + steps - 1) / steps;
  const auto load_weights = [&](int stage, int tile, int step) {
    uint64_t* full = &ring.full[stage];
    ring.tile_of[stage] = tile;
    barrier_arrive_expect(full, static_cast<uint32_t>(ring.weight_bytes + S::kXBytes));
    unsigned char* to = ring.weights + stage * ring.weight_bytes;
    if constexpr (S::kGated) {
      tensor_load_4d(to, &weight_map, 0, tile * args.tile_rows, 0, step * S::kDepth, full, weight_policy);
    } else {
      tensor_load_3d(to, &weight_map, 0, tile * args.tile_rows, step * S::kDepth, full, weight_policy);
    }
  };
  const auto load_x = [&](int stage, int step) {
    unsigned char* to = ring.x + stage * S::kXBytes;
    if constexpr (S::kShare == 1) {
      tensor_load_3d(to, &x_map, 0, 0, step * S::kDepth, &ring.full[stage], x_policy);
    } else {
      // A slice of the tokens of each column tile, for all that share it.
      constexpr int kSlice = S::kTokens / S::kShare;
      constexpr uint32_t mask = (1u << S::kShare) - 1;
#pragma unroll
      for (int i = 0; i < S::kDepth; ++i) {
        tensor_multicast_3d(to + (i * S::kTokens + work.share * kSlice) * kTileRowBytes, &x_map, 0, work.share * kSlice,
                            step * S::kDepth + i, &ring.full[stage], mask, x_policy);
      }
    }
  };

  const int ahead = min(args.stages, passes * steps);
  for (int i = 0; i < ahead; ++i) load_weights(i, work.tile + i / steps * work.tile_step, i % steps);
  if constexpr (S::kShare > 1) cluster_wait();  // the others' barriers are there
  wait_for_previous_launch();
  for (int i = 0; i < ahead; ++i) load_x(i, i % steps);
  let_next_launch_start();  // its blocks start where this one's end

  const int first_claim = own_passes * static_cast<int>(gridDim.x);
  int claimed = args.claims == nullptr ? 0 : first_claim + static_cast<int>(atomicAdd(args.claims, 1));
  int pass = ahead / steps;
  int tile = work.tile + pass * work.tile_step;
  int step = ahead % steps;
  int stage = ahead % args.stages;
  uint32_t parity = 0;
  const auto next_stage = [&] {
    if (++stage == args.stages) {
      stage = 0;
      parity ^= 1;
    }
  };
  for (;;) {
    if (step == 0 && pass >= own_passes) {
      if (args.claims == nullptr) break;
      tile = claimed;
      if (tile >= args.tiles) break;
      claimed = first_claim + static_cast<int>(atomicAdd(args.claims, 1));  // needed a tile later
    }
    barrier_wait(&ring.empty[stage], parity);
    load_weights(stage, tile, step);
    load_x(stage, step);
    next_stage();
    if (++step == steps) {
      step = 0;
      ++pass;
      tile += work.tile_step;
    }
  }
  if (args.claims == nullptr) return;
  barrier_wait(&ring.empty[stage], parity);
  ring.tile_of[stage] = -1;
  barrier_arrive(&ring.full[stage]);
  if (atomicInc(args.claims + 1, gridDim.x - 1) == gridDim.x - 1) args.claims[0] = 0;  // nobody claims any more
}

// The warpgroups' sums and bias. `part` 1: of the up row.
template <typename S>
__device__ __forceinline__ float total(const Ring<S>& ring, const NarrowArgs& args, int tile, int local, int token,
                                       int part) {
  const float* from = ring.parts + (local + part * args.tile_rows) * S::kPitch + token;
  const float value = from[0] + from[S::kPartFloats];
  if (args.bias == nullptr) return value;
  return value + __ldg(args.bias + part * args.rows + tile * args.tile_rows + local);
}

// Stores a tile: neighbouring threads have neighbouring rows.
template <typename S>
__device__ void store_tile(const Ring<S>& ring, const NarrowArgs& args, int tile) {
  const int rows = min(args.tile_rows, args.rows - tile * args.tile_rows);
  for (int i = static_cast<int>(threadIdx.x); i < args.tile_rows * args.tokens; i += kConsumers) {
    const int local = i % args.tile_rows;
    const int token = i / args.tile_rows;
    if (local >= rows) continue;
    const int row = tile * args.tile_rows + local;
    float value = total(ring, args, tile, local, token, 0);
    if constexpr (S::kGated) value = gated(value, total(ring, args, tile, local, token, 1));
    unsigned char* to = args.out + (token * args.out_stride + row) * args.out_bytes;
    if (args.out_bytes == 4) {
      *reinterpret_cast<float*>(to) = value;
    } else {
      *reinterpret_cast<__nv_bfloat16*>(to) = __float2bfloat16(value);
    }
  }
}

// The largest of what a lane has seen of its warp's tokens: the warp's number, and so many warps on.
template <typename S>
struct Largest {
  static constexpr int kWarps = kConsumers / 32;
  uint64_t keys[S::kTokens <= kWarps ? 1 : S::kTokens / kWarps] = {};

  __device__ void see(const Ring<S>& ring, const NarrowArgs& args, int tile) {
    const int first = tile * args.tile_rows;
    const int rows = min(args.tile_rows, args.rows - first);
    each_token(args, [&](uint64_t& key, int token) {
      for (int local = static_cast<int>(threadIdx.x % 32); local < rows; local += 32) {
        key = max(key, largest_key(total(ring, args, tile, local, token, 0), first + local));
      }
    });
  }
  __device__ void raise(const NarrowArgs& args) {
    each_token(args, [&](uint64_t key, int token) { raise_largest(args.largest + token, 0, key, ~0u); });
  }

 private:
  template <typename Visit>
  __device__ void each_token(const NarrowArgs& args, Visit visit) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof keys / sizeof *keys); ++i) {
      const int token = static_cast<int>(threadIdx.x / 32) + i * kWarps;
      if (token < args.tokens) visit(keys[i], token);
    }
  }
};

// A warpgroup's sums to where they are added.
template <typename S>
__device__ void hand_over(const float (&sums)[S::kTokens / 2], float* parts) {
  const int row = static_cast<int>(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4);
  float* to = parts + row * S::kPitch + threadIdx.x % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < S::kTokens / 8; ++i) {
      const int at = i * 4 + half * 2;
      *reinterpret_cast<float2*>(to + 8 * half * S::kPitch + 8 * i) = make_float2(sums[at], sums[at + 1]);
    }
  }
}

// Each warpgroup multiplies half of a stage's columns: 64 rows, of which the tile may have fewer.
template <typename S>
__device__ void consume(const Ring<S>& ring, const NarrowArgs& args) {
  const int group = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 128, 0);
  constexpr uint32_t kXStep = S::kTokens * kTileRowBytes / 16;
  const Work<S> work;
  const uint32_t tile_step = static_cast<uint32_t>(ring.weight_bytes / S::kDepth / 16);
  const auto first = static_cast<uint32_t>(S::kChains * group);  // column tile of a stage
  const uint32_t weights = static_cast<uint32_t>(k_major_operand(shared_address(ring.weights))) + first * tile_step;
  const uint32_t x = static_cast<uint32_t>(k_major_operand(shared_address(ring.x))) + first * kXStep;
  if constexpr (S::kShare > 1) cluster_wait();
  wait_for_previous_launch();  // it may still read what this one writes
  int stage = 0;
  uint32_t parity = 0;
  const int passes = work.passes(args);
  int tile = work.tile;
  Largest<S> largest;
  for (int pass = 0;; ++pass, tile += work.tile_step) {
    if (args.claims == nullptr) {
      if (pass == passes) break;
    } else {
      barrier_wait(&ring.full[stage], parity);
      // Read by the lane that gives the stage back.
      tile = __shfl_sync(0xffffffff, threadIdx.x % 32 == 0 ? ring.tile_of[stage] : 0, 0);
      if (tile < 0) break;
    }
    float sums[S::kChains][S::kTokens / 2] = {};
#pragma unroll
    for (int i = 0; i < S::kChains; ++i) hold(sums[i]);
    int before = -1;  // the stage whose products may still run
#pragma unroll 1
    for (int step = 0; step < args.steps; ++step) {
      barrier_wait(&ring.full[stage], parity);
      const uint32_t a = weights + static_cast<uint32_t>(stage) * (tile_step * S::kDepth);
      const uint32_t b = x + static_cast<uint32_t>(stage) * (S::kXBytes / 16);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kTileColumns / 16; ++k) {
#pragma unroll
        for (int i = 0; i < S::kChains; ++i) {
          wgmma(sums[i], operand(a + i * tile_step + 2 * k), operand(b + i * kXStep + 2 * k), true);
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
#pragma unroll
    for (int i = 0; i < S::kChains; ++i) hold(sums[i]);
#pragma unroll
    for (int i = 0; i < S::kTokens / 2; ++i) sums[0][i] += sums[1][i];

    if (pass > 0) named_barrier_sync(2, kConsumers);  // the parts before have been read
    hand_over<S>(sums[0], ring.parts + group * S::kPartFloats);
    named_barrier_sync(1, kConsumers);
    store_tile<S>(ring, args, tile);
    if constexpr (S::kLargest) {
      if (args.largest != nullptr) largest.see(ring, args, tile);
    }
  }
  if constexpr (S::kLargest) {
    if (args.largest != nullptr) largest.raise(args);
  }
}

template <typename S>
__global__ void __launch_bounds__(kThreads, 1)
    narrow_kernel(const __grid_constant__ CUtensorMap weight_map, const __grid_constant__ CUtensorMap x_map,
                  const NarrowArgs args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Ring<S> ring(shared, args);
  if (threadIdx.x == kConsumers) {
    prefetch_tensor_map(&weight_map);
    prefetch_tensor_map(&x_map);
    for (int i = 0; i < args.stages; ++i) {
      barrier_init(&ring.full[i], 1);
      barrier_init(&ring.empty[i], S::kShare * kConsumers / 32);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if constexpr (S::kShare > 1) cluster_arrive_relaxed();
  if (threadIdx.x < kConsumers) {
    consume<S>(ring, args);
  } else if (threadIdx.x == kConsumers) {
    produce<S>(ring, weight_map, x_map, args);
  } else if constexpr (S::kShare > 1) {
    cluster_wait();
  }
  if constexpr (S::kShare > 1) {  // nobody leaves while others may write to its shared memory
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();
  }
}

// Boxes of `depth` column tiles, each a tile of its own in shared memory.
CUtensorMap map_of_column_tiles(const Tensor& matrix, int box_rows, int depth) {
  return tensor_map({.data = matrix.data,
                     .dimensions = 3,
                     .sizes = {kTileColumns, static_cast<uint64_t>(matrix.rows),
                               static_cast<uint64_t>(matrix.columns / kTileColumns)},
                     .strides = {static_cast<uint64_t>(matrix.row_stride) * 2, kTileRowBytes},
                     .box = {kTileColumns, static_cast<uint32_t>(box_rows), static_cast<uint32_t>(depth)}});
}

// The same of pairs: a column tile's gate rows, then its up rows.
CUtensorMap map_of_gates_and_ups(const Tensor& matrix, int box_pairs, int depth) {
  const auto pairs = static_cast<uint64_t>(matrix.rows / 2);
  const uint64_t row_bytes = static_cast<uint64_t>(matrix.row_stride) * 2;
  return tensor_map({.data = matrix.data,
                     .dimensions = 4,
                     .sizes = {kTileColumns, pairs, 2, static_cast<uint64_t>(matrix.columns / kTileColumns)},
                     .strides = {row_bytes, pairs * row_bytes, kTileRowBytes},
                     .box = {kTileColumns, static_cast<uint32_t>(box_pairs), 2, static_cast<uint32_t>(depth)}});
}

template <typename S>
void launch_narrow(CudaDevice& device, const Tensor& weight, const Tensor& x, const NarrowPlan& plan, NarrowArgs args) {
  CHECK_EQ(plan.blocks % S::kShare, 0);
  const int stage_rows = plan.tile_rows * (S::kGated ? 2 : 1);
  const int stage_bytes = stage_rows * S::kDepth * kTileRowBytes + S::kXBytes;
  const int overhang = (kGroupRows - stage_rows) * kTileRowBytes;  // rows that a product reads behind the last tile
  args.steps = static_cast<int>(ceil_div<int64_t>(weight.columns, kTileColumns * S::kDepth));
  args.stages = std::clamp((kSharedBytesMax - S::kFixedBytes - overhang) / stage_bytes, 2, kStagesMax);
  const auto shared_bytes = static_cast<size_t>(S::kFixedBytes + args.stages * stage_bytes + overhang);
  // Worth its while if a block makes several tiles; the first filling must not reach the last.
  const int64_t own = ceil_div(args.stages, args.steps) * int64_t{plan.blocks};
  if (S::kShare == 1 && plan.tiles >= 2 * own) args.claims = device.counters();
  const auto kernel = narrow_kernel<S>;
  allow_shared_memory(device, kernel, shared_bytes);
  launch(device, "narrow linear", kernel,
         {.blocks = dim3(static_cast<unsigned>(plan.blocks)),
          .threads = dim3(kThreads),
          .shared_bytes = shared_bytes,
          .cluster = S::kShare},
         S::kGated ? map_of_gates_and_ups(weight, plan.tile_rows, S::kDepth)
                   : map_of_column_tiles(weight, plan.tile_rows, S::kDepth),
         map_of_column_tiles(x, S::kTokens / S::kShare, S::kShare == 1 ? S::kDepth : 1), args);
}

template <bool kGated>
void run_narrow(CudaDevice& device, const Tensor& out, const Tensor& weight, const Tensor& x, const float* bias,
                const NarrowPlan& plan, uint64_t* largest) {
  const int64_t rows = kGated ? weight.rows / 2 : weight.rows;
  CHECK(narrow_can(x, weight));
  CHECK(x.rows >= 1 && x.rows <= kNarrowTokensMax);
  CHECK_EQ(out.rows, x.rows);
  CHECK_EQ(out.columns, rows);
  CHECK(plan.tile_rows % 8 == 0 && plan.tile_rows <= kGroupRows / (kGated ? 2 : 1));
  CHECK_GE(int64_t{plan.tiles} * plan.tile_rows, rows);
  const NarrowArgs args = {.rows = static_cast<int>(rows),
                           .tile_rows = plan.tile_rows,
                           .tiles = plan.tiles,
                           .tokens = static_cast<int>(x.rows),
                           .out = static_cast<unsigned char*>(out.data),
                           .out_stride = out.row_stride,
                           .out_bytes = out.format == Format::kF32 ? 4 : 2,
                           .bias = bias,
                           .largest = largest};
  if (x.rows <= 8) return launch_narrow<Shape<8, kGated, 1>>(device, weight, x, plan, args);
  if (x.rows <= 16) return launch_narrow<Shape<16, kGated, 1>>(device, weight, x, plan, args);
  launch_narrow<Shape<32, kGated, 2>>(device, weight, x, plan, args);
}

}  // namespace

NarrowPlan plan_narrow(int64_t rows, int64_t tokens, bool gated, int multiprocessors) {
  const int64_t per_row = gated ? 2 : 1;
  const int64_t share = tokens <= 16 ? 1 : 2;
  const int64_t clusters = multiprocessors / share;
  NarrowPlan best;
  double best_cost = 0;
  for (int64_t tile_rows = 8; tile_rows <= kGroupRows / per_row; tile_rows += 8) {
    const int64_t tiles = ceil_div(rows, tile_rows);
    const int64_t passes = ceil_div<int64_t>(tiles, clusters * share);
    // In rows of weights, for the slowest block: the tiles' own, the activations' (from the L2 cache), the tiles' ends.
    // Blocks that take many tiles as they go are done half a tile apart.
    const double rows_of_tile = static_cast<double>(tile_rows * per_row);
    const double with_rest = rows_of_tile + 0.2 * static_cast<double>(tokens) + 0.5;
    const double even = static_cast<double>(rows) / static_cast<double>(tile_rows * clusters * share);
    const bool claims = share == 1 && passes >= 5;
    const double cost = claims ? even * with_rest + 0.6 * rows_of_tile : static_cast<double>(passes) * with_rest;
    if (best.tiles != 0 && cost >= best_cost) continue;
    best_cost = cost;
    best = {.tile_rows = static_cast<int>(tile_rows),
            .tiles = static_cast<int>(tiles),
            .blocks = static_cast<int>(std::min(ceil_div<int64_t>(tiles, share), clusters) * share)};
  }
  return best;
}

bool narrow_can(const Tensor& x, const Tensor& weight) {
  return copy_engine_reads(x) && copy_engine_reads(weight) && weight.columns % kTileColumns == 0;
}

void narrow_linear(CudaDevice& device, const LinearArgs& args, const NarrowPlan& plan) {
  run_narrow<false>(device, args.out, args.weight, args.x, args.bias, plan, args.largest);
}

void narrow_gated_linear(CudaDevice& device, const GatedLinearArgs& args, const NarrowPlan& plan) {
  run_narrow<true>(device, args.out, args.weight, args.x, args.bias, plan, nullptr);
}

}  // namespace skein::cuda
