#pragma once

#include <immintrin.h>

#include <cstdint>

// Sixteen f32 or i32 lanes in one AVX-512 register; the same operations, bit for bit, as simd_avx2.h.
// Everything has internal linkage: these headers are compiled once per instruction set.

namespace skein {
namespace {

constexpr int kLanes = 16;
constexpr bool kManyRegisters = true;  // 32 vector registers of 16 lanes

using Vec = __m512;
using IntVec = __m512i;
using LaneMask = __mmask16;

inline LaneMask first_lanes(int n) { return static_cast<LaneMask>((1u << n) - 1); }

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
inline void store_n(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }    // a b + c
inline Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }  // c - a b
// The second operand where either is NaN.
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec round_even(Vec a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// a where the lane's bit is set, else b.
inline Vec select(LaneMask mask, Vec a, Vec b) { return _mm512_mask_blend_ps(mask, b, a); }
inline LaneMask less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline LaneMask not_less(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline LaneMask unordered(Vec a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
inline LaneMask mask_and(LaneMask a, LaneMask b) { return a & b; }
inline LaneMask lanes_from_bits(uint32_t bits) { return static_cast<LaneMask>(bits); }
inline uint32_t bits_of(LaneMask mask) { return mask; }

inline Vec load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec load_bf16(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline IntVec int_zero() { return _mm512_setzero_si512(); }
inline IntVec int_set1(int32_t x) { return _mm512_set1_epi32(x); }
inline IntVec int_add(IntVec a, IntVec b) { return _mm512_add_epi32(a, b); }
inline IntVec int_max(IntVec a, IntVec b) { return _mm512_max_epi32(a, b); }
inline IntVec int_and(IntVec a, IntVec b) { return _mm512_and_si512(a, b); }
inline IntVec int_sub(IntVec a, IntVec b) { return _mm512_sub_epi32(a, b); }
inline IntVec int_xor(IntVec a, IntVec b) { return _mm512_xor_si512(a, b); }
// Both halves of the unsigned products of each lane and b.
inline void multiply_wide(IntVec a, uint32_t b, IntVec* high, IntVec* low) {
  const __m512i all = _mm512_set1_epi32(static_cast<int32_t>(b));
  const __m512i even = _mm512_mul_epu32(a, all);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), all);
  *low = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  *high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}
inline IntVec shift_right_signed(IntVec a, int n) { return _mm512_srai_epi32(a, n); }
inline IntVec shift_right(IntVec a, int n) { return _mm512_srli_epi32(a, n); }
inline IntVec shift_left(IntVec a, int n) { return _mm512_slli_epi32(a, n); }
inline IntVec as_int(Vec a) { return _mm512_castps_si512(a); }
inline Vec as_float(IntVec a) { return _mm512_castsi512_ps(a); }
inline Vec to_float(IntVec a) { return _mm512_cvtepi32_ps(a); }
inline IntVec to_int(Vec a) { return _mm512_cvtps_epi32(a); }  // nearest even; NaN: INT32_MIN

inline int32_t reduce_add(IntVec a) { return _mm512_reduce_add_epi32(a); }
inline int32_t reduce_max(IntVec a) { return _mm512_reduce_max_epi32(a); }
inline float reduce_max(Vec a) { return _mm512_reduce_max_ps(a); }

// Adds lanes 8 apart, then 4, 2 and 1 apart.
inline float reduce_add(Vec a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline void store_i8(int8_t* p, IntVec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(a));
}
// The low 16 bits of every lane.
inline void store_low16_n(uint16_t* p, IntVec a, int n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtepi32_epi16(a));
}
inline void store_f16_n(uint16_t* p, Vec a, int n) {
  const __m256i half = _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_mask_storeu_epi16(p, first_lanes(n), half);
}

// r[i] lane j becomes r[j] lane i.
inline void transpose(Vec (&r)[16]) {
  __m512d pairs[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1]));
    pairs[i + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
  }
  Vec fours[16];  // fours[i + c] quarter q: lane 4 q + c of rows i to i + 3
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[i], pairs[i + 2]));
    fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[i], pairs[i + 2]));
    fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[i + 1], pairs[i + 3]));
    fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[i + 1], pairs[i + 3]));
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const Vec even0 = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x88);
    const Vec odd0 = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xdd);
    const Vec even1 = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x88);
    const Vec odd1 = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xdd);
    r[c] = _mm512_shuffle_f32x4(even0, even1, 0x88);
    r[4 + c] = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
    r[8 + c] = _mm512_shuffle_f32x4(even0, even1, 0xdd);
    r[12 + c] = _mm512_shuffle_f32x4(odd0, odd1, 0xdd);
  }
}

// Lane i: reduce_add(r[i]), bit for bit.
inline Vec reduce_add16(const Vec (&r)[16]) {
  Vec eights[8];  // halves: eight sums each of r[2 i], r[2 i + 1]
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    eights[i] = _mm512_add_ps(_mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0x44),
                              _mm512_shuffle_f32x4(r[2 * i], r[2 * i + 1], 0xee));
  }
  Vec fours[4];  // quarters: r[4 i] to r[4 i + 3]
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    fours[i] = _mm512_add_ps(_mm512_shuffle_f32x4(eights[2 * i], eights[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(eights[2 * i], eights[2 * i + 1], 0xdd));
  }
  Vec twos[2];  // quarter q: r[8 i + q], r[8 i + 4 + q]
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    twos[i] = _mm512_add_ps(_mm512_shuffle_ps(fours[2 * i], fours[2 * i + 1], 0x44),
                            _mm512_shuffle_ps(fours[2 * i], fours[2 * i + 1], 0xee));
  }
  const Vec ones = _mm512_add_ps(_mm512_shuffle_ps(twos[0], twos[1], 0x88),
                                 _mm512_shuffle_ps(twos[0], twos[1], 0xdd));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_ps(order, ones);
}

// 16 outputs x 32 columns of unsigned bytes: w[g] holds columns [4 g, 4 g + 4) of every output.
struct BlockWeights {
  __m512i w[8];
};

inline BlockWeights load_nibbles(const uint8_t* p) {
  const __m512i low = _mm512_set1_epi8(15);
  BlockWeights out;
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i both = _mm512_loadu_si512(p + 64 * c);
    out.w[c] = _mm512_and_si512(both, low);
    out.w[c + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
  }
  return out;
}

inline BlockWeights load_bytes(const uint8_t* p) {
  BlockWeights out;
#pragma GCC unroll 8
  for (int c = 0; c < 8; ++c) out.w[c] = _mm512_loadu_si512(p + 64 * c);
  return out;
}

inline __m512i broadcast4(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_set1_epi32(four);
}

#ifdef __AVX512VNNI__

// Exact integer products of 32 signed bytes with each output's weights.
inline IntVec dot_nibbles(const BlockWeights& b, const int8_t* x) {
  __m512i even = _mm512_setzero_si512();
  __m512i odd = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (int g = 0; g < 8; g += 2) {
    even = _mm512_dpbusd_epi32(even, b.w[g], broadcast4(x + 4 * g));
    odd = _mm512_dpbusd_epi32(odd, b.w[g + 1], broadcast4(x + 4 * g + 4));
  }
  return _mm512_add_epi32(even, odd);
}
inline IntVec dot_bytes(const BlockWeights& b, const int8_t* x) { return dot_nibbles(b, x); }

#else

// Sixteen products of at most 15 * 128 fit int16, so one widening per block is enough.
inline IntVec dot_nibbles(const BlockWeights& b, const int8_t* x) {
  __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(b.w[g], broadcast4(x + 4 * g)));
  }
  return _mm512_madd_epi16(sum, _mm512_set1_epi16(1));
}

// vpmaddubsw saturates on full bytes: the low seven bits and the top bit are multiplied apart.
inline IntVec dot_bytes(const BlockWeights& b, const int8_t* x) {
  __m512i low = _mm512_setzero_si512();
  __m512i top = _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    const __m512i x4 = broadcast4(x + 4 * g);
    const __m512i low7 = _mm512_and_si512(b.w[g], _mm512_set1_epi8(0x7f));
    const __m512i top1 = _mm512_and_si512(_mm512_srli_epi16(b.w[g], 7), _mm512_set1_epi8(1));
    low = _mm512_add_epi32(
        low, _mm512_madd_epi16(_mm512_maddubs_epi16(low7, x4), _mm512_set1_epi16(1)));
    top = _mm512_add_epi16(top, _mm512_maddubs_epi16(top1, x4));
  }
  return _mm512_add_epi32(low, _mm512_madd_epi16(top, _mm512_set1_epi16(128)));
}

#endif

}  // namespace
}  // namespace skein
