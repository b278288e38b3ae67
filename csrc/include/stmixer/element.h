#pragma once
// The narrow element types, and the conversions between elements and the state type.
#include "stmixer/portable.h"

namespace stmixer {

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

template <class In>
struct StateOf {
  typedef float type;
};
template <>
struct StateOf<double> {
  typedef double type;
};
template <class In>
using State = typename StateOf<In>::type;

template <class To, class From>
STMIXER_STEP To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

STMIXER_STEP float widen(Bf16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

STMIXER_STEP float widen(F16 x) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t rest = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  // Scaling by 2^112 moves the exponent over and makes subnormals normal; infinities and NaN get
  // the exponent they lose that way put back.
  const float scaled = bit_cast<float>(rest) * 5.192296858534828e33f;
  const uint32_t special = rest >= 0x0f800000u ? 0x7f800000u : 0u;
  return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | sign);
#endif
}

STMIXER_STEP float widen(float x) { return x; }
STMIXER_STEP double widen(double x) { return x; }

STMIXER_STEP void narrow(float x, float& out) { out = x; }
STMIXER_STEP void narrow(double x, double& out) { out = x; }

STMIXER_STEP void narrow(float x, Bf16& out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  out.bits = static_cast<uint16_t>(x != x ? (u >> 16) | 0x40u : rounded);
#endif
}

STMIXER_STEP void narrow(float x, F16& out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  // Normal range: round to nearest even on the 13 bits dropped, rebias by 112.
  const uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  // Below 2^-14 adding 0.5 aligns the mantissa to multiples of 2^-24, rounding as the unit does.
  const uint32_t small = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  uint32_t half = magnitude < 0x38800000u ? small : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  out.bits = static_cast<uint16_t>(half | sign);
#endif
}

}  // namespace stmixer
