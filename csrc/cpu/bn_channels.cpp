#include "cpu/bn_channels.h"

#include <cmath>
#include <type_traits>

namespace stmixer {

namespace {

template <class R>
void moments(const BnStatistics& p, const R* pivots, const double* sums) {
  const int64_t channels = p.layout.channels;
  const double count = static_cast<double>(p.steps * p.neurons / channels);
  R *mean = static_cast<R*>(p.mean), *var = static_cast<R*>(p.var);
  for (int64_t c = 0; c < channels; ++c) {
    const double offset = sums[c] / count;
    const double square = sums[channels + c] / count - offset * offset;
    mean[c] = static_cast<R>(pivots[c] + offset);
    var[c] = static_cast<R>(square < 0 ? 0 : square);
  }
}

template <class R>
void affine(int64_t count, const BnParameters& bn, R* invstd, R* scale, R* shift) {
  const R *weight = static_cast<const R*>(bn.weight), *bias = static_cast<const R*>(bn.bias);
  const R *mean = static_cast<const R*>(bn.mean), *var = static_cast<const R*>(bn.var);
  for (int64_t c = 0; c < count; ++c) {
    invstd[c] = static_cast<R>(1.0 / std::sqrt(static_cast<double>(var[c]) + bn.eps));
    scale[c] = weight ? weight[c] * invstd[c] : invstd[c];
    shift[c] = (bias ? bias[c] : R(0)) - mean[c] * scale[c];
  }
}

template <class R>
void gradients(const BnLifBackward& p, const double* sums, const R* invstd, const R* scale,
               R* slope, R* offset) {
  const int64_t channels = p.layout.channels;
  const double count = static_cast<double>(p.steps * p.neurons / channels);
  R *gweight = static_cast<R*>(p.gweight), *gbias = static_cast<R*>(p.gbias);
  for (int64_t c = 0; c < channels; ++c) {
    const double sum = sums[c], projection = sums[channels + c] * invstd[c];
    gbias[c] = static_cast<R>(sum);
    gweight[c] = static_cast<R>(projection);
    // Batch statistics depend on x too: the mean of g, and its projection on x, drop out.
    offset[c] = p.training ? static_cast<R>(scale[c] * sum / count) : R(0);
    slope[c] = p.training ? static_cast<R>(scale[c] * invstd[c] * projection / count) : R(0);
  }
}

// Calls f with a null pointer of the state type.
template <class F>
void with_state(Dtype dtype, const F& f) {
  dtype == Dtype::f64 ? f(static_cast<double*>(nullptr)) : f(static_cast<float*>(nullptr));
}

}  // namespace

void channel_moments(const BnStatistics& p, const void* pivots, const double* sums) {
  with_state(p.dtype, [&](auto* r) {
    using R = std::remove_pointer_t<decltype(r)>;
    moments(p, static_cast<const R*>(pivots), sums);
  });
}

void channel_affine(Dtype dtype, int64_t count, const BnParameters& bn, const BnChannels& c) {
  with_state(dtype, [&](auto* r) {
    using Row = decltype(r);
    affine(count, bn, static_cast<Row>(c.invstd), static_cast<Row>(c.scale),
           static_cast<Row>(c.shift));
  });
}

void channel_gradients(const BnLifBackward& p, const double* sums, const BnChannels& c) {
  with_state(p.dtype, [&](auto* r) {
    using Row = decltype(r);
    gradients(p, sums, static_cast<Row>(c.invstd), static_cast<Row>(c.scale),
              static_cast<Row>(c.slope), static_cast<Row>(c.offset));
  });
}

}  // namespace stmixer
