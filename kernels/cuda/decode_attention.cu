#include "kernels/cuda/decode_attention.h"

#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "base/cuda_limits.h"
#include "kernels/cuda/decode_consumer.cuh"
#include "kernels/cuda/decode_producer.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/tensor_map.h"

namespace skein::cuda {
namespace decode {
namespace {

template <int kHeadDim, int kGroups>
__global__ void __launch_bounds__(kThreads, (kBlocksPerMultiprocessor<kHeadDim, kGroups>))
    decode_attention_kernel(const __grid_constant__ Parameters p) {
  extern __shared__ uint8_t memory[];
  auto& shared = *reinterpret_cast<Shared<kHeadDim, kGroups>*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  // With append, all that is read before the consumers' wait was written before the launch before this one.
  if (!p.append) wait_for_previous_launch();
  if (!p.clusters) shared.rows.fill(p.plan, thread, kThreads);
  if (thread == kConsumers) {
    if (shared_address(memory) % 1024 != 0) __trap();  // the swizzle counts from there
    prefetch_tensor_map(&p.pages_map);
    for (int i = 0; i < Ring<kHeadDim, kGroups>::kStages; ++i) {
      barrier_init(&shared.described[i], 1);
      barrier_init(&shared.filled[i], 1);
      barrier_init(&shared.emptied[i], kWarps);
    }
    barrier_init(&shared.received, 1);
    fence_barrier_init();
  }
  if (p.clusters) {
    cluster_sync();
  } else {
    __syncthreads();
  }
  if (thread >= kConsumers) {
    Producer<kHeadDim, kGroups>{p, shared, thread % 32, evict_first_policy(), {}}.produce();
    return;
  }
  Consumer<kHeadDim, kGroups>{p, shared, thread, thread % 32, thread / 32}.consume();
}

using Kernel = void (*)(const Parameters);

struct Choice {
  Kernel kernel;
  size_t shared_bytes;
  int64_t partial_bytes;
  int blocks_per_multiprocessor;
};

template <int kHeadDim, int kGroups>
Choice choice(int pairs) {
  return {decode_attention_kernel<kHeadDim, kGroups>, sizeof(Shared<kHeadDim, kGroups>),
          kGroups * Partial<kHeadDim>::float4s(pairs) * 16, kBlocksPerMultiprocessor<kHeadDim, kGroups>};
}

// The most q heads of this rank that share a KV head.
int group_of(const AttentionArgs& args) { return std::min(args.group_size, args.q_heads); }

Choice choose(const AttentionArgs& args, int pairs) {
  if (args.pages.head_dim == 64) return group_of(args) <= 8 ? choice<64, 1>(pairs) : choice<64, 2>(pairs);
  return group_of(args) <= 8 ? choice<128, 1>(pairs) : choice<128, 2>(pairs);
}

CUtensorMap pages_map(const KvPages& pages) {
  const auto head_dim = static_cast<uint64_t>(pages.head_dim);
  const int64_t rows = int64_t{pages.blocks} * pages.kv_heads * 2 * pages.block_tokens;
  CHECK_LT(rows, int64_t{1} << 31);
  return tensor_map({.data = pages.data,
                     .dimensions = 3,
                     .sizes = {64, static_cast<uint64_t>(rows), head_dim / 64},
                     .strides = {head_dim * 2, 128},
                     .box = {64, 16, static_cast<uint32_t>(head_dim / 64)},
                     .read_once = true});
}

int kv_heads_used(const AttentionArgs& args) { return (args.q_heads - 1 + args.group_offset) / args.group_size + 1; }

void check(const AttentionArgs& args, bool append) {
  CHECK(decode_attention_fits(args));
  CHECK_EQ(args.out.rows, args.step.tokens);
  CHECK_EQ(args.out.columns, int64_t{args.q_heads} * args.pages.head_dim);
  CHECK_EQ(args.q.rows, args.step.tokens);
  CHECK(args.out.row_stride >= args.out.columns && args.out.row_stride % 8 == 0);
  CHECK(args.q.row_stride >= args.out.columns && args.q.row_stride % 8 == 0);
  CHECK(args.q_heads > 0 && args.group_size > 0 && args.group_offset >= 0 && args.group_offset < args.group_size);
  CHECK_LE(kv_heads_used(args), args.pages.kv_heads);
  CHECK(args.step.decode_rows <= args.step.rows && args.step.decode_rows <= args.step.tokens);
  CHECK(args.pages.blocks_per_slot > 0 && args.window >= 0);
  if (append) {
    CHECK(decode_attention_fuses_append(args));
    CHECK(args.append->qkv.data == args.q.data);
    CHECK_EQ(args.append->qkv.row_stride, args.q.row_stride);
    CHECK_EQ(args.append->q_heads, args.q_heads);
    CHECK(args.append->pages.data == args.pages.data);
  }
}

}  // namespace
}  // namespace decode

bool decode_attention_fits(const AttentionArgs& args) {
  const KvPages& pages = args.pages;
  const bool pages_fit = pages.format == Format::kBF16 && (pages.head_dim == 64 || pages.head_dim == 128) &&
                         cuda_block_is_fast(pages.block_tokens);
  return pages_fit && args.q.format == Format::kBF16 && args.out.format == Format::kBF16 &&
         decode::group_of(args) <= 16 && args.tree_mask == nullptr;
}

bool decode_attention_fuses_append(const AttentionArgs& args) {
  return args.append->rotary_dim % 16 == 0 && decode::kv_heads_used(args) == args.pages.kv_heads;
}

void decode_attention(CudaDevice& device, const AttentionArgs& args, bool append) {
  using namespace decode;
  check(args, append);
  const int pairs = std::min((group_of(args) + 1) / 2, 4);
  const Choice choice = choose(args, pairs);
  const int kv_heads = kv_heads_used(args);
  const int multiprocessors = device.multiprocessors();
  // Enough chunks for one row to keep every multiprocessor busy, as far as there is room for their results.
  const int64_t partials = CudaDevice::kScratchBytes / choice.partial_bytes;
  const int blocks_max = choice.blocks_per_multiprocessor * multiprocessors;
  const int splits = static_cast<int>(
      std::clamp<int64_t>(multiprocessors / kv_heads, kClusterBlocks, partials / blocks_max));
  Parameters p{};
  p.pages_map = pages_map(args.pages);
  p.plan.kv_heads = kv_heads;
  p.plan.window = args.window;
  p.plan.splits = splits;
  p.out_stride = args.out.row_stride;
  p.q_stride = args.q.row_stride;
  p.block_table = args.pages.block_table;
  p.partials = static_cast<float4*>(device.scratch());
  p.pairs = pairs;
  p.counters = device.counters();
  p.scale = args.scale * 1.44269504088896341f;  // log2(e)
  p.q_heads = args.q_heads;
  p.group_size = args.group_size;
  p.group_offset = args.group_offset;
  p.page_heads = args.pages.kv_heads;
  p.block_tokens = args.pages.block_tokens;
  p.blocks_per_slot = args.pages.blocks_per_slot;
  p.append = append;
  if (append) {
    p.pages = static_cast<__nv_bfloat16*>(args.pages.data);
    p.cos_sin = args.append->cos_sin;
    p.q_norm = args.append->q_norm;
    p.k_norm = args.append->k_norm;
    p.epsilon = args.append->norm_epsilon;
    p.rotary_half = args.append->rotary_dim / 2;
  }
  allow_shared_memory(device, choice.kernel, choice.shared_bytes);
  // A launch has as many rows as have counters and as the plan's 32-bit costs can hold.
  const int64_t tokens_max = int64_t{args.pages.blocks_per_slot} * args.pages.block_tokens;
  const int64_t tiles_max = ceil_div<int64_t>(tokens_max, kTileTokens);
  const int64_t row_cost_max = kv_heads * (kTileCost * tiles_max + kChunkCost * splits);
  const int64_t rows_max = std::min({int64_t{kPlanRowsMax}, CudaDevice::kCounters / kv_heads,
                                     ((int64_t{1} << 31) - 1) / row_cost_max});
  CHECK_GT(rows_max, 0);
  for (int64_t first = 0; first < args.step.decode_rows; first += rows_max) {
    p.plan.rows = static_cast<int>(std::min(rows_max, args.step.decode_rows - first));
    p.plan.positions = args.step.positions + first;
    p.plan.slots = args.step.slots + first;
    p.out = static_cast<__nv_bfloat16*>(args.out.data) + first * args.out.row_stride;
    p.q = static_cast<const __nv_bfloat16*>(args.q.data) + first * args.q.row_stride;
    p.blocks_per_multiprocessor = choice.blocks_per_multiprocessor;
    // Few rows: as many clusters for each row and KV head as there is room for and as a long row has chunks for. Not
    // every multiprocessor can be in a cluster.
    const int clusters_max = (multiprocessors / kClusterBlocks - 1) * choice.blocks_per_multiprocessor;
    const int clusters = std::min(clusters_max / (p.plan.rows * kv_heads), splits / kClusterBlocks);
    p.clusters = clusters > 0;
    Grid grid = {.blocks = dim3(static_cast<unsigned>(blocks_max)), .threads = dim3(kThreads),
                 .shared_bytes = choice.shared_bytes};
    if (p.clusters) {
      grid.blocks = dim3(static_cast<unsigned>(clusters * kClusterBlocks), static_cast<unsigned>(kv_heads),
                         static_cast<unsigned>(p.plan.rows));
      grid.cluster = kClusterBlocks;
    }
    launch(device, "decode_attention", choice.kernel, grid, p);
  }
}

}  // namespace skein::cuda
