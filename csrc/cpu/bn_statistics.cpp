#include "cpu/bn_statistics.h"

#include <type_traits>

#include "stmixer/bn_affine.h"

namespace stmixer {

namespace {

template <class R>
void moments(const BnStatistics& p, int64_t begin, int64_t end, const R* pivots,
             const double* sums) {
  const int64_t channels = p.layout.channels;
  const double count = static_cast<double>(p.steps * p.neurons / channels);
  R *mean = static_cast<R*>(p.mean), *var = static_cast<R*>(p.var);
  for (int64_t c = begin; c < end; ++c)
    bn_moments(sums[c], sums[channels + c], count, pivots[c], mean[c], var[c]);
}

template <class R>
void affine(int64_t begin, int64_t end, const BnParameters& bn, R* invstd, R* scale, R* shift) {
  for (int64_t c = begin; c < end; ++c) {
    const auto a = bn_affine(c, static_cast<const R*>(bn.weight), static_cast<const R*>(bn.bias),
                             static_cast<const R*>(bn.mean), static_cast<const R*>(bn.var), bn.eps);
    invstd[c] = a.invstd;
    scale[c] = a.scale;
    shift[c] = a.shift;
  }
}

template <class R>
void gradients(const BnLifBackward& p, int64_t begin, int64_t end, const double* sums,
               const R* invstd, const R* scale, R* slope, R* offset) {
  const int64_t channels = p.layout.channels;
  const double count = static_cast<double>(p.steps * p.neurons / channels);
  R *gweight = static_cast<R*>(p.gweight), *gbias = static_cast<R*>(p.gbias);
  for (int64_t c = begin; c < end; ++c)
    bn_gradients(sums[c], sums[channels + c], count, p.training, invstd[c], scale[c], gweight[c],
                 gbias[c], slope[c], offset[c]);
}

// Calls f with a null pointer of the state type.
template <class F>
void with_state(Dtype dtype, const F& f) {
  dtype == Dtype::f64 ? f(static_cast<double*>(nullptr)) : f(static_cast<float*>(nullptr));
}

}  // namespace

void channel_moments(const BnStatistics& p, int64_t begin, int64_t end, const void* pivots,
                     const double* sums) {
  with_state(p.dtype, [&](auto* r) {
    using R = std::remove_pointer_t<decltype(r)>;
    moments(p, begin, end, static_cast<const R*>(pivots), sums);
  });
}

void channel_affine(Dtype dtype, int64_t begin, int64_t end, const BnParameters& bn,
                    const BnChannels& c) {
  with_state(dtype, [&](auto* r) {
    using Row = decltype(r);
    affine(begin, end, bn, static_cast<Row>(c.invstd), static_cast<Row>(c.scale),
           static_cast<Row>(c.shift));
  });
}

void channel_gradients(const BnLifBackward& p, int64_t begin, int64_t end, const double* sums,
                       const BnChannels& c) {
  with_state(p.dtype, [&](auto* r) {
    using Row = decltype(r);
    gradients(p, begin, end, sums, static_cast<Row>(c.invstd), static_cast<Row>(c.scale),
              static_cast<Row>(c.slope), static_cast<Row>(c.offset));
  });
}

}  // namespace stmixer
