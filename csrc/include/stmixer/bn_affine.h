#pragma once
// The arithmetic of one channel around the kernels of bn_lif, on any device. Square roots and
// quotients are taken in double and rounded once.
#include "stmixer/portable.h"

namespace stmixer {

template <class R>
struct BnAffine {
  R invstd, scale, shift;
};

// y = x * scale + shift; weight and bias may be null for 1 and 0.
template <class R>
STMIXER_STEP BnAffine<R> bn_affine(int64_t c, const R* weight, const R* bias, const R* mean,
                                   const R* var, double eps) {
  BnAffine<R> a;
  a.invstd = static_cast<R>(1.0 / sqrt(static_cast<double>(var[c]) + eps));
  a.scale = weight ? weight[c] * a.invstd : a.invstd;
  a.shift = (bias ? bias[c] : R(0)) - mean[c] * a.scale;
  return a;
}

// Mean and biased variance from the sums of x - pivot and of its square.
template <class R>
STMIXER_STEP void bn_moments(double first, double second, double count, R pivot, R& mean, R& var) {
  const double offset = first / count;
  const double square = second / count - offset * offset;
  mean = static_cast<R>(pivot + offset);
  var = static_cast<R>(square < 0 ? 0 : square);
}

// Gradients of weight and bias, and the slope and offset of that of x, which is
// scale * g - (x - mean) * slope - offset, from the sums of g and of g * (x - mean).
template <class R>
STMIXER_STEP void bn_gradients(double sum, double product, double count, bool training, R invstd,
                               R scale, R& gweight, R& gbias, R& slope, R& offset) {
  const double projection = product * invstd;
  gbias = static_cast<R>(sum);
  gweight = static_cast<R>(projection);
  // Batch statistics depend on x too: the mean of g, and its projection on x, drop out.
  offset = training ? static_cast<R>(scale * sum / count) : R(0);
  slope = training ? static_cast<R>(scale * invstd * projection / count) : R(0);
}

}  // namespace stmixer
