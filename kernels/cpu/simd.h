#pragma once

// Sixteen lanes of whatever instruction set this file is compiled for. Only isa_*.cpp and the kernel
// headers that they include may include this, and they call nothing that isn't internal to them: a
// library's inline function compiled here could be the copy that the linker keeps for everyone.

#ifdef __AVX512F__
#include "kernels/cpu/simd_avx512.h"
#else
#include "kernels/cpu/simd_avx2.h"
#endif

namespace skein {
namespace {

// Into the first-level cache; any address will do. Always inlined, and so must be what does nothing else:
// gcc 12 takes a call that only prefetches for one without effect and drops it.
[[gnu::always_inline]] inline void prefetch(const void* p) { _mm_prefetch(p, _MM_HINT_T0); }
[[gnu::always_inline]] inline void prefetch_to_second(const void* p) { _mm_prefetch(p, _MM_HINT_T1); }  // level

// e^x to 1 unit in the last place or so; 0 below -87.3, saturates above 88.3; NaN stays; e^0 is 1.
// Range reduction and polynomial as in Cephes' expf.
inline Vec exp(Vec x) {
  const LaneMask tiny = less(x, set1(-87.33f));
  x = min(set1(88.37f), max(set1(-87.33f), x));
  const Vec n = round_even(mul(x, set1(1.44269504f)));
  Vec r = fnma(n, set1(0.693359375f), x);
  r = fnma(n, set1(-2.12194440e-4f), r);
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(mul(p, r), r, add(r, set1(1.0f)));
  const IntVec exponent = shift_left(int_add(to_int(n), int_set1(127)), 23);
  return select(tiny, zero(), mul(p, as_float(exponent)));
}

// f32 to bf16, nearest even, NaN kept.
inline void store_bf16_n(uint16_t* p, Vec a, int n) {
  const IntVec bits = as_int(a);
  const IntVec odd = int_and(shift_right(bits, 16), int_set1(1));
  const IntVec rounded = shift_right(int_add(bits, int_add(odd, int_set1(0x7fff))), 16);
  const Vec kept = select(unordered(a), as_float(int_set1(0x7fc0)), as_float(rounded));
  store_low16_n(p, as_int(kept), n);
}

}  // namespace
}  // namespace skein
