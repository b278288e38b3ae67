#pragma once
// The one definition of a LIF step, its gradient and the surrogate derivatives, for every kernel.
// Compiled without contraction everywhere: `decay * v + x` rounds twice, as in PyTorch. R is a
// number or, but for the exponential surrogates, a vector of them, hence R{} for 0.
#include "stmixer/portable.h"

namespace stmixer {

enum class SurrogateKind : int32_t { dspike, piecewise_quadratic, rect, sigmoid, atan };

// Membrane before reset from the membrane after the last reset.
template <class R>
STMIXER_STEP R lif_charge(R v, R x, R decay) {
  return decay * v + x;
}

// Whether the neuron fires: h - threshold >= 0, which the comparison itself says without rounding.
// NaN compares false, so it never does.
template <class R>
STMIXER_STEP auto lif_fires(R h, R threshold) {
  return h >= threshold;
}

// Where s is 0 or 1, `s ? h - h : h` is h * (1 - s) and `s ? h - threshold : h` is
// h - threshold * s, for infinities and NaN too and but for the sign of a zero, in fewer
// instructions, and such as do not wait for the multiplier.
template <bool kHard, class R, class Fired>
STMIXER_STEP R lif_reset(R h, Fired fired, R threshold) {
  return fired ? (kHard ? h - h : h - threshold) : h;
}

// Gradient of the loss with respect to h, from that of the spike (gs) and of the membrane after
// reset (gv). `slope` is ds/du; a detached reset carries no gradient through the spike.
template <bool kHard, bool kDetach, class R, class Fired>
STMIXER_STEP R lif_gradient(R h, Fired fired, R slope, R gs, R gv, R threshold) {
  if (!kDetach) gs -= (kHard ? h : threshold) * gv;
  if (kHard) gv = fired ? gv - gv : gv;
  return gs * slope + gv;
}

// The reset and the gradient for kernels that are not compiled once per option.
template <class R, class Fired>
STMIXER_STEP R lif_reset(R h, Fired fired, R threshold, bool hard) {
  return hard ? lif_reset<true>(h, fired, threshold) : lif_reset<false>(h, fired, threshold);
}
template <class R, class Fired>
STMIXER_STEP R lif_gradient(R h, Fired fired, R slope, R gs, R gv, R threshold, bool hard,
                            bool detach) {
  gs = detach ? gs : gs - (hard ? h : threshold) * gv;
  return lif_gradient<true, true>(h, hard && fired, slope, gs, gv, threshold);
}

// A GPU has instructions for 2^x and 1/x, each within two units in the last place; exact ones are
// subroutines there that would cost more than the rest of the gradient.
STMIXER_STEP float divide(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdividef(a, b);
#else
  return a / b;
#endif
}
STMIXER_STEP double divide(double a, double b) { return a / b; }

// exp(-z) for z >= 0 by range reduction and a Taylor polynomial: relative error below 1e-7 (float)
// and 1e-15 (double), zero-free (z is capped), NaN for NaN. Plain arithmetic, so loops vectorise.
STMIXER_STEP float exp_negative(float z) {
#if defined(__CUDA_ARCH__)
  float power;
  asm("ex2.approx.f32 %0, %1;" : "=f"(power) : "f"(z * -1.44269504f));
  return power;
#else
  z = z > 87.0f ? 87.0f : z;
  const float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = z * -1.44269504f + shifter;
  const float k = shifted - shifter;
  const float r = (-z - k * 0.693359375f) - k * -2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // The low bits of the shifted value are k itself: the exponent of 2^k without a conversion.
  uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127u) << 23;
  float scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return p * scale;
#endif
}

STMIXER_STEP double exp_negative(double z) {
  z = z > 708.0 ? 708.0 : z;
  const double shifter = 6755399441055744.0;  // 1.5 * 2^52
  const double shifted = z * -1.4426950408889634 + shifter;
  const double k = shifted - shifter;
  const double r = (-z - k * 0.69314718036912382) - k * 1.9082149292705877e-10;
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  uint64_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 1023u) << 52;
  double scale;
  __builtin_memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

// Of the lanes of a vector, all bits but the sign: comparing would take the place of a
// multiplication.
template <class R>
STMIXER_STEP R absolute(R u) {
  typedef decltype(u > u) Bits;
  return (R)((Bits)u & ~(Bits)(-R{}));
}
STMIXER_STEP float absolute(float u) { return fabsf(u); }
STMIXER_STEP double absolute(double u) { return fabs(u); }

// Whether the slope is a few additions and multiplications, cheaper than to keep.
constexpr bool is_polynomial(SurrogateKind kind) {
  return kind == SurrogateKind::piecewise_quadratic || kind == SurrogateKind::rect;
}

// ds/du at u. `a` is the surrogate's alpha or gamma, `b` what surrogate_constant made of it.
template <SurrogateKind kKind, class R>
STMIXER_STEP R surrogate_slope(R u, R a, R b) {
  const R magnitude = absolute(u);
  if constexpr (kKind == SurrogateKind::piecewise_quadratic) {
    const R slope = a - b * magnitude;
    return R{} > slope ? R{} : slope;
  } else if constexpr (kKind == SurrogateKind::rect) {
    return magnitude < b ? a : R{};
  } else if constexpr (kKind == SurrogateKind::atan) {
    return divide(a * R(0.5), R(1) + (b * u) * (b * u));
  } else if constexpr (kKind == SurrogateKind::sigmoid) {
    // As the next one, e / (1 + e)^2 with e = exp(-|.|): sigma', and with twice the argument a
    // quarter of 1 - tanh^2.
    const R e = exp_negative(a * magnitude);
    return divide(a * e, (R(1) + e) * (R(1) + e));
  } else {
    const R e = exp_negative(R(2) * a * magnitude);
    const R slope = divide(b * e, (R(1) + e) * (R(1) + e));
    return magnitude <= R(1) ? slope : R(0);
  }
}

}  // namespace stmixer
