#pragma once

#include "kernels/cuda/largest_key.cuh"
#include "kernels/cuda/sample_noise.cuh"
#include "kernels/cuda/sample_search.cuh"

// A row's logits in the cluster: reading the raw ones, what penalties, bias, bans and masks make of them, and the
// numbers that a draw needs, all as the CPU computes them (kernels/cpu/sample.cpp).

namespace skein::cuda {

inline constexpr uint32_t kSeen = 0x80000000;       // in a token's count
inline constexpr uint32_t kForbidden = 0xff800000;  // -infinity
inline constexpr uint32_t kForbiddenOrder = 0x007fffff;
inline constexpr uint32_t kBroken = 0xffffffff;

// One row as the cluster works on it.
struct Row {
  int index;
  bool score;           // report the token that follows, sample nothing
  bool changed;         // before the choice, by penalties and the like
  bool told;            // something is said of the token
  const float* logits;  // raw
  bool aligned;         // to 16 bytes
  const SlotSampling* sampling;
  const int32_t* tokens;  // of the slot
  int32_t known;          // tokens up to the query's
  const uint32_t* mask;   // or null
  float raw_max;
};

struct Bias {
  int32_t tokens[kLogitBiasMax];
  float values[kLogitBiasMax];
};

// The CPU's e^x for x <= 0, operation by operation (kernels/cpu/simd.h).
__device__ __forceinline__ float exp_as_cpu(float x) {
  constexpr float kRound = 0x1.8p23f;  // added to it, a float loses its fraction, and its low bits are the integer
  const float rounded = __fadd_rn(__fmul_rn(x, 1.44269504f), kRound);
  const float n = __fsub_rn(rounded, kRound);
  float r = fmaf(-n, 0.693359375f, x);
  r = fmaf(-n, -2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = fmaf(p, r, 1.3981999507e-3f);
  p = fmaf(p, r, 8.3334519073e-3f);
  p = fmaf(p, r, 4.1665795894e-2f);
  p = fmaf(p, r, 1.6666665459e-1f);
  p = fmaf(p, r, 5.0000001201e-1f);
  p = fmaf(__fmul_rn(p, r), r, __fadd_rn(r, 1.0f));
  const float power = __uint_as_float((__float_as_uint(rounded) << 23) + 0x3f800000u);
  return x < -87.33f ? 0.0f : __fmul_rn(p, power);
}

// A number in (0, 1), one of a row.
__device__ inline double philox_uniform(uint64_t seed, uint32_t index) {
  return (static_cast<double>(philox(seed, make_uint4(index, 0, 0, 0)).x) + 0.5) * 0x1p-32;
}

// Raw logits of the four tokens from the slice's index i; `beyond` past the vocabulary's end.
template <typename Slice>
__device__ __forceinline__ float4 raw_four(const Slice& slice, const Row& row, int i, float beyond) {
  const int id = slice.first + i;
  const float* from = row.logits + id;
  if (row.aligned && id + 4 <= slice.n) return __ldcg(reinterpret_cast<const float4*>(from));
  return {id < slice.n ? __ldcg(from) : beyond, id + 1 < slice.n ? __ldcg(from + 1) : beyond,
          id + 2 < slice.n ? __ldcg(from + 2) : beyond, id + 3 < slice.n ? __ldcg(from + 3) : beyond};
}

// The raw logits, as bits, into the slice; -infinity beyond the vocabulary's end. All of it is on its way at once.
template <bool kSharedKeys>
__device__ __forceinline__ void load_raw(const RowSlice<kSharedKeys>& slice, const Row& row) {
  each_four<1>(slice, [&](int i) {
    if (kSharedKeys && row.aligned && slice.first + i + 4 <= slice.n) {
      async_load_16(slice.keys() + i, row.logits + slice.first + i);
    } else {
      *reinterpret_cast<float4*>(slice.keys() + i) = raw_four(slice, row, i, -INFINITY);
    }
  });
  async_commit();
  async_wait<0>();
}

template <typename Slice>
__device__ __forceinline__ void store_four(const Slice& slice, int i, const uint4& keys) {
  const int left = slice.n - slice.first - i;
  *reinterpret_cast<uint4*>(slice.keys() + i) = make_uint4(left > 0 ? keys.x : 0, left > 1 ? keys.y : 0,
                                                           left > 2 ? keys.z : 0, left > 3 ? keys.w : 0);
}

template <typename Slice>
__device__ __forceinline__ bool in_slice(const Slice& slice, int32_t token, int* index) {
  *index = token - slice.first;
  return token >= 0 && token < slice.n && *index >= 0 && *index < kSampleWarps * slice.chunk;
}

// Puts into the slice how often each token was generated, with kSeen if the sequence has it at all.
template <typename Slice>
__device__ void count_tokens(const Slice& slice, const Row& row) {
  each_four(slice, [&](int i) { *reinterpret_cast<uint4*>(slice.keys() + i) = make_uint4(0, 0, 0, 0); });
  __syncthreads();
  const int32_t generated = max(row.sampling->prompt_tokens, 0);
  for (int32_t t = thread_index(); t < row.known; t += kSampleThreads) {
    int i;
    if (!in_slice(slice, row.tokens[t], &i)) continue;
    if (t >= generated) atomicAdd(slice.keys() + i, 1u);
    atomicOr(slice.keys() + i, kSeen);
  }
  __syncthreads();
}

__device__ __forceinline__ float penalised(const SlotSampling& s, float logit, uint32_t seen) {
  if (seen == 0) return logit;
  const uint32_t count = seen & ~kSeen;
  logit = logit > 0 ? __fdiv_rn(logit, s.repetition_penalty) : __fmul_rn(logit, s.repetition_penalty);
  if (count == 0) return logit;
  logit = __fsub_rn(logit, __fmul_rn(s.frequency_penalty, static_cast<float>(count)));
  return __fsub_rn(logit, s.presence_penalty);
}

// A token named several times gets its values one after the other.
template <typename Slice>
__device__ void add_bias(const Slice& slice, const Row& row, Bias& bias) {
  const int count = min(row.sampling->bias_count, kLogitBiasMax);
  for (int b = thread_index(); b < count; b += kSampleThreads) {
    bias.tokens[b] = row.sampling->bias_tokens[b];
    bias.values[b] = row.sampling->bias_values[b];
  }
  __syncthreads();
  for (int b = thread_index(); b < count; b += kSampleThreads) {
    const int32_t token = bias.tokens[b];
    int i;
    bool mine = in_slice(slice, token, &i);
    for (int earlier = 0; mine && earlier < b; ++earlier) mine = bias.tokens[earlier] != token;
    if (!mine) continue;
    float logit = __uint_as_float(slice.keys()[i]);
    for (int same = b; same < count; ++same) {
      if (bias.tokens[same] == token) logit = __fadd_rn(logit, bias.values[same]);
    }
    slice.keys()[i] = __float_as_uint(logit);
  }
  __syncthreads();
}

// The order of the highest, kBroken if one of them is a NaN or +infinity.
__device__ __forceinline__ uint32_t highest_of(const float4& x) {
  const float most = fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w));
  const bool good = x.x < INFINITY && x.y < INFINITY && x.z < INFINITY && x.w < INFINITY;
  return good ? order_of(most) : kBroken;
}
__device__ __forceinline__ uint32_t checked_highest(uint32_t highest) {
  return highest > kForbiddenOrder ? highest : kBroken;
}

// Makes the slice's raw logits the final ones. Returns the order of the highest of the whole row, kBroken if they are
// of no use.
template <typename Slice>
__device__ uint32_t change_logits(const Slice& slice, const Row& row, Bias& bias) {
  const SlotSampling& s = *row.sampling;
  if (has_penalties(s)) {
    count_tokens(slice, row);
    each_four(slice, [&](int i) {
      const float4 x = raw_four(slice, row, i, -INFINITY);
      const uint4 seen = *reinterpret_cast<const uint4*>(slice.keys() + i);
      *reinterpret_cast<float4*>(slice.keys() + i) =
          make_float4(penalised(s, x.x, seen.x), penalised(s, x.y, seen.y), penalised(s, x.z, seen.z),
                      penalised(s, x.w, seen.w));
    });
  }
  __syncthreads();
  if (s.bias_count > 0) add_bias(slice, row, bias);
  if (forbids_stops(s, row.known)) {
    for (int b = thread_index(); b < min(s.stop_count, kStopTokensMax); b += kSampleThreads) {
      int i;
      if (in_slice(slice, s.stop_tokens[b], &i)) slice.keys()[i] = kForbidden;
    }
    __syncthreads();
  }
  uint32_t highest = 0;
  each_four(slice, [&](int i) {
    uint4 bits = *reinterpret_cast<uint4*>(slice.keys() + i);
    const int id = slice.first + i;
    if (row.mask != nullptr && id < slice.n) {
      const uint32_t allowed = row.mask[id / 32] >> (id % 32);
      bits = make_uint4(allowed & 1 ? bits.x : kForbidden, allowed & 2 ? bits.y : kForbidden,
                        allowed & 4 ? bits.z : kForbidden, allowed & 8 ? bits.w : kForbidden);
      *reinterpret_cast<uint4*>(slice.keys() + i) = bits;
    }
    highest = max(highest, highest_of(*reinterpret_cast<const float4*>(&bits)));
  });
  return checked_highest(cluster_max(highest));
}

}  // namespace skein::cuda
