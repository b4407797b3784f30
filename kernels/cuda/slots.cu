#include <algorithm>

#include "base/check.h"
#include "base/checked.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

// What moves tokens and KV blocks: a step's inputs out of the slots, sampled tokens back, copies of blocks.

namespace skein::cuda {
namespace {

constexpr int kGatherThreads = 128;
constexpr int kTokensPerBlock = 1024;
constexpr int kStoreThreads = 256;
constexpr int kCopyThreads = 256;
constexpr int kCopiesInFlight = 4;  // 16-byte words a thread
constexpr int kCopyPairsMax = 32 * 1024;

// Block (r, part) writes every gridDim.y-th span of row r's tokens.
__global__ void __launch_bounds__(kGatherThreads) gather_row_tokens(GatherArgs args) {
  wait_for_previous_launch();
  let_next_launch_start();
  const int r = static_cast<int>(blockIdx.x);
  const int32_t slot = args.step.slots[r];
  const int32_t begin = args.step.query_begin[r];
  const int32_t end = args.step.query_begin[r + 1];
  int32_t first = args.first_position[r];
  const bool padding = slot < 0;
  if (!padding && first < 0) first = args.state.lengths[slot] - 1;
  const int32_t* tokens = args.state.tokens + int64_t{padding ? 0 : slot} * args.state.tokens_max;
  const int32_t stride = static_cast<int32_t>(gridDim.y * kGatherThreads);
  for (int32_t t = begin + static_cast<int32_t>(blockIdx.y * kGatherThreads + threadIdx.x); t < end; t += stride) {
    const int32_t position = first + t - begin;
    const bool known = !padding && position >= 0 && position < args.state.tokens_max;
    args.positions[t] = known ? position : -1;
    args.token_ids[t] = known ? tokens[position] : -1;
  }
}

__global__ void __launch_bounds__(kStoreThreads) store_slot_tokens(StoreTokensArgs args) {
  wait_for_previous_launch();
  let_next_launch_start();
  const int i = static_cast<int>(blockIdx.x * kStoreThreads + threadIdx.x);
  if (i >= args.count) return;
  const int32_t slot = args.slots[i];
  const int32_t position = args.positions[i];
  const int32_t token = args.tokens[i];
  if (slot < 0 || token < 0 || position < 0 || position >= args.state.tokens_max) return;
  args.state.tokens[int64_t{slot} * args.state.tokens_max + position] = token;
  atomicMax(args.state.lengths + slot, position + 1);  // a slot may get several tokens
}

__global__ void __launch_bounds__(kCopyThreads) copy_pairs(uint4* data, int64_t block_words, const int32_t* pairs,
                                                           int count) {
  wait_for_previous_launch();
  let_next_launch_start();
  const int64_t stride = int64_t{gridDim.x} * kCopyThreads;
  for (int pair = static_cast<int>(blockIdx.y); pair < count; pair += static_cast<int>(gridDim.y)) {
    const uint4* from = data + pairs[2 * pair] * block_words;
    uint4* to = data + pairs[2 * pair + 1] * block_words;
    for (int64_t i = int64_t{blockIdx.x} * kCopyThreads + threadIdx.x; i < block_words;
         i += kCopiesInFlight * stride) {
      uint4 words[kCopiesInFlight];
#pragma unroll
      for (int j = 0; j < kCopiesInFlight; ++j) {
        if (i + j * stride < block_words) words[j] = from[i + j * stride];
      }
#pragma unroll
      for (int j = 0; j < kCopiesInFlight; ++j) {
        if (i + j * stride < block_words) to[i + j * stride] = words[j];
      }
    }
  }
}

__global__ void __launch_bounds__(kStoreThreads) scatter_pairs(ScatterArgs args) {
  wait_for_previous_launch();
  let_next_launch_start();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= args.count) return;
  const int32_t index = args.pairs[2 * i];
  if (index >= 0 && index < args.size) args.to[index] = args.pairs[2 * i + 1];
}

}  // namespace

void gather(Device& device, const GatherArgs& args) {
  const StepView& step = args.step;
  CHECK(step.rows >= 0 && step.tokens >= 0);
  if (step.rows == 0 || step.tokens == 0) return;
  CHECK(args.token_ids != nullptr && args.positions != nullptr && args.first_position != nullptr);
  CHECK(step.query_begin != nullptr && step.slots != nullptr);
  CHECK(args.state.tokens != nullptr && args.state.lengths != nullptr && args.state.tokens_max > 0);
  const int parts = std::min(ceil_div(step.tokens, kTokensPerBlock), 16);  // one row may have nearly all of them
  launch(device_of(device), "gather", gather_row_tokens,
         {.blocks = dim3(static_cast<unsigned>(step.rows), static_cast<unsigned>(parts)), .threads = kGatherThreads},
         args);
}

void store_tokens(Device& device, const StoreTokensArgs& args) {
  CHECK_GE(args.count, 0);
  if (args.count == 0) return;
  CHECK(args.slots != nullptr && args.positions != nullptr && args.tokens != nullptr);
  CHECK(args.state.tokens != nullptr && args.state.lengths != nullptr);
  launch(device_of(device), "store_tokens", store_slot_tokens,
         {.blocks = static_cast<unsigned>(ceil_div(args.count, kStoreThreads)), .threads = kStoreThreads}, args);
}

void scatter(Device& device, const ScatterArgs& args) {
  CHECK_GE(args.count, 0);
  if (args.count == 0) return;
  CHECK(args.to != nullptr && args.pairs != nullptr);
  launch(device_of(device), "scatter", scatter_pairs,
         {.blocks = static_cast<unsigned>(ceil_div(args.count, kStoreThreads)), .threads = kStoreThreads}, args);
}

void copy_blocks(Device& device, const CopyBlocksArgs& args) {
  const KvPages& pages = args.pages;
  CHECK(pages.format == Format::kBF16 && pages.data != nullptr);
  CHECK(args.count >= 0 && (args.pairs != nullptr || args.count == 0));
  const int64_t bytes =
      row_bytes(pages.format, int64_t{2} * pages.kv_heads * pages.block_tokens * pages.head_dim);
  CHECK(bytes > 0 && bytes % 16 == 0);
  if (args.count == 0) return;
  const int64_t words = bytes / 16;
  const int64_t parts = ceil_div<int64_t>(words, kCopyThreads * kCopiesInFlight);
  launch(device_of(device), "copy_blocks", copy_pairs,
         {.blocks = dim3(static_cast<unsigned>(std::min<int64_t>(parts, 1024)),
                         static_cast<unsigned>(std::min(args.count, kCopyPairsMax))),
          .threads = kCopyThreads},
         static_cast<uint4*>(pages.data), words, args.pairs, args.count);
}

}  // namespace skein::cuda
