// Batch normalisation, residual sum and LIF. Forward: sums of x, moments from them, and one pass
// for the rest. Backward: the way back through the steps with the sums of the gradients, the
// gradients of the parameters from those, and the gradient of x.
#include "cuda/channel_tiles.h"
#include "cuda/walk.h"

namespace stmixer {
namespace cuda {

STMIXER_DEVICE double values_per_channel(int64_t steps, int64_t neurons, int64_t channels) {
  return static_cast<double>(steps * neurons / channels);
}

template <class R>
STMIXER_DEVICE Lanes<R> add(const Lanes<R>& a, const Lanes<R>& b) {
  Lanes<R> sum;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) sum.at[k] = a.at[k] + b.at[k];
  return sum;
}

// Any value near a channel's mean, for sums that do not cancel: its first.
template <class T>
STMIXER_DEVICE State<T> pivot_of(const BnStatistics& p, int64_t channel) {
  return widen(static_cast<const T*>(p.x)[channel * p.layout.inner]);
}

template <class T>
STMIXER_DEVICE void bn_statistics(const BnStatisticsLaunch& launch) {
  typedef State<T> R;
  const BnStatistics& p = launch.p;
  const ChannelTiles& tiles = launch.tiles;
  const ChannelPlace place = channel_place(tiles, blockIdx.x, threadIdx.x);
  const int count = place.active ? channel_span(tiles, place, 0, false).count : 0;
  Lanes<R> pivot = {}, first = {}, second = {};
#pragma unroll
  for (int k = 0; k < kLanes; ++k)
    if (k < count) pivot.at[k] = pivot_of<T>(p, channel_of(tiles, place, k));
  const int64_t end = place.active ? tiles.outer : 0;
  for (int64_t row = place.row; row < end; row += tiles.parts * tiles.rows) {
    const Span span = channel_span(tiles, place, row, launch.vector);
    for (int64_t begin = 0; begin < p.steps; begin += kAhead) {
      Row<T> x[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (begin + i < p.steps)
          x[i] = load_row(static_cast<const T*>(p.x) + (begin + i) * p.x_step, span);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (begin + i < p.steps) {
          const Lanes<R> values = widen_row(x[i]);
#pragma unroll
          for (int k = 0; k < kLanes; ++k) {
            const R centred = values.at[k] - pivot.at[k];
            first.at[k] += centred;
            second.at[k] += centred * centred;
          }
        }
      }
    }
  }
  double* sums = partial_row(launch.partial, tiles, place);
  sum_block(tiles, place, first, count, sums);
  sum_block(tiles, place, second, count, sums + p.layout.channels);
}

template <class T>
STMIXER_DEVICE void bn_moments(const BnStatisticsLaunch& launch) {
  typedef State<T> R;
  const BnStatistics& p = launch.p;
  const ChannelSums sums =
      add_partials(launch.partial, partial_sums(launch.tiles), p.layout.channels);
  if (sums.channel < 0) return;
  stmixer::bn_moments(sums.first, sums.second,
                      values_per_channel(p.steps, p.neurons, p.layout.channels),
                      pivot_of<T>(p, sums.channel), static_cast<R*>(p.mean)[sums.channel],
                      static_cast<R*>(p.var)[sums.channel]);
}

template <class T>
STMIXER_DEVICE void bn_lif_forward(const BnLifForwardLaunch& launch) {
  typedef State<T> R;
  const BnLifForward& p = launch.p;
  const ChannelTiles& tiles = launch.tiles;
  const ChannelPlace place = channel_place(tiles, blockIdx.x, threadIdx.x);
  if (!place.active) return;
  const LaneNeuron<R> neuron(p.neuron);
  const LaneAffine<R> affine(tiles, place, channel_span(tiles, place, 0, false).count, p.bn);
  for (int64_t row = place.row; row < tiles.outer; row += tiles.parts * tiles.rows) {
    const Span span = channel_span(tiles, place, row, launch.vector);
    Lanes<R> v = load_state<R>(p.v_init, span);
    for (int64_t begin = 0; begin < p.steps; begin += kAhead) {
      Row<T> x[kAhead], residual[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int64_t t = begin + i;
        if (t < p.steps) x[i] = load_row(static_cast<const T*>(p.x) + t * p.x_step, span);
        if (t < p.steps && p.residual)
          residual[i] = load_row(static_cast<const T*>(p.residual) + t * p.residual_step, span);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int64_t step = (begin + i) * p.neurons;
        if (begin + i < p.steps) {
          Lanes<R> sum = affine(widen_row(x[i]));
          if (p.residual) sum = add(sum, widen_row(residual[i]));
          if (p.sum) {  // the LIF sees the sum as it is kept
            const Row<T> kept = narrow_row<T>(sum);
            store_row(kept, static_cast<T*>(p.sum) + step, span);
            sum = widen_row(kept);
          }
          store_spikes<T>(neuron.charge(v, sum), neuron.threshold, p.s, p.bits, step, span);
        }
      }
    }
    store_state(v, p.v_out, span);
  }
}

// What is not read ahead is read at its step, or there would be more rows in flight than registers.
// Where the membranes came from x itself, that was a moment ago: it is in L1 or in the stash.
template <class T, int kRows, bool kLong>
struct BnBack {
  typedef State<T> R;
  static constexpr int kAhead = kRows;
  const BnLifBackward& p;
  const LaneNeuron<R>& neuron;
  const LaneAffine<R>& affine;
  const Lanes<R>& mean;
  const Walk<T>& walk;
  Span span;
  Row<T> gs[kAhead];
  Lanes<R> first, second;  // sums of the gradients, and of their products with x - mean

  __device__ __forceinline__ void ahead(int slot, int64_t t) {
    if (p.gs) gs[slot] = load_row(static_cast<const T*>(p.gs) + t * p.neurons, span);
  }
  __device__ __forceinline__ Row<T> x_again(int64_t t) const {
    if (kLong && !p.sum) return walk.read_again(t, span);
    return load_row(static_cast<const T*>(p.x) + t * p.x_step, span);
  }
  __device__ __forceinline__ Lanes<R> integrated(const Row<T>& row) const {
    return p.sum ? widen_row(row) : affine(widen_row(row));
  }
  __device__ __forceinline__ void step(int slot, int64_t t, const Lanes<R>& h, Lanes<R>& gv) {
    const Lanes<R> upstream = p.gs ? widen_row(gs[slot]) : load_state<R>(nullptr, span);
    Lanes<R> g = neuron.gradient(h, upstream, gv);
    if (p.gsum)
      g = add(g, widen_row(load_row(static_cast<const T*>(p.gsum) + t * p.neurons, span)));
    const Lanes<R> x = widen_row(x_again(t));
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      first.at[i] += g.at[i];
      second.at[i] += g.at[i] * (x.at[i] - mean.at[i]);
    }
    store_row(narrow_row<T>(g), static_cast<T*>(p.g) + t * p.neurons, span);
  }
};

template <class T, int kSteps, int kRows, bool kLong>
STMIXER_DEVICE void bn_lif_backward(const BnLifBackwardLaunch& launch) {
  typedef State<T> R;
  const BnLifBackward& p = launch.p;
  const ChannelTiles& tiles = launch.tiles;
  const ChannelPlace place = channel_place(tiles, blockIdx.x, threadIdx.x);
  const int count = place.active ? channel_span(tiles, place, 0, false).count : 0;
  const LaneNeuron<R> neuron(p.neuron);
  const LaneAffine<R> affine(tiles, place, count, p.bn);
  const Lanes<R> mean = lane_values(tiles, place, count, static_cast<const R*>(p.bn.mean));
  const Walk<T> walk{static_cast<const T*>(p.sum ? p.sum : p.x),
                     p.steps,
                     p.sum ? p.neurons : p.x_step,
                     p.neurons,
                     p.scratch,
                     launch.stash};
  BnBack<T, kRows, kLong> back{p, neuron, affine, mean, walk, {}, {}, {}, {}};
  const int64_t end = place.active ? tiles.outer : 0;
  for (int64_t row = place.row; row < end; row += tiles.parts * tiles.rows) {
    back.span = channel_span(tiles, place, row, launch.vector);
    Lanes<R> gv = load_state<R>(p.gv, back.span);
    walk_back<kSteps, kLong>(walk, neuron, p.v_init, back.span, gv, back);
    store_state(gv, p.gv_init, back.span);
  }
  double* sums = partial_row(launch.partial, tiles, place);
  sum_block(tiles, place, back.first, count, sums);
  sum_block(tiles, place, back.second, count, sums + p.layout.channels);
}

template <class R>
STMIXER_DEVICE void bn_gradients(const BnLifBackwardLaunch& launch) {
  const BnLifBackward& p = launch.p;
  const int64_t channels = p.layout.channels;
  const ChannelSums sums = add_partials(launch.partial, partial_sums(launch.tiles), channels);
  const int64_t c = sums.channel;
  if (c < 0) return;
  const BnAffine<R> a =
      bn_affine(c, static_cast<const R*>(p.bn.weight), static_cast<const R*>(p.bn.bias),
                static_cast<const R*>(p.bn.mean), static_cast<const R*>(p.bn.var), p.bn.eps);
  R* factors = static_cast<R*>(launch.factors);
  stmixer::bn_gradients(sums.first, sums.second, values_per_channel(p.steps, p.neurons, channels),
                        p.training, a.invstd, a.scale, static_cast<R*>(p.gweight)[c],
                        static_cast<R*>(p.gbias)[c], factors[c], factors[channels + c]);
}

template <class T>
STMIXER_DEVICE void bn_input_gradient(const BnLifBackwardLaunch& launch) {
  typedef State<T> R;
  const BnLifBackward& p = launch.p;
  const ChannelTiles& tiles = launch.tiles;
  const ChannelPlace place = channel_place(tiles, blockIdx.x, threadIdx.x);
  if (!place.active) return;
  const int count = channel_span(tiles, place, 0, false).count;
  const R* factors = static_cast<const R*>(launch.factors);
  const LaneAffine<R> affine(tiles, place, count, p.bn);
  const Lanes<R> mean = lane_values(tiles, place, count, static_cast<const R*>(p.bn.mean));
  const Lanes<R> slope = lane_values(tiles, place, count, factors);
  const Lanes<R> offset = lane_values(tiles, place, count, factors + p.layout.channels);
  for (int64_t row = place.row; row < tiles.outer; row += tiles.parts * tiles.rows) {
    const Span span = channel_span(tiles, place, row, launch.vector);
    for (int64_t t = 0; t < p.steps; ++t) {
      const Lanes<R> x = widen_row(load_row(static_cast<const T*>(p.x) + t * p.x_step, span));
      Lanes<R> g = widen_row(load_row(static_cast<const T*>(p.g) + t * p.neurons, span));
#pragma unroll
      for (int k = 0; k < kLanes; ++k)
        g.at[k] =
            affine.scale.at[k] * g.at[k] - (x.at[k] - mean.at[k]) * slope.at[k] - offset.at[k];
      store_row(narrow_row<T>(g), static_cast<T*>(p.gx) + t * p.neurons, span);
    }
  }
}

}  // namespace cuda
}  // namespace stmixer

using stmixer::Bf16;
using stmixer::F16;
using stmixer::cuda::kThreads;

// Blocks on a multiprocessor, of kernels that pass over everything: as many as need no spill. Left
// to itself the compiler spills to fit one more.
#define STMIXER_BN(name, T, statistics_blocks, forward_blocks)                                    \
  STMIXER_BOUNDED_KERNEL((kThreads, statistics_blocks), bn_statistics_##name, BnStatisticsLaunch, \
                         bn_statistics<T>)                                                        \
  STMIXER_KERNEL(bn_moments_##name, BnStatisticsLaunch, bn_moments<T>)                            \
  STMIXER_BOUNDED_KERNEL((kThreads, forward_blocks), bn_lif_forward_##name, BnLifForwardLaunch,   \
                         bn_lif_forward<T>)                                                       \
  STMIXER_KERNEL(bn_input_gradient_##name, BnLifBackwardLaunch, bn_input_gradient<T>)

STMIXER_BN(f32, float, 5, 3)
STMIXER_BN(f64, double, 3, 2)
STMIXER_BN(bf16, Bf16, 6, 4)
STMIXER_BN(f16, F16, 6, 4)
STMIXER_BOUNDED_KERNEL((kThreads, 8), bn_gradients_f32, BnLifBackwardLaunch, bn_gradients<float>)
STMIXER_BOUNDED_KERNEL((kThreads, 8), bn_gradients_f64, BnLifBackwardLaunch, bn_gradients<double>)

// One chunk of 4 steps, one of 8, and chunks of 4. Rows ahead are as many as do not spill.
#define STMIXER_BN_BACKWARD(bounds, name, ...)                                \
  STMIXER_BOUNDED_KERNEL(bounds, bn_lif_backward_##name, BnLifBackwardLaunch, \
                         bn_lif_backward<__VA_ARGS__>)

STMIXER_BN_BACKWARD((kThreads), f32_4, float, 4, 4, false)
STMIXER_BN_BACKWARD((kThreads), f32_8, float, 8, 2, false)
STMIXER_BN_BACKWARD((kThreads), f32_long, float, 4, 4, true)
STMIXER_BN_BACKWARD((kThreads), f64_1, double, 1, 1, true)
STMIXER_BN_BACKWARD((kThreads, 3), bf16_4, Bf16, 4, 4, false)
STMIXER_BN_BACKWARD((kThreads), bf16_8, Bf16, 8, 4, false)
STMIXER_BN_BACKWARD((kThreads), bf16_long, Bf16, 4, 4, true)
STMIXER_BN_BACKWARD((kThreads, 3), f16_4, F16, 4, 4, false)
STMIXER_BN_BACKWARD((kThreads), f16_8, F16, 8, 4, false)
STMIXER_BN_BACKWARD((kThreads), f16_long, F16, 4, 4, true)
