#pragma once
// Two rows of int8 weights at a time, as the int8 kernels add them. Included only by *_kernel.cpp.
#include "common/simd.h"

namespace stmixer::engine {
namespace {

// Adds a + b to sums of 16 bits. With AVX2 the rows are interleaved byte by byte and each pair
// added by one multiply-add with ones, which costs less than widening the rows one by one; `low`
// and `high` are then the halves of each 16 bytes, not of the vector.
inline void add_pair(VecI8 a, VecI8 b, VecI16& low, VecI16& high) {
#if defined(__AVX512F__)
  const __m512i ones = _mm512_set1_epi8(1), x = (__m512i)a, y = (__m512i)b;
  low += (VecI16)_mm512_maddubs_epi16(ones, _mm512_unpacklo_epi8(x, y));
  high += (VecI16)_mm512_maddubs_epi16(ones, _mm512_unpackhi_epi8(x, y));
#elif defined(__AVX2__)
  const __m256i ones = _mm256_set1_epi8(1), x = (__m256i)a, y = (__m256i)b;
  low += (VecI16)_mm256_maddubs_epi16(ones, _mm256_unpacklo_epi8(x, y));
  high += (VecI16)_mm256_maddubs_epi16(ones, _mm256_unpackhi_epi8(x, y));
#else
  VecI16 a_low, a_high, b_low, b_high;
  widen(a, a_low, a_high);
  widen(b, b_low, b_high);
  low += a_low + b_low;
  high += a_high + b_high;
#endif
}

}  // namespace
}  // namespace stmixer::engine
