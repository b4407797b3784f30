#include "kernels/cuda/split_linear.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/cluster.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear_tile.cuh"

namespace skein::cuda {
namespace {

constexpr int kSplits = 4;  // blocks of a cluster
constexpr int kGroupThreads = 128;
constexpr int kHeaderBytes = 1024;  // barriers
constexpr int kStagesMax = 16;
constexpr int kSharedBytesMax = 216 << 10;  // leaves room for small blocks of other launches

struct SplitArgs {
  LinearOut out;
  int tile_rows = 0;
  int tiles = 0;
  int steps = 0;  // column tiles
  int stages = 0;
};

template <int kTokens_, int kGroups_, bool kGated_>
struct Shape {
  static constexpr int kTokens = kTokens_;
  static constexpr int kGroups = kGroups_;  // warpgroups, with 64 rows each of the same tile
  static constexpr bool kGated = kGated_;
  static constexpr int kSums = kTokens / 2;          // of a thread
  static constexpr int kOwnSums = kSums / kSplits;   // of those, what its block adds up
  static constexpr int kOwnTokens = kTokens / kSplits;
  static constexpr int kXBytes = kTokens * kTileRowBytes;
  static constexpr int kPartBytes = (kSplits - 1) * kGroupThreads * kOwnSums * 4;  // received by a warpgroup for a tile
  static constexpr int kFixedBytes = kHeaderBytes + kGroups * kPartBytes;
  static constexpr int kConsumers = kGroupThreads * kGroups;
  static constexpr int kThreads = kConsumers + 32;  // and a warp that feeds the ring
};

template <typename S>
struct Memory {
  uint64_t* full;
  uint64_t* empty;
  uint64_t* received;      // [warpgroup]: the others' parts are there
  uint64_t* room;          // [warpgroup]: the others have read what this block sent
  float4* parts;           // [warpgroup][other block][four of the sums][thread]
  unsigned char* weights;  // [stage][row]
  unsigned char* x;        // [stage][token]
  int weight_bytes;        // of a stage

  __device__ Memory(unsigned char* shared, const SplitArgs& args)
      : full(reinterpret_cast<uint64_t*>(shared)),
        empty(full + kStagesMax),
        received(empty + kStagesMax),
        room(received + S::kGroups),
        parts(reinterpret_cast<float4*>(shared + kHeaderBytes)),
        weights(shared + S::kFixedBytes),
        weight_bytes(args.tile_rows * kTileRowBytes) {
    x = weights + args.stages * weight_bytes;
  }
  __device__ float4* part(int group, int slot, int four) const {
    return parts + ((group * (kSplits - 1) + slot) * (S::kOwnSums / 4) + four) * kGroupThreads +
           threadIdx.x % kGroupThreads;
  }
};

// What a block does: its part of the columns of every clusters-th tile.
struct Work {
  int rank = static_cast<int>(blockIdx.x) % kSplits;
  int tile = static_cast<int>(blockIdx.x) / kSplits;
  int tile_step = static_cast<int>(gridDim.x) / kSplits;
  int first_step;
  int steps;
  int passes;

  __device__ explicit Work(const SplitArgs& args)
      : first_step(args.steps * rank / kSplits),
        steps(args.steps * (rank + 1) / kSplits - first_step),
        passes((args.tiles - tile + tile_step - 1) / tile_step) {}
};

// The one thread that feeds the ring. Weights are constant: the ring's first filling does not wait for other launches.
template <typename S>
__device__ void produce(const Memory<S>& memory, const CUtensorMap& weight_map, const CUtensorMap& x_map,
                        const SplitArgs& args) {
  const uint64_t weight_policy = evict_first_policy();
  const uint64_t x_policy = evict_last_policy();
  const Work work(args);
  const auto load_weights = [&](int stage, int tile, int step) {
    uint64_t* full = &memory.full[stage];
    barrier_arrive_expect(full, static_cast<uint32_t>(memory.weight_bytes + S::kXBytes));
    unsigned char* to = memory.weights + stage * memory.weight_bytes;
    const int column = (work.first_step + step) * kTileColumns;
    if constexpr (S::kGated) {
      tensor_load_4d(to, &weight_map, column, 0, 0, tile * (args.tile_rows / 16), full, weight_policy);
    } else {
      tensor_load_2d(to, &weight_map, column, tile * args.tile_rows, full, weight_policy);
    }
  };
  const auto load_x = [&](int stage, int step) {
    tensor_load_2d(memory.x + stage * S::kXBytes, &x_map, (work.first_step + step) * kTileColumns, 0,
                   &memory.full[stage], x_policy);
  };

  const int all = work.passes * work.steps;
  const int ahead = min(args.stages, all);
  for (int i = 0; i < ahead; ++i) load_weights(i, work.tile + i / work.steps * work.tile_step, i % work.steps);
  cluster_wait();  // with everybody else
  wait_for_previous_launch();
  for (int i = 0; i < ahead; ++i) load_x(i, i % work.steps);
  let_next_launch_start();  // its blocks start where this one's end

  int tile = work.tile + ahead / work.steps * work.tile_step;
  int step = ahead % work.steps;
  int stage = 0;
  uint32_t parity = 0;
  for (int i = ahead; i < all; ++i) {
    barrier_wait(&memory.empty[stage], parity);
    load_weights(stage, tile, step);
    load_x(stage, step);
    if (++stage == args.stages) {
      stage = 0;
      parity ^= 1;
    }
    if (++step == work.steps) {
      step = 0;
      tile += work.tile_step;
    }
  }
}

// To each other block of the cluster the sums of its tokens; `own` gets this block's.
template <typename S>
__device__ void send(const Memory<S>& memory, int group, int rank, const float (&sums)[S::kSums],
                     float (&own)[S::kOwnSums]) {
#pragma unroll
  for (int to = 0; to < kSplits; ++to) {
    const float* from = sums + to * S::kOwnSums;
    if (to == rank) {
#pragma unroll
      for (int i = 0; i < S::kOwnSums; ++i) own[i] = from[i];
      continue;
    }
    const uint32_t barrier = shared_address_of(&memory.received[group], static_cast<uint32_t>(to));
#pragma unroll
    for (int four = 0; four < S::kOwnSums / 4; ++four) {
      const float4* at = memory.part(group, rank - (rank > to ? 1 : 0), four);
      store_and_count(shared_address_of(at, static_cast<uint32_t>(to)),
                      make_float4(from[4 * four], from[4 * four + 1], from[4 * four + 2], from[4 * four + 3]), barrier);
    }
  }
}

// Adds the blocks' parts in the order of blocks.
template <typename S>
__device__ void receive(const Memory<S>& memory, int group, int rank, uint32_t parity, const float (&own)[S::kOwnSums],
                        float (&total)[S::kOwnSums]) {
  if (threadIdx.x % kGroupThreads == 0) barrier_arrive_expect(&memory.received[group], S::kPartBytes);
  barrier_wait(&memory.received[group], parity);
#pragma unroll
  for (int i = 0; i < S::kOwnSums; ++i) total[i] = 0;
#pragma unroll
  for (int from = 0; from < kSplits; ++from) {
    const int slot = min(from - (from > rank ? 1 : 0), kSplits - 2);
#pragma unroll
    for (int four = 0; four < S::kOwnSums / 4; ++four) {
      const float4 part = *memory.part(group, slot, four);
      const float values[4] = {part.x, part.y, part.z, part.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) total[4 * four + i] += from == rank ? own[4 * four + i] : values[i];
    }
  }
}

// A warpgroup's 64 rows (the tile may have fewer) of every tile.
template <typename S>
__device__ void consume(const Memory<S>& memory, const SplitArgs& args) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = __shfl_sync(0xffffffff, static_cast<int>(threadIdx.x) / 32, 0);
  const int group = warp / 4;
  const Work work(args);
  const uint32_t weights = static_cast<uint32_t>(k_major_operand(shared_address(memory.weights))) +
                           static_cast<uint32_t>(group) * (kGroupRows * kTileRowBytes / 16);
  const auto x = static_cast<uint32_t>(k_major_operand(shared_address(memory.x)));
  cluster_wait();              // the others' barriers are there
  wait_for_previous_launch();  // it may still read what this one writes
  int stage = 0;
  uint32_t parity = 0;
  for (int pass = 0; pass < work.passes; ++pass) {
    float sums[S::kSums] = {};
    hold(sums);
    int before = -1;  // the stage whose products may still run
#pragma unroll 1
    for (int step = 0; step < work.steps; ++step) {
      barrier_wait(&memory.full[stage], parity);
      const uint32_t a = weights + static_cast<uint32_t>(stage * memory.weight_bytes / 16);
      const uint32_t b = x + static_cast<uint32_t>(stage * (S::kXBytes / 16));
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < kTileColumns / 16; ++k) wgmma(sums, operand(a + 2 * k), operand(b + 2 * k), true);
      wgmma_commit();
      wgmma_wait<1>();
      if (before >= 0 && lane == 0) barrier_arrive(&memory.empty[before]);
      before = stage;
      if (++stage == args.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    wgmma_wait<0>();
    if (lane == 0) barrier_arrive(&memory.empty[before]);
    hold(sums);

    if (pass > 0) barrier_wait(&memory.room[group], static_cast<uint32_t>(pass - 1) % 2);
    float own[S::kOwnSums];
    float total[S::kOwnSums];
    send<S>(memory, group, work.rank, sums, own);
    receive<S>(memory, group, work.rank, static_cast<uint32_t>(pass) % 2, own, total);
    __syncwarp();
    if (pass + 1 < work.passes && lane < kSplits && lane != work.rank) {  // behind the last tile nobody may be there
      arrive_at_rank(shared_address_of(&memory.room[group], static_cast<uint32_t>(lane)));
    }
    store_sums<S::kGated>(args.out, total, work.tile + pass * work.tile_step, args.tile_rows, warp * 16,
                          work.rank * S::kOwnTokens);
  }
}

template <typename S>
__global__ void __launch_bounds__(S::kThreads, 1)
    split_kernel(const __grid_constant__ CUtensorMap weight_map, const __grid_constant__ CUtensorMap x_map,
                 const SplitArgs args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const Memory<S> memory(shared, args);
  if (threadIdx.x == S::kConsumers) {
    prefetch_tensor_map(&weight_map);
    prefetch_tensor_map(&x_map);
    for (int i = 0; i < args.stages; ++i) {
      barrier_init(&memory.full[i], 1);
      barrier_init(&memory.empty[i], S::kConsumers / 32);
    }
    for (int i = 0; i < S::kGroups; ++i) {
      barrier_init(&memory.received[i], 1);
      barrier_init(&memory.room[i], (kSplits - 1) * kGroupThreads / 32);
    }
    fence_barrier_init();
  }
  __syncthreads();
  cluster_arrive_relaxed();
  if (threadIdx.x < S::kConsumers) {
    consume<S>(memory, args);
  } else if (threadIdx.x == S::kConsumers) {
    produce<S>(memory, weight_map, x_map, args);
  } else {
    cluster_wait();
  }
}

template <typename S>
void launch_split(CudaDevice& device, const Tensor& weight, const Tensor& x, const SplitPlan& plan, SplitArgs args) {
  const int stage_bytes = plan.tile_rows * kTileRowBytes + S::kXBytes;
  args.tile_rows = plan.tile_rows;
  args.tiles = plan.tiles;
  args.steps = static_cast<int>(ceil_div<int64_t>(weight.columns, kTileColumns));
  args.stages = std::clamp((kSharedBytesMax - S::kFixedBytes) / stage_bytes, 2, kStagesMax);
  // A product reads 64 rows of a tile that may have fewer: what follows must be there, not mean anything.
  const int overhang =
      std::max(0, (kGroupRows * S::kGroups - plan.tile_rows) * kTileRowBytes - args.stages * S::kXBytes);
  const auto shared_bytes = static_cast<size_t>(S::kFixedBytes + args.stages * stage_bytes + overhang);
  const auto kernel = split_kernel<S>;
  allow_shared_memory(device, kernel, shared_bytes);
  launch(device, "split linear", kernel,
         {.blocks = dim3(static_cast<unsigned>(plan.clusters * kSplits)),
          .threads = dim3(S::kThreads),
          .shared_bytes = shared_bytes,
          .cluster = kSplits},
         S::kGated ? map_of_pairs(weight, plan.tile_rows) : map_of_rows(weight, plan.tile_rows),
         map_of_rows(x, S::kTokens), args);
}

template <bool kGated>
void run_split(CudaDevice& device, const Tensor& out, const Tensor& weight, const Tensor& x, const float* bias,
               const SplitPlan& plan) {
  CHECK(split_linear_fits(x, weight, kGated));
  CHECK_EQ(out.rows, x.rows);
  CHECK_EQ(out.columns, kGated ? weight.rows / 2 : weight.rows);
  CHECK(plan.tile_rows % (kGated ? 16 : 8) == 0 && plan.tile_rows <= plan.warpgroups * kGroupRows);
  CHECK(x.rows <= plan.tokens && plan.clusters <= plan.tiles);
  CHECK_GE(int64_t{plan.tiles} * plan.tile_rows, weight.rows);
  const SplitArgs args = {.out = linear_out(out, bias)};
  const auto run = [&]<int kTokens, int kGroups>() {
    launch_split<Shape<kTokens, kGroups, kGated>>(device, weight, x, plan, args);
  };
  if (plan.tokens == 128) {
    CHECK_EQ(plan.warpgroups, 2);
    return run.template operator()<128, 2>();
  }
  const bool two = plan.warpgroups == 2;
  if (plan.tokens == 64) return two ? run.template operator()<64, 2>() : run.template operator()<64, 3>();
  CHECK_EQ(plan.tokens, 32);
  two ? run.template operator()<32, 2>() : run.template operator()<32, 3>();
}

}  // namespace

bool split_linear_fits(const Tensor& x, const Tensor& weight, bool gated) {
  return x.rows <= kSplitTokensMax && copy_engine_reads(x) && copy_engine_reads(weight) &&
         weight.columns > (kSplits - 1) * kTileColumns && (!gated || weight.rows % 16 == 0);
}

SplitPlan plan_split(const Tensor& x, const Tensor& weight, bool gated, int multiprocessors) {
  const int clusters_max = std::max(multiprocessors / kSplits - 1, 1);  // not all can be in clusters of four
  const int tokens = x.rows <= 32 ? 32 : x.rows <= 64 ? 64 : 128;
  SplitPlan best;
  double best_cost = 0;
  const int grain = gated ? 16 : 8;
  for (int rows = 4 * grain; rows <= kGroupRows * (tokens == 128 ? 2 : 3); rows += grain) {
    const int tiles = static_cast<int>(ceil_div<int64_t>(weight.rows, rows));
    // In rows of weights, for the slowest cluster: the tiles' own, the activations' (from the L2 cache), the exchange.
    const double cost = ceil_div(tiles, clusters_max) * (rows + 0.3 * tokens + 12);
    if (best.tiles != 0 && cost >= best_cost) continue;
    best_cost = cost;
    best = {.tokens = tokens,
            .warpgroups = rows <= 2 * kGroupRows ? 2 : 3,
            .tile_rows = rows,
            .tiles = tiles,
            .clusters = std::min(tiles, clusters_max)};
  }
  return best;
}

void split_linear(CudaDevice& device, const LinearArgs& args, const SplitPlan& plan) {
  run_split<false>(device, args.out, args.weight, args.x, args.bias, plan);
}

void split_gated_linear(CudaDevice& device, const GatedLinearArgs& args, const SplitPlan& plan) {
  CHECK(args.out.format == Format::kBF16);
  run_split<true>(device, args.out, args.weight, args.x, args.bias, plan);
}

}  // namespace skein::cuda
