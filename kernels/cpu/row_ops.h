#pragma once

#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/pages.h"
#include "kernels/cpu/simd.h"

// The operations that work on one token's vector: embedding, norms, rotation, activation, and how their
// results are stored. Sums run over 16 lanes in rising order, then over the lanes as a tree.

namespace skein {
namespace {

// Lanes of [i, n) that one vector takes.
inline int lanes_at(int64_t i, int64_t n) {
  return n - i < kLanes ? static_cast<int>(n - i) : kLanes;
}

inline Vec load_at(const float* x, int64_t i, int64_t n) {
  return n - i >= kLanes ? load(x + i) : load_n(x + i, static_cast<int>(n - i));
}

inline void store_at(float* out, Vec a, int64_t i, int64_t n) {
  if (n - i >= kLanes) {
    store(out + i, a);
  } else {
    store_n(out + i, a, static_cast<int>(n - i));
  }
}

// out[0, n) = x in a plain float format.
inline void store_plain(Format format, void* out, int64_t i, Vec a, int lanes) {
  if (format == Format::kF16) {
    store_f16_n(static_cast<uint16_t*>(out) + i, a, lanes);
  } else if (format == Format::kBF16) {
    store_bf16_n(static_cast<uint16_t*>(out) + i, a, lanes);
  } else {
    store_n(static_cast<float*>(out) + i, a, lanes);
  }
}

inline Vec absolute(Vec a) { return as_float(int_and(as_int(a), int_set1(0x7fffffff))); }

inline constexpr float kBlockLevels = 127 * 256;  // the largest 256 high + low

// q = 256 high + low with both in int8: high rounds to the nearest.
inline void store_planes(int8_t* out, IntVec q) {
  const IntVec high = shift_right_signed(int_add(q, int_set1(128)), 8);
  store_i8(out, high);
  store_i8(out + kBlock, int_sub(q, shift_left(high, 8)));
}

// 32 floats to two int8 planes with scale amax / kBlockLevels. A NaN or infinity makes the scale so, and what follows
// shows it (integer comparison puts NaN above infinity).
inline void quantise_block(Vec a, Vec b, int8_t* out, float* scales) {
  const int32_t amax_bits = reduce_max(int_max(as_int(absolute(a)), as_int(absolute(b))));
  float amax;
  __builtin_memcpy(&amax, &amax_bits, sizeof(amax));
  const float scale = amax / kBlockLevels;
  const float inverse = amax > 1e-30f ? kBlockLevels / amax : 0.0f;
  const IntVec qa = to_int(mul(a, set1(inverse)));
  const IntVec qb = to_int(mul(b, set1(inverse)));
  store_planes(out, qa);
  store_planes(out + kLanes, qb);
  scales[0] = scale;
  scales[1] = scale * static_cast<float>(reduce_add(int_add(qa, qb)));
}

// Where one token's result goes: f32, or int8 blocks with scales.
struct OutRow {
  float* plain;  // null: blocks
  int8_t* blocks;
  float* scales;
};

inline OutRow out_row(const Tensor& out, int64_t token) {
  if (out.format == Format::kF32) {
    return {static_cast<float*>(out.data) + token * out.row_stride, nullptr, nullptr};
  }
  return {nullptr, static_cast<int8_t*>(out.data) + token * out.columns * 2,
          static_cast<float*>(out.scales) + token * (out.columns / kBlock) * 2};
}

// Stores n values of columns [first, first + n); value(i) gives the vector of columns first + i.
template <typename Value>
inline void store_row(const OutRow& out, int64_t first, int64_t n, const Value& value) {
  if (out.plain != nullptr) {
    for (int64_t i = 0; i < n; i += kLanes) store_at(out.plain + first, value(i), i, n);
    return;
  }
  for (int64_t i = 0; i < n; i += kBlock) {
    quantise_block(value(i), value(i + kLanes), out.blocks + (first + i) * 2,
                   out.scales + (first + i) / kBlock * 2);
  }
}

inline float inverse_rms(const float* x, int64_t n, float epsilon) {
  Vec squares = zero();
  for (int64_t i = 0; i < n; i += kLanes) {
    const Vec a = load_at(x, i, n);
    squares = fma(a, a, squares);
  }
  const float mean = reduce_add(squares) / static_cast<float>(n);
  return 1.0f / __builtin_sqrtf(mean + epsilon);
}

void add_norm(const AddNormArgs& args, Range tokens) {
  const int64_t n = args.out.columns;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    float* residual = static_cast<float*>(args.residual.data) + t * args.residual.row_stride;
    if (args.x.data != nullptr) {
      const float* x = static_cast<const float*>(args.x.data) + t * args.x.row_stride;
      for (int64_t i = 0; i < n; i += kLanes) {
        store_at(residual, add(load_at(residual, i, n), load_at(x, i, n)), i, n);
      }
    }
    const Vec scale = set1(inverse_rms(residual, n, args.epsilon));
    store_row(out_row(args.out, t), 0, n, [&](int64_t i) {
      return mul(load_at(args.weight, i, n), mul(load_at(residual, i, n), scale));
    });
  }
}

void silu_mul(const SiluMulArgs& args, Range tokens) {
  const int64_t n = args.out.columns;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const float* gate = static_cast<const float*>(args.gate_up.data) + t * args.gate_up.row_stride;
    const float* up = gate + n;
    store_row(out_row(args.out, t), 0, n, [&](int64_t i) {
      const Vec g = load_at(gate, i, n);
      const Vec silu = div(g, add(set1(1.0f), exp(sub(zero(), g))));
      return mul(silu, load_at(up, i, n));
    });
  }
}

// One head: norm (weight may be null), then rotation of pairs (i, i + rotary_dim / 2).
inline void rotate_head(float* x, const RopeAppendArgs& args, const float* norm,
                        const float* cos_sin) {
  const int dim = args.pages.head_dim;
  if (norm != nullptr) {
    const Vec scale = set1(inverse_rms(x, dim, args.norm_epsilon));
    for (int i = 0; i < dim; i += kLanes) {
      store_at(x, mul(load_at(norm, i, dim), mul(load_at(x, i, dim), scale)), i, dim);
    }
  }
  const int half = args.rotary_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float c = cos_sin[2 * i];
    const float s = cos_sin[2 * i + 1];
    const float a = x[i];
    const float b = x[i + half];
    x[i] = a * c - b * s;
    x[i + half] = b * c + a * s;
  }
}

inline void append_head(const KvPages& pages, const PageAddress& at, int head, int kv,
                        const float* x) {
  void* out = page_row(pages, at, head, kv);
  for (int i = 0; i < pages.head_dim; i += kLanes) {
    const int lanes = lanes_at(i, pages.head_dim);
    store_plain(pages.format, out, i, load_n(x + i, lanes), lanes);
  }
}

void rope_append(const RopeAppendArgs& args, Range tokens) {
  const KvPages& pages = args.pages;
  int row = 0;
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    while (args.step.query_begin[row + 1] <= t) ++row;
    const int32_t position = args.step.positions[t];
    const PageAddress at = page_address(pages, args.step.slots[row], position);
    const float* cos_sin = args.cos_sin + static_cast<int64_t>(position) * args.rotary_dim;
    float* x = static_cast<float*>(args.qkv.data) + t * args.qkv.row_stride;
    for (int h = 0; h < args.q_heads; ++h, x += pages.head_dim) {
      rotate_head(x, args, args.q_norm, cos_sin);
    }
    for (int h = 0; h < pages.kv_heads; ++h, x += pages.head_dim) {
      rotate_head(x, args, args.k_norm, cos_sin);
      append_head(pages, at, h, 0, x);
    }
    for (int h = 0; h < pages.kv_heads; ++h, x += pages.head_dim) append_head(pages, at, h, 1, x);
  }
}

}  // namespace
}  // namespace skein
