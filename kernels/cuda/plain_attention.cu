#include "kernels/cuda/plain_attention.h"

#include <bit>

#include "base/check.h"
#include "base/cuda_limits.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/step.cuh"

namespace skein::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kKeysAtOnce = 4;  // of a group of lanes

struct Parameters {
  __nv_bfloat16* out;
  int64_t out_stride;
  const __nv_bfloat16* q;
  int64_t q_stride;
  const __nv_bfloat16* pages;
  const int32_t* block_table;
  const int32_t* positions;
  const int32_t* query_begin;
  const int32_t* slots;
  const uint64_t* tree_mask;
  float scale;  // of scores, as powers of two
  int rows, decode_rows, first_row, window;
  int q_heads, group_size, group_offset, kv_heads, head_dim;
  int block_tokens, blocks_per_slot;
  int lanes;  // that share a key, a power of two; the last of them may have no elements
};

// Which keys a query sees: [begin, tree_begin), and those from there to `end` whose bit is set.
struct Visible {
  int begin, tree_begin, end;
  uint64_t tree;
  __device__ bool sees(int key) const {
    return key >= begin && key < end && (key < tree_begin || (tree >> (key - tree_begin) & 1) != 0);
  }
};

__device__ Visible visible_keys(const Parameters& p, int token, int row) {
  const int position = p.positions[token];
  const int begin = p.window > 0 ? max(position - p.window + 1, 0) : 0;
  if (p.tree_mask == nullptr) return {begin, position + 1, position + 1, 0};
  const int first = position - (token - p.query_begin[row]);
  return {begin, first, first + p.query_begin[row + 1] - p.query_begin[row], p.tree_mask[token]};
}

// What a group of lanes has seen so far.
struct State {
  float maximum = -INFINITY;
  float sum = 0;
  float out[8] = {};

  __device__ void add(float score, const float (&value)[8]) {
    if (score == -INFINITY) return;
    const float next = fmaxf(maximum, score);
    const float keep = exp2f(maximum - next);
    const float weight = exp2f(score - next);
    maximum = next;
    sum = sum * keep + weight;
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = out[i] * keep + weight * value[i];
  }
  // With that of the lane `distance` away.
  __device__ void merge(int distance) {
    const float other = __shfl_xor_sync(0xffffffff, maximum, distance);
    const float next = fmaxf(maximum, other);
    const float keep = next == -INFINITY ? 0 : exp2f(maximum - next);
    sum *= keep;
    sum += __shfl_xor_sync(0xffffffff, sum, distance);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      out[i] *= keep;
      out[i] += __shfl_xor_sync(0xffffffff, out[i], distance);
    }
    maximum = next;
  }
};

__global__ void __launch_bounds__(32 * kWarps) plain_attention_kernel(const Parameters p) {
  wait_for_previous_launch();
  let_next_launch_start();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / 32;
  const int token = p.query_begin[p.first_row] + static_cast<int>(blockIdx.x);
  if (head >= p.q_heads) return;

  // Eight elements of the query for each lane.
  const int element = lane % p.lanes * 8;
  const bool active = element < p.head_dim;
  float query[8] = {};
  if (active) {
    const auto bits = *reinterpret_cast<const Bf16Vector<8>*>(p.q + token * p.q_stride + head * p.head_dim + element);
    bits.unpack(query);
  }

  // Keys are dealt out to the groups of lanes, a few at a time.
  State state;
  if (p.positions[token] >= 0) {
    const int row = row_of(p.query_begin, p.rows, p.decode_rows, token);
    const Visible visible = visible_keys(p, token, row);
    const int32_t* table = p.block_table + int64_t{p.slots[row]} * p.blocks_per_slot;
    const int kv_head = (head + p.group_offset) / p.group_size;
    const int groups = 32 / p.lanes;
    for (int base = visible.begin; base < visible.end; base += groups * kKeysAtOnce) {
      Bf16Vector<8> keys[kKeysAtOnce] = {};
      Bf16Vector<8> values[kKeysAtOnce] = {};
      bool sees[kKeysAtOnce];
#pragma unroll
      for (int i = 0; i < kKeysAtOnce; ++i) {
        const int key = base + i * groups + lane / p.lanes;
        sees[i] = visible.sees(key);
        if (!sees[i] || !active) continue;
        const int64_t plane = (int64_t{table[key / p.block_tokens]} * p.kv_heads + kv_head) * 2;
        const int64_t at = (plane * p.block_tokens + key % p.block_tokens) * p.head_dim + element;
        keys[i] = *reinterpret_cast<const Bf16Vector<8>*>(p.pages + at);
        values[i] = *reinterpret_cast<const Bf16Vector<8>*>(p.pages + at + int64_t{p.block_tokens} * p.head_dim);
      }
#pragma unroll
      for (int i = 0; i < kKeysAtOnce; ++i) {
        float x[8];
        keys[i].unpack(x);
        float score = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) score += query[j] * x[j];
        score = sum_over_lanes(score, p.lanes) * p.scale;
        values[i].unpack(x);
        state.add(sees[i] ? score : -INFINITY, x);
      }
    }
  }
  for (int distance = 16; distance >= p.lanes; distance /= 2) state.merge(distance);
  if (lane >= p.lanes || !active) return;
  const float inverse = state.sum == 0 ? 0 : 1 / state.sum;
#pragma unroll
  for (int i = 0; i < 8; ++i) state.out[i] *= inverse;
  *reinterpret_cast<Bf16Vector<8>*>(p.out + token * p.out_stride + head * p.head_dim + element) =
      Bf16Vector<8>::pack(state.out);
}

}  // namespace

void plain_attention(CudaDevice& device, const AttentionArgs& args, int first_row) {
  const KvPages& pages = args.pages;
  CHECK(args.q.format == Format::kBF16 && args.out.format == Format::kBF16 && pages.format == Format::kBF16);
  CHECK(cuda_takes_head_dim(pages.head_dim));
  CHECK(pages.block_tokens > 0 && pages.blocks_per_slot > 0);
  CHECK(args.q_heads > 0 && args.group_size > 0 && args.group_offset >= 0);
  CHECK_LE((args.q_heads - 1 + args.group_offset) / args.group_size + 1, pages.kv_heads);
  CHECK_EQ(args.out.columns, int64_t{args.q_heads} * pages.head_dim);
  CHECK(args.out.row_stride >= args.out.columns && args.out.row_stride % 8 == 0);
  CHECK(args.q.row_stride >= args.out.columns && args.q.row_stride % 8 == 0);
  CHECK(first_row >= 0 && first_row <= args.step.rows);
  const int tokens = args.step.tokens - args.step.query_begin_host[first_row];
  if (tokens == 0) return;
  const Parameters parameters = {
      .out = static_cast<__nv_bfloat16*>(args.out.data),
      .out_stride = args.out.row_stride,
      .q = static_cast<const __nv_bfloat16*>(args.q.data),
      .q_stride = args.q.row_stride,
      .pages = static_cast<const __nv_bfloat16*>(pages.data),
      .block_table = pages.block_table,
      .positions = args.step.positions,
      .query_begin = args.step.query_begin,
      .slots = args.step.slots,
      .tree_mask = args.tree_mask,
      .scale = args.scale * 1.44269504088896341f,  // log2(e)
      .rows = args.step.rows,
      .decode_rows = args.step.decode_rows,
      .first_row = first_row,
      .window = args.window,
      .q_heads = args.q_heads,
      .group_size = args.group_size,
      .group_offset = args.group_offset,
      .kv_heads = pages.kv_heads,
      .head_dim = pages.head_dim,
      .block_tokens = pages.block_tokens,
      .blocks_per_slot = pages.blocks_per_slot,
      .lanes = static_cast<int>(std::bit_ceil(static_cast<unsigned>(pages.head_dim / 8))),
  };
  const auto blocks_of_heads = static_cast<unsigned>((args.q_heads + kWarps - 1) / kWarps);
  launch(device, "plain_attention", plain_attention_kernel,
         {.blocks = dim3(static_cast<unsigned>(tokens), blocks_of_heads), .threads = dim3(32 * kWarps)}, parameters);
}

}  // namespace skein::cuda
