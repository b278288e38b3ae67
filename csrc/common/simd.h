#pragma once
// One vector type for every instruction set, by the compiler's vector extension: lanes are
// independent and nothing is contracted, so results are bit-identical from scalar to AVX-512.
// Included only by *_kernel.cpp. All functions are static: two objects compiled with different
// flags must not share an inline function, or the linker would keep the one that may not run here.
#include <cstdint>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace stmixer {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

typedef float VecF32 __attribute__((vector_size(kVectorBytes)));
typedef double VecF64 __attribute__((vector_size(kVectorBytes)));
typedef int32_t VecI32 __attribute__((vector_size(kVectorBytes)));
typedef int16_t VecI16 __attribute__((vector_size(kVectorBytes)));
typedef int8_t VecI8 __attribute__((vector_size(kVectorBytes)));

template <class R>
struct VecOf;
template <>
struct VecOf<float> {
  typedef VecF32 type;
};
template <>
struct VecOf<double> {
  typedef VecF64 type;
};
template <>
struct VecOf<int32_t> {
  typedef VecI32 type;
};
template <>
struct VecOf<int16_t> {
  typedef VecI16 type;
};
template <>
struct VecOf<int8_t> {
  typedef VecI8 type;
};
template <class R>
using Vec = typename VecOf<R>::type;

template <class R>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(R));

// Unaligned load and store.
template <class R>
static inline Vec<R> load(const R* p) {
  Vec<R> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class R>
static inline void store(R* p, Vec<R> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

#if defined(__AVX512F__)
static inline VecI32 load_wide(const int16_t* p) {
  return (VecI32)_mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline VecI16 load_wide(const int8_t* p) {
  return (VecI16)_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
#elif defined(__AVX2__)
static inline VecI32 load_wide(const int16_t* p) {
  return (VecI32)_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
static inline VecI16 load_wide(const int8_t* p) {
  return (VecI16)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#else
// The lower and the upper lanes of x in twice their bits.
template <class Vector, class Wide>
static inline void widen(Vector x, Wide& low, Wide& high) {
  typedef std::remove_reference_t<decltype(low[0])> Lane;
  typedef Lane Both __attribute__((vector_size(2 * kVectorBytes)));
  const Both both = __builtin_convertvector(x, Both);
  Wide halves[2];
  __builtin_memcpy(halves, &both, sizeof halves);
  low = halves[0];
  high = halves[1];
}
#endif

// Integers from p on in twice their bits. Compilers take half a vector apart lane by lane to widen
// it; without instructions of our own a whole one is therefore made two.
template <class Narrow, class Wide, int kCount>
static inline void load_wide(const Narrow* p, Wide (&v)[kCount]) {
#if defined(__AVX2__)
  for (int i = 0; i < kCount; ++i) v[i] = load_wide(p + i * kLanes<Narrow> / 2);
#else
  static_assert(kCount % 2 == 0, "vectors come in pairs");
  for (int i = 0; i < kCount; i += 2) widen(load(p + i * kLanes<Narrow> / 2), v[i], v[i + 1]);
#endif
}

// Bit i is whether lane i of a >= b, or of a > b; not where one of them is NaN.
#if defined(__AVX512F__)
static inline uint32_t bits_at_least(VecF32 a, VecF32 b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
static inline uint32_t bits_at_least(VecI32 a, VecI32 b) {
  return _mm512_cmpge_epi32_mask((__m512i)a, (__m512i)b);
}
static inline uint32_t bits_above(VecF32 a, VecF32 b) {
  return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
#else
// Of a comparison, whose lanes have all bits set or none.
static inline uint32_t lane_bits(VecI32 lanes) {
#if defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)lanes));
#elif defined(__SSE2__)
  return static_cast<uint32_t>(_mm_movemask_ps((__m128)lanes));
#else
  typedef uint64_t Words __attribute__((vector_size(kVectorBytes)));
  const Words words = (Words)(lanes & VecI32{1, 2, 4, 8});
  const uint64_t both = words[0] | words[1];
  return static_cast<uint32_t>(both | both >> 32);
#endif
}
static inline uint32_t bits_at_least(VecF32 a, VecF32 b) { return lane_bits(a >= b); }
static inline uint32_t bits_at_least(VecI32 a, VecI32 b) { return lane_bits(a >= b); }
static inline uint32_t bits_above(VecF32 a, VecF32 b) { return lane_bits(a > b); }
#endif

}  // namespace stmixer
