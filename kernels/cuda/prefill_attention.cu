#include "kernels/cuda/prefill_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "base/checked.h"
#include "base/cuda_limits.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prefill_consumer.cuh"
#include "kernels/cuda/prefill_producer.cuh"
#include "kernels/cuda/tensor_map.h"

namespace skein::cuda {
namespace {

template <int kDim, bool kFixedParts>
__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel(const PrefillParams params, const __grid_constant__ CUtensorMap queries,
                   const __grid_constant__ CUtensorMap pages) {
  extern __shared__ uint8_t memory[];
  auto& shared = *reinterpret_cast<Shared<kDim>*>(memory + (1024 - shared_address(memory) % 1024) % 1024);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    prefetch_tensor_map(&queries);
    prefetch_tensor_map(&pages);
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared.query_full[i], 1);
      barrier_init(&shared.query_empty[i], kWarpgroups * 4);
      barrier_init(&shared.key_full[i], 1);
      barrier_init(&shared.key_empty[i], kWarpgroups * 4);
      barrier_init(&shared.value_full[i], 1);
      barrier_init(&shared.value_empty[i], kWarpgroups * 4);
    }
    fence_barrier_init();
  }
  // Positions and slots are older than the launch before this one.
  make_plan(params.batch, shared.plan, *reinterpret_cast<PlanMemory*>(shared.keys), kThreads);
  fence_async_shared();
  __syncthreads();
  wait_for_previous_launch();

  if (thread < 128) {
    give_registers<56>();
    if (thread < 32) produce<kDim>(shared, params, &queries, &pages);
    let_next_launch_start();
  } else {
    take_registers<224>();
    consume<kDim, kFixedParts>(shared, params);
  }
}

// Heads that share a tile, as many as read the same KV head: then a short row fills its tile better.
int pack_shift(const AttentionArgs& args) {
  int shift = 0;
  for (int heads = 2; heads <= 16; heads *= 2) {
    if (args.group_size % heads != 0 || args.group_offset % heads != 0 || args.q_heads % heads != 0) break;
    ++shift;
  }
  return shift;
}

int64_t entries_of(const StepView& step, int first_row, int shift) {
  int64_t entries = 0;
  for (int row = first_row; row < step.rows; ++row) {
    const int64_t queries = step.query_begin_host[row + 1] - step.query_begin_host[row];
    entries += ceil_div(queries << shift, int64_t{kTileRows});
  }
  return entries;
}

// Of a piece's results, for all of a tile's rows.
int64_t part_bytes(int head_dim) { return int64_t{kWarpgroups} * 128 * 16 * (head_dim / 8 + 1); }

template <int kDim, bool kFixedParts>
void launch_prefill(CudaDevice& device, const AttentionArgs& args, const PrefillParams& params) {
  const KvPages& pages = args.pages;
  const int shift = params.batch.pack_shift;
  constexpr uint64_t kHeadBytes = kDim * 2;
  const CUtensorMap query_map = tensor_map({
      .data = args.q.data,
      .dimensions = 3,
      .sizes = {kDim, static_cast<uint64_t>(args.q_heads), static_cast<uint64_t>(args.step.tokens)},
      .strides = {kHeadBytes, static_cast<uint64_t>(args.q.row_stride) * 2},
      .box = {64, 1u << shift, 64u >> shift},
  });
  const auto block_tokens = static_cast<uint32_t>(pages.block_tokens);
  const CUtensorMap page_map = tensor_map({
      .data = pages.data,
      .dimensions = 3,
      .sizes = {kDim, block_tokens, static_cast<uint64_t>(pages.blocks) * static_cast<uint64_t>(pages.kv_heads) * 2},
      .strides = {kHeadBytes, block_tokens * kHeadBytes},
      .box = {64, block_tokens, 1},
  });
  constexpr size_t kSharedBytes = sizeof(Shared<kDim>) + 1024;
  auto* kernel = prefill_kernel<kDim, kFixedParts>;
  allow_shared_memory(device, kernel, kSharedBytes);
  const int tiles = params.batch.entries * params.batch.head_packs;
  const int blocks = params.batch.may_split ? device.multiprocessors() : std::min(tiles, device.multiprocessors());
  launch(device, "prefill_attention", kernel,
         {.blocks = dim3(static_cast<unsigned>(blocks)), .threads = dim3(kThreads),
          .shared_bytes = kSharedBytes},
         params, query_map, page_map);
}

}  // namespace

bool prefill_attention_fits(const AttentionArgs& args) {
  const KvPages& pages = args.pages;
  return args.tree_mask == nullptr && (pages.head_dim == 64 || pages.head_dim == 128) &&
         cuda_block_is_fast(pages.block_tokens) &&
         args.q.format == Format::kBF16 && args.out.format == Format::kBF16 && pages.format == Format::kBF16 &&
         args.step.rows <= kRowsMax && entries_of(args.step, 0, 0) <= kEntriesMax;
}

int prefill_attention_rows(const StepView& step, int first_row) {
  int64_t entries = 0;
  int row = first_row;
  while (row < step.rows && row - first_row < kRowsMax) {
    entries += ceil_div(int64_t{step.query_begin_host[row + 1]} - step.query_begin_host[row], int64_t{kTileRows});
    if (row > first_row && entries > kEntriesMax) break;
    ++row;
  }
  return row - first_row;
}

void prefill_attention(CudaDevice& device, const AttentionArgs& args, int first_row) {
  const StepView& step = args.step;
  CHECK(prefill_attention_fits(args));
  CHECK(0 <= first_row && first_row <= step.rows);
  CHECK(args.scale > 0 && args.window >= 0);
  const KvPages& pages = args.pages;
  CHECK_GE(args.q.row_stride, int64_t{args.q_heads} * pages.head_dim);
  CHECK_GE(args.out.row_stride, int64_t{args.q_heads} * pages.head_dim);
  CHECK_EQ(args.q.row_stride % 8, 0);
  CHECK_EQ(args.out.row_stride % 8, 0);
  CHECK_LE((args.q_heads - 1 + args.group_offset) / args.group_size, pages.kv_heads - 1);
  int shift = pack_shift(args);
  while (shift > 0 && entries_of(step, first_row, shift) > kEntriesMax) --shift;
  const auto entries = static_cast<int>(entries_of(step, first_row, shift));
  if (entries == 0) return;
  const int tiles = entries * (args.q_heads >> shift);
  PrefillParams params{
      .batch = {.query_begin = step.query_begin + first_row,
                .positions = step.positions,
                .slots = step.slots + first_row,
                .rows = step.rows - first_row,
                .entries = entries,
                .pack_shift = shift,
                .head_packs = args.q_heads >> shift,
                .packs_per_kv_head = std::max(1, args.group_size >> shift),
                .window = args.window,
                .may_split = entries <= kSplitEntriesMax &&
                             tiles < device.multiprocessors() * (device.deterministic() ? 4 : 1),
                .fixed_parts = device.deterministic(),
                .pieces_max = static_cast<int>(CudaDevice::kScratchBytes / part_bytes(pages.head_dim)),
                .kv_token_bytes = pages.head_dim * 4,
                .kv_bytes_max = device.l2_bytes() / 2},
      .out = static_cast<__nv_bfloat16*>(args.out.data),
      .out_stride = args.out.row_stride,
      .block_table = pages.block_table,
      .blocks_per_slot = pages.blocks_per_slot,
      .block_tokens = pages.block_tokens,
      .page_shift = std::countr_zero(static_cast<unsigned>(kTileKeys / pages.block_tokens)),
      .kv_heads = pages.kv_heads,
      .group_size = args.group_size,
      .group_offset = args.group_offset,
      .scale = args.scale * static_cast<float>(M_LOG2E),
      .next_item = device.counters(),
      .arrivals = device.counters() + 1,
      .parts = static_cast<float*>(device.scratch()),
  };
  const auto launch_with = [&]<bool kFixedParts>() {
    if (pages.head_dim == 64) {
      launch_prefill<64, kFixedParts>(device, args, params);
    } else {
      launch_prefill<128, kFixedParts>(device, args, params);
    }
  };
  if (device.deterministic()) {
    launch_with.template operator()<true>();
  } else {
    launch_with.template operator()<false>();
  }
}

}  // namespace skein::cuda
