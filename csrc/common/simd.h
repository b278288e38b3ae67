#pragma once
// One vector type for every instruction set, by the compiler's vector extension: lanes are
// independent and nothing is contracted, so results are bit-identical from scalar to AVX-512.
// Included only by *_kernel.cpp. All functions are static: two objects compiled with different
// flags must not share an inline function, or the linker would keep the one that may not run here.
#include <cstdint>

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

}  // namespace stmixer
