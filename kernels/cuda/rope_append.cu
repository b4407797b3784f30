#include <algorithm>
#include <bit>

#include "base/check.h"
#include "base/checked.h"
#include "base/cuda_limits.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/step.cuh"

// One block a token: its threads keep their part of the rotation table's row and go over the token's heads. Bound by
// memory: a token's row is read once; rotated heads are written back, k and v to their page.

namespace skein::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kHeadsAtOnce = 3;  // heads a thread has in flight

struct Parameters {
  __nv_bfloat16* qkv;
  int64_t row_stride;
  const int32_t* positions;
  const int32_t* query_begin;
  const int32_t* slots;
  __nv_bfloat16* pages;
  const int32_t* block_table;
  const float* cos_sin;
  const float* q_norm;
  const float* k_norm;
  float epsilon;
  int rows, decode_rows;
  int q_heads, kv_heads, head_dim, rotary_half;
  int block_tokens, blocks_per_slot;
  int lanes;  // of a head, a power of two
};

// Where a token's keys and values go: head h's key is 2 h planes further on, its value one more.
struct Place {
  int position = -1;
  int64_t plane = 0;  // elements of one head's K or V in a page
  __nv_bfloat16* page = nullptr;
};

__device__ Place place_of(const Parameters& p, int token) {
  Place place = {.position = p.positions[token]};
  if (place.position < 0) return place;
  const int64_t slot = p.slots[row_of(p.query_begin, p.rows, p.decode_rows, token)];
  const int64_t block = p.block_table[slot * p.blocks_per_slot + place.position / p.block_tokens];
  place.plane = int64_t{p.block_tokens} * p.head_dim;
  place.page =
      p.pages + block * p.kv_heads * 2 * place.plane + int64_t{place.position % p.block_tokens} * p.head_dim;
  return place;
}

// kVectors pair vectors of a head, `lanes` apart, of each thread.
template <int kWidth, int kVectors>
__global__ void __launch_bounds__(kThreads) rope_append_kernel(const Parameters p) {
  using Vector = Bf16Vector<kWidth>;
  wait_for_previous_launch();
  let_next_launch_start();
  const int token = static_cast<int>(blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x) % p.lanes;
  const int vectors = p.head_dim / (2 * kWidth);
  PairVector at[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int index = lane + v * p.lanes;
    at[v] = index < vectors ? pair_vector(index, kWidth, p.rotary_half) : PairVector{-1, -1, false};
  }

  const int heads = p.q_heads + 2 * p.kv_heads;
  const int stride = kThreads / p.lanes;
  __nv_bfloat16* row = p.qkv + token * p.row_stride;
  for (int first = static_cast<int>(threadIdx.x) / p.lanes; first < round_up(heads, stride);
       first += kHeadsAtOnce * stride) {
    // The heads are on their way while the token's place and rotation are looked up.
    Vector lows[kHeadsAtOnce][kVectors];
    Vector highs[kHeadsAtOnce][kVectors];
#pragma unroll
    for (int i = 0; i < kHeadsAtOnce; ++i) {
      const int head = first + i * stride;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (head >= heads || at[v].low < 0) continue;
        lows[i][v] = *reinterpret_cast<const Vector*>(row + head * p.head_dim + at[v].low);
        highs[i][v] = *reinterpret_cast<const Vector*>(row + head * p.head_dim + at[v].high);
      }
    }
    const Place place = place_of(p, token);
    if (place.position < 0) return;
    float rotation[kVectors][2 * kWidth];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      load_rotation<kWidth>(p.cos_sin + int64_t{place.position} * 2 * p.rotary_half, at[v], rotation[v]);
    }

#pragma unroll
    for (int i = 0; i < kHeadsAtOnce; ++i) {
      const int head = first + i * stride;
      const int kv_head = head - p.q_heads;  // negative: a q head; from kv_heads on: a v head
      const bool is_value = kv_head >= p.kv_heads;
      const float* norm = kv_head < 0 ? p.q_norm : p.k_norm;
      float low[kVectors][kWidth] = {};
      float high[kVectors][kWidth] = {};
      float squares = 0;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (head >= heads || at[v].low < 0) continue;
        lows[i][v].unpack(low[v]);
        highs[i][v].unpack(high[v]);
        squares += square_sum<kWidth>(low[v], high[v]);
      }
      float scale = 1;
      if (p.q_norm != nullptr || p.k_norm != nullptr) {
        scale = rsqrtf(sum_over_lanes(squares, p.lanes) / static_cast<float>(p.head_dim) + p.epsilon);
      }
      __nv_bfloat16* out = kv_head < 0 ? row + head * p.head_dim
                           : is_value  ? place.page + (2 * (kv_head - p.kv_heads) + 1) * place.plane
                                       : place.page + 2 * kv_head * place.plane;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (head >= heads || at[v].low < 0) continue;
        if (!is_value && norm != nullptr) {
          scale_by<kWidth>(low[v], scale, norm + at[v].low);
          scale_by<kWidth>(high[v], scale, norm + at[v].high);
        }
        if (!is_value) rotate<kWidth>(low[v], high[v], rotation[v]);
        *reinterpret_cast<Vector*>(out + at[v].low) = Vector::pack(low[v]);
        *reinterpret_cast<Vector*>(out + at[v].high) = Vector::pack(high[v]);
      }
    }
  }
}

void check(const RopeAppendArgs& args) {
  const KvPages& pages = args.pages;
  CHECK(args.qkv.format == Format::kBF16 && pages.format == Format::kBF16);
  CHECK_EQ(args.qkv.rows, args.step.tokens);
  CHECK(args.q_heads > 0 && pages.kv_heads > 0 && pages.block_tokens > 0 && pages.blocks_per_slot > 0);
  CHECK(cuda_takes_head_dim(pages.head_dim));
  CHECK_GE(args.qkv.row_stride, int64_t{args.q_heads + 2 * pages.kv_heads} * pages.head_dim);
  CHECK(args.rotary_dim >= 0 && args.rotary_dim % 2 == 0 && args.rotary_dim <= pages.head_dim);
  CHECK(args.step.decode_rows >= 0 && args.step.decode_rows <= args.step.rows);
}

}  // namespace

// Rows of qkv are rewritten in place: q and k rotated (k and v are working memory afterwards), k and v in their pages.
// A token of position -1 is skipped.
void rope_append(Device& device, const RopeAppendArgs& args) {
  if (args.step.tokens == 0) return;
  check(args);
  const KvPages& pages = args.pages;
  const int half = args.rotary_dim / 2;
  const bool wide = half % 8 == 0 && pages.head_dim % 16 == 0 && args.qkv.row_stride % 8 == 0;
  const int vectors = pages.head_dim / (wide ? 16 : 2);
  const Parameters parameters = {
      .qkv = static_cast<__nv_bfloat16*>(args.qkv.data),
      .row_stride = args.qkv.row_stride,
      .positions = args.step.positions,
      .query_begin = args.step.query_begin,
      .slots = args.step.slots,
      .pages = static_cast<__nv_bfloat16*>(pages.data),
      .block_table = pages.block_table,
      .cos_sin = args.cos_sin,
      .q_norm = args.q_norm,
      .k_norm = args.k_norm,
      .epsilon = args.norm_epsilon,
      .rows = args.step.rows,
      .decode_rows = args.step.decode_rows,
      .q_heads = args.q_heads,
      .kv_heads = pages.kv_heads,
      .head_dim = pages.head_dim,
      .rotary_half = half,
      .block_tokens = pages.block_tokens,
      .blocks_per_slot = pages.blocks_per_slot,
      .lanes = static_cast<int>(std::min(32u, std::bit_ceil(static_cast<unsigned>(vectors)))),
  };
  const Grid grid = {.blocks = dim3(static_cast<unsigned>(args.step.tokens)), .threads = dim3(kThreads)};
  launch(device_of(device), "rope_append", wide ? rope_append_kernel<8, 1> : rope_append_kernel<1, 4>, grid,
         parameters);
}

}  // namespace skein::cuda
