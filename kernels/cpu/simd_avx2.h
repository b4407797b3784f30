#pragma once

#include <immintrin.h>

#include <cstdint>

// Sixteen f32 or i32 lanes in two AVX2 registers; the same operations, bit for bit, as simd_avx512.h.
// Everything has internal linkage: these headers are compiled once per instruction set.

namespace skein {
namespace {

constexpr int kLanes = 16;
constexpr bool kManyRegisters = false;  // 16 registers of 8 lanes: 8 vectors of 16

struct Vec {
  __m256 lo, hi;
};
struct IntVec {
  __m256i lo, hi;
};
struct LaneMask {
  __m256 lo, hi;  // all bits of a lane set or clear
};

inline __m256i lane_bits(uint32_t bits) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit), bit);
}
inline LaneMask lanes_from_bits(uint32_t bits) {
  return {_mm256_castsi256_ps(lane_bits(bits)), _mm256_castsi256_ps(lane_bits(bits >> 8))};
}
inline uint32_t bits_of(LaneMask mask) {
  return static_cast<uint32_t>(_mm256_movemask_ps(mask.lo)) |
         static_cast<uint32_t>(_mm256_movemask_ps(mask.hi)) << 8;
}
inline LaneMask first_lanes(int n) { return lanes_from_bits((1u << n) - 1); }

inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Vec load_n(const float* p, int n) {
  const LaneMask mask = first_lanes(n);
  return {_mm256_maskload_ps(p, _mm256_castps_si256(mask.lo)),
          _mm256_maskload_ps(p + 8, _mm256_castps_si256(mask.hi))};
}
inline void store(float* p, Vec a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline void store_n(float* p, Vec a, int n) {
  const LaneMask mask = first_lanes(n);
  _mm256_maskstore_ps(p, _mm256_castps_si256(mask.lo), a.lo);
  _mm256_maskstore_ps(p + 8, _mm256_castps_si256(mask.hi), a.hi);
}
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Vec fma(Vec a, Vec b, Vec c) {  // a b + c
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline Vec fnma(Vec a, Vec b, Vec c) {  // c - a b
  return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)};
}
// The second operand where either is NaN.
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline Vec round_even(Vec a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
}
// a where the lane's bit is set, else b.
inline Vec select(LaneMask mask, Vec a, Vec b) {
  return {_mm256_blendv_ps(b.lo, a.lo, mask.lo), _mm256_blendv_ps(b.hi, a.hi, mask.hi)};
}
inline LaneMask less(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
inline LaneMask not_less(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ)};
}
inline LaneMask unordered(Vec a) {
  return {_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q)};
}
inline LaneMask mask_and(LaneMask a, LaneMask b) {
  return {_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)};
}

inline Vec load_f16(const uint16_t* p) {
  const auto* half = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(half)), _mm256_cvtph_ps(_mm_loadu_si128(half + 1))};
}
inline __m256 widen_bf16(__m128i half) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline Vec load_bf16(const uint16_t* p) {
  const auto* half = reinterpret_cast<const __m128i*>(p);
  return {widen_bf16(_mm_loadu_si128(half)), widen_bf16(_mm_loadu_si128(half + 1))};
}

inline IntVec int_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline IntVec int_set1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline IntVec int_add(IntVec a, IntVec b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
inline IntVec int_max(IntVec a, IntVec b) {
  return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)};
}
inline IntVec int_and(IntVec a, IntVec b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
inline IntVec int_sub(IntVec a, IntVec b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
inline IntVec int_xor(IntVec a, IntVec b) {
  return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
}
inline void multiply_wide(__m256i a, __m256i b, __m256i* high, __m256i* low) {
  const __m256i even = _mm256_mul_epu32(a, b);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b);
  *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}
// Both halves of the unsigned products of each lane and b.
inline void multiply_wide(IntVec a, uint32_t b, IntVec* high, IntVec* low) {
  const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(b));
  multiply_wide(a.lo, all, &high->lo, &low->lo);
  multiply_wide(a.hi, all, &high->hi, &low->hi);
}
inline IntVec shift_right_signed(IntVec a, int n) {
  return {_mm256_srai_epi32(a.lo, n), _mm256_srai_epi32(a.hi, n)};
}
inline IntVec shift_right(IntVec a, int n) {
  return {_mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)};
}
inline IntVec shift_left(IntVec a, int n) {
  return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)};
}
inline IntVec as_int(Vec a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
inline Vec as_float(IntVec a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
inline Vec to_float(IntVec a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline IntVec to_int(Vec a) {  // nearest even; NaN: INT32_MIN
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}

inline int32_t reduce_add(IntVec a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return _mm_cvtsi128_si32(four);
}
inline int32_t reduce_max(IntVec a) {
  const __m256i eight = _mm256_max_epi32(a.lo, a.hi);
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
  return _mm_cvtsi128_si32(four);
}
inline float reduce_max(Vec a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// Adds lanes 8 apart, then 4, 2 and 1 apart.
inline float reduce_add(Vec a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline __m128i to_i16(__m256i a) {
  return _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
inline void store_i8(int8_t* p, IntVec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(to_i16(a.lo), to_i16(a.hi)));
}
inline void store_halves_n(uint16_t* p, __m128i lo, __m128i hi, int n) {
  if (n == kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), lo);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), hi);
    return;
  }
  uint16_t all[kLanes];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(all), lo);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(all + 8), hi);
  __builtin_memcpy(p, all, static_cast<size_t>(n) * sizeof(uint16_t));
}
// The low 16 bits of every lane.
inline void store_low16_n(uint16_t* p, IntVec a, int n) {
  const __m256i low = _mm256_set1_epi32(0xffff);
  const __m256i both = _mm256_permute4x64_epi64(
      _mm256_packus_epi32(_mm256_and_si256(a.lo, low), _mm256_and_si256(a.hi, low)), 0xd8);
  store_halves_n(p, _mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1), n);
}
inline void store_f16_n(uint16_t* p, Vec a, int n) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  store_halves_n(p, _mm256_cvtps_ph(a.lo, kMode), _mm256_cvtps_ph(a.hi, kMode), n);
}

inline void transpose8(__m256 (&r)[8]) {
  __m256d pairs[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_castps_pd(_mm256_unpacklo_ps(r[i], r[i + 1]));
    pairs[i + 1] = _mm256_castps_pd(_mm256_unpackhi_ps(r[i], r[i + 1]));
  }
  __m256 fours[8];  // fours[i + c] half h: lane 4 h + c of rows i to i + 3
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    fours[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(pairs[i], pairs[i + 2]));
    fours[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(pairs[i], pairs[i + 2]));
    fours[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(pairs[i + 1], pairs[i + 3]));
    fours[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(pairs[i + 1], pairs[i + 3]));
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    r[c] = _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x20);
    r[4 + c] = _mm256_permute2f128_ps(fours[c], fours[4 + c], 0x31);
  }
}

// r[i] lane j becomes r[j] lane i.
inline void transpose(Vec (&r)[16]) {
  __m256 quarter[4][8];  // rows 0-7 lanes 0-7, rows 8-15 lanes 0-7, rows 0-7 lanes 8-15, ...
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    quarter[0][i] = r[i].lo;
    quarter[1][i] = r[i + 8].lo;
    quarter[2][i] = r[i].hi;
    quarter[3][i] = r[i + 8].hi;
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) transpose8(quarter[q]);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    r[i] = {quarter[0][i], quarter[1][i]};
    r[i + 8] = {quarter[2][i], quarter[3][i]};
  }
}

inline __m256 reduce_add8(const Vec* r) {
  __m256 fours[4];  // halves: four sums each of r[2 i], r[2 i + 1]
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m256 a = _mm256_add_ps(r[2 * i].lo, r[2 * i].hi);
    const __m256 b = _mm256_add_ps(r[2 * i + 1].lo, r[2 * i + 1].hi);
    fours[i] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }
  const __m256 low = _mm256_add_ps(_mm256_shuffle_ps(fours[0], fours[1], 0x44),
                                   _mm256_shuffle_ps(fours[0], fours[1], 0xee));
  const __m256 high = _mm256_add_ps(_mm256_shuffle_ps(fours[2], fours[3], 0x44),
                                    _mm256_shuffle_ps(fours[2], fours[3], 0xee));
  const __m256 ones =
      _mm256_add_ps(_mm256_shuffle_ps(low, high, 0x88), _mm256_shuffle_ps(low, high, 0xdd));
  return _mm256_permutevar8x32_ps(ones, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Lane i: reduce_add(r[i]), bit for bit.
inline Vec reduce_add16(const Vec (&r)[16]) { return {reduce_add8(r), reduce_add8(r + 8)}; }

// 16 outputs x 32 columns of unsigned bytes: w[2 g], w[2 g + 1] hold columns [4 g, 4 g + 4) of outputs
// 0-7 and 8-15.
struct BlockWeights {
  __m256i w[16];
};

inline BlockWeights load_nibbles(const uint8_t* p) {
  const __m256i low = _mm256_set1_epi8(15);
  BlockWeights out;
#pragma GCC unroll 8
  for (int c = 0; c < 8; ++c) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * c));
    out.w[c] = _mm256_and_si256(both, low);
    out.w[c + 8] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
  }
  return out;
}

inline BlockWeights load_bytes(const uint8_t* p) {
  BlockWeights out;
#pragma GCC unroll 16
  for (int c = 0; c < 16; ++c) {
    out.w[c] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32 * c));
  }
  return out;
}

inline __m256i broadcast4(const int8_t* x) {
  int32_t four;
  __builtin_memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}

// Exact integer products of 32 signed bytes with each output's weights. Sixteen products of at most
// 15 * 128 fit int16, so one widening per block is enough.
inline IntVec dot_nibbles(const BlockWeights& b, const int8_t* x) {
  __m256i lo = _mm256_setzero_si256();
  __m256i hi = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    const __m256i x4 = broadcast4(x + 4 * g);
    lo = _mm256_add_epi16(lo, _mm256_maddubs_epi16(b.w[2 * g], x4));
    hi = _mm256_add_epi16(hi, _mm256_maddubs_epi16(b.w[2 * g + 1], x4));
  }
  const __m256i one = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(lo, one), _mm256_madd_epi16(hi, one)};
}

// vpmaddubsw saturates on full bytes: the low seven bits and the top bit are multiplied apart.
inline __m256i dot_bytes_half(const __m256i* w, const int8_t* x) {
  __m256i low = _mm256_setzero_si256();
  __m256i top = _mm256_setzero_si256();
#pragma GCC unroll 8
  for (int g = 0; g < 8; ++g) {
    const __m256i x4 = broadcast4(x + 4 * g);
    const __m256i low7 = _mm256_and_si256(w[2 * g], _mm256_set1_epi8(0x7f));
    const __m256i top1 = _mm256_and_si256(_mm256_srli_epi16(w[2 * g], 7), _mm256_set1_epi8(1));
    low = _mm256_add_epi32(
        low, _mm256_madd_epi16(_mm256_maddubs_epi16(low7, x4), _mm256_set1_epi16(1)));
    top = _mm256_add_epi16(top, _mm256_maddubs_epi16(top1, x4));
  }
  return _mm256_add_epi32(low, _mm256_madd_epi16(top, _mm256_set1_epi16(128)));
}
inline IntVec dot_bytes(const BlockWeights& b, const int8_t* x) {
  return {dot_bytes_half(b.w, x), dot_bytes_half(b.w + 1, x)};
}

}  // namespace
}  // namespace skein
