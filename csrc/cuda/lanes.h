#pragma once
// What a thread does with its lanes. Everything is unrolled, so that arrays are registers.
#include "cuda/parameters.h"
#include "stmixer/element.h"

#define STMIXER_DEVICE static __device__ __forceinline__

// An instance of a kernel. Its name is how the host and NVRTC know it. Where there is a table of
// kernels, each enters itself.
#if defined(STMIXER_CUDA_TABLE)
#include "cuda/table.h"
#elif !defined(STMIXER_ENTER)
#define STMIXER_ENTER(name)
#endif
// Launch is what the kernel takes, the rest its body. `bounds` are its threads and, where that
// makes a difference, how many blocks are to fit on a multiprocessor.
#define STMIXER_BOUNDED_KERNEL(bounds, name, Launch, ...)                                        \
  extern "C" __global__ void __launch_bounds__ bounds name(const stmixer::cuda::Launch launch) { \
    stmixer::cuda::__VA_ARGS__(launch);                                                          \
  }                                                                                              \
  STMIXER_ENTER(name)
#define STMIXER_KERNEL(name, Launch, ...) \
  STMIXER_BOUNDED_KERNEL((stmixer::cuda::kThreads), name, Launch, __VA_ARGS__)

namespace stmixer {
namespace cuda {

// Rows read before the first of them is used.
constexpr int kAhead = 4;

struct alignas(16) Quad {
  uint32_t words[4];
};

// The elements of a span as they lie in memory.
template <class T>
struct Row {
  Quad quads[kLanes * sizeof(T) / sizeof(Quad)];
};

template <class T>
STMIXER_DEVICE Row<T> load_row(const T* tensor, const Span& span) {
  constexpr int kQuads = sizeof(Row<T>) / sizeof(Quad);
  Row<T> row;
  if (span.whole) {
#pragma unroll
    for (int i = 0; i < kQuads; ++i)
      row.quads[i] = reinterpret_cast<const Quad*>(tensor + span.at)[i];
  } else {
    T values[kLanes] = {};
#pragma unroll
    for (int k = 0; k < kLanes; ++k)
      if (k < span.count) values[k] = tensor[span.at + k];
    __builtin_memcpy(&row, values, sizeof row);
  }
  return row;
}

template <class T>
STMIXER_DEVICE void store_row(const Row<T>& row, T* tensor, const Span& span) {
  constexpr int kQuads = sizeof(Row<T>) / sizeof(Quad);
  if (span.whole) {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) reinterpret_cast<Quad*>(tensor + span.at)[i] = row.quads[i];
  } else {
    T values[kLanes];
    __builtin_memcpy(values, &row, sizeof row);
#pragma unroll
    for (int k = 0; k < kLanes; ++k)
      if (k < span.count) tensor[span.at + k] = values[k];
  }
}

// A value per lane in the state type.
template <class R>
struct Lanes {
  R at[kLanes];
};

template <class T>
STMIXER_DEVICE Lanes<State<T>> widen_row(const Row<T>& row) {
  T values[kLanes];
  __builtin_memcpy(values, &row, sizeof row);
  Lanes<State<T>> wide;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) wide.at[k] = widen(values[k]);
  return wide;
}

template <class T>
STMIXER_DEVICE Row<T> narrow_row(const Lanes<State<T>>& wide) {
  T values[kLanes];
#pragma unroll
  for (int k = 0; k < kLanes; ++k) narrow(wide.at[k], values[k]);
  Row<T> row;
  __builtin_memcpy(&row, values, sizeof row);
  return row;
}

// A span of a membrane or of its gradient, zeros where there is none.
template <class R>
STMIXER_DEVICE Lanes<R> load_state(const void* tensor, const Span& span) {
  if (tensor) return widen_row(load_row(static_cast<const R*>(tensor), span));
  Lanes<R> zeros;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) zeros.at[k] = R(0);
  return zeros;
}

template <class R>
STMIXER_DEVICE void store_state(const Lanes<R>& lanes, void* tensor, const Span& span) {
  if (tensor) store_row(narrow_row<R>(lanes), static_cast<R*>(tensor), span);
}

// The neuron with its numbers in the state type. Its options are the same for all threads and cost
// a selection or a uniform branch where a row of lanes is taken, not a kernel each.
template <class R>
struct LaneNeuron {
  R threshold, decay, a, b;
  bool hard, detach;
  SurrogateKind kind;

  __device__ __forceinline__ explicit LaneNeuron(const Neuron& n)
      : threshold(static_cast<R>(n.threshold)),
        decay(static_cast<R>(n.decay)),
        a(static_cast<R>(n.scale)),
        b(static_cast<R>(n.constant)),
        hard(n.hard),
        detach(n.detach),
        kind(n.surrogate) {}

  // Membranes before reset; v is the one after the last reset, and after this one on return.
  __device__ __forceinline__ Lanes<R> charge(Lanes<R>& v, const Lanes<R>& x) const {
    Lanes<R> h;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) {
      h.at[k] = lif_charge(v.at[k], x.at[k], decay);
      v.at[k] = lif_reset(h.at[k], lif_fires(h.at[k], threshold), threshold, hard);
    }
    return h;
  }

  template <SurrogateKind kKind>
  __device__ __forceinline__ void slopes_of(const Lanes<R>& h, Lanes<R>& slopes) const {
#pragma unroll
    for (int k = 0; k < kLanes; ++k)
      slopes.at[k] = surrogate_slope<kKind>(h.at[k] - threshold, a, b);
  }

  __device__ __forceinline__ Lanes<R> slopes(const Lanes<R>& h) const {
    Lanes<R> slopes;
    switch (kind) {
      case SurrogateKind::dspike:
        slopes_of<SurrogateKind::dspike>(h, slopes);
        break;
      case SurrogateKind::piecewise_quadratic:
        slopes_of<SurrogateKind::piecewise_quadratic>(h, slopes);
        break;
      case SurrogateKind::rect:
        slopes_of<SurrogateKind::rect>(h, slopes);
        break;
      case SurrogateKind::sigmoid:
        slopes_of<SurrogateKind::sigmoid>(h, slopes);
        break;
      default:
        slopes_of<SurrogateKind::atan>(h, slopes);
    }
    return slopes;
  }

  // Gradient with respect to the charge; gv is that of the membrane after this step, and after the
  // step before on return.
  __device__ __forceinline__ Lanes<R> gradient(const Lanes<R>& h, const Lanes<R>& gs,
                                               Lanes<R>& gv) const {
    const Lanes<R> slope = slopes(h);
    Lanes<R> g;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) {
      g.at[k] = lif_gradient(h.at[k], lif_fires(h.at[k], threshold), slope.at[k], gs.at[k],
                             gv.at[k], threshold, hard, detach);
      gv.at[k] = decay * g.at[k];
    }
    return g;
  }
};

// The spikes of a step, dense and as a byte of bits, wherever those are wanted.
template <class T>
STMIXER_DEVICE void store_spikes(const Lanes<State<T>>& h, State<T> threshold, void* s,
                                 uint32_t* bits, int64_t step, const Span& span) {
  Lanes<State<T>> spikes;
  unsigned byte = 0;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) {
    const bool fired = lif_fires(h.at[k], threshold);
    spikes.at[k] = fired ? State<T>(1) : State<T>(0);
    byte |= static_cast<unsigned>(fired) << k;
  }
  if (s) store_row(narrow_row<T>(spikes), static_cast<T*>(s) + step, span);
  if (bits) reinterpret_cast<uint8_t*>(bits)[(step + span.at) / 8] = static_cast<uint8_t>(byte);
}

}  // namespace cuda
}  // namespace stmixer
