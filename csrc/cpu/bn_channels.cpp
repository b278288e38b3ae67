// The per-channel arithmetic around the kernels of bn_lif: a few numbers per channel, for which a
// call into PyTorch each would cost more than the work.
#include <cmath>

#include "stmixer/bn_lif.h"

namespace stmixer {

namespace {

template <class R>
void moments(const BnMoments& p) {
  const R* pivot = static_cast<const R*>(p.pivot);
  R *mean = static_cast<R*>(p.mean), *var = static_cast<R*>(p.var);
  for (int64_t c = 0; c < p.channels; ++c) {
    const double offset = p.sums[c] / p.count;
    const double square = p.sums[p.channels + c] / p.count - offset * offset;
    mean[c] = static_cast<R>(pivot[c] + offset);
    var[c] = static_cast<R>(square < 0 ? 0 : square);
  }
}

template <class R>
void affine(const BnAffine& p) {
  const R *weight = static_cast<const R*>(p.weight), *bias = static_cast<const R*>(p.bias);
  const R *mean = static_cast<const R*>(p.mean), *var = static_cast<const R*>(p.var);
  R *invstd = static_cast<R*>(p.invstd), *scale = static_cast<R*>(p.scale),
    *shift = static_cast<R*>(p.shift);
  for (int64_t c = 0; c < p.channels; ++c) {
    invstd[c] = static_cast<R>(1.0 / std::sqrt(static_cast<double>(var[c]) + p.eps));
    scale[c] = weight ? weight[c] * invstd[c] : invstd[c];
    shift[c] = (bias ? bias[c] : R(0)) - mean[c] * scale[c];
  }
}

template <class R>
void gradient_terms(const BnGradientTerms& p) {
  const R *invstd = static_cast<const R*>(p.invstd), *scale = static_cast<const R*>(p.scale);
  R *gweight = static_cast<R*>(p.gweight), *gbias = static_cast<R*>(p.gbias),
    *slope = static_cast<R*>(p.slope), *offset = static_cast<R*>(p.offset);
  for (int64_t c = 0; c < p.channels; ++c) {
    const double sum = p.sums[c], projection = p.sums[p.channels + c] * invstd[c];
    gbias[c] = static_cast<R>(sum);
    gweight[c] = static_cast<R>(projection);
    // Batch statistics depend on x too: the mean of g, and its projection on x, drop out.
    offset[c] = p.count ? static_cast<R>(scale[c] * sum / p.count) : R(0);
    slope[c] = p.count ? static_cast<R>(scale[c] * invstd[c] * projection / p.count) : R(0);
  }
}

}  // namespace

void bn_moments(const BnMoments& p) {
  p.dtype == Dtype::f64 ? moments<double>(p) : moments<float>(p);
}

void bn_affine(const BnAffine& p) { p.dtype == Dtype::f64 ? affine<double>(p) : affine<float>(p); }

void bn_gradient_terms(const BnGradientTerms& p) {
  p.dtype == Dtype::f64 ? gradient_terms<double>(p) : gradient_terms<float>(p);
}

}  // namespace stmixer
