// LIF over all steps, forward and backward: see cuda/lanes.h for what a thread does.
#include "cuda/walk.h"

namespace stmixer {
namespace cuda {

template <class T>
STMIXER_DEVICE void lif_forward(const LifForwardLaunch& launch) {
  typedef State<T> R;
  const LifForward& p = launch.p;
  const Span span = lif_span(p.neurons, launch.vector, blockIdx.x, threadIdx.x);
  if (span.count == 0) return;
  const LaneNeuron<R> neuron(p.neuron);
  Lanes<R> v = load_state<R>(p.v_init, span);
  for (int64_t begin = 0; begin < p.steps; begin += kAhead) {
    Row<T> x[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (begin + k < p.steps)
        x[k] = load_row(static_cast<const T*>(p.x) + (begin + k) * p.x_step, span);
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (begin + k < p.steps)
        store_spikes<T>(neuron.charge(v, widen_row(x[k])), neuron.threshold, p.s, p.bits,
                        (begin + k) * p.neurons, span);
  }
  store_state(v, p.v_out, span);
}

template <class T, int kSteps>
struct LifBack {
  typedef State<T> R;
  static constexpr int kAhead = kSteps;
  const LifBackward& p;
  const LaneNeuron<R>& neuron;
  const Span& span;
  Row<T> gs[kSteps];

  __device__ __forceinline__ void ahead(int slot, int64_t t) {
    if (p.gs) gs[slot] = load_row(static_cast<const T*>(p.gs) + t * p.neurons, span);
  }
  __device__ __forceinline__ Lanes<R> integrated(const Row<T>& row) const { return widen_row(row); }
  __device__ __forceinline__ void step(int slot, int64_t t, const Lanes<R>& h, Lanes<R>& gv) {
    const Lanes<R> upstream = p.gs ? widen_row(gs[slot]) : load_state<R>(nullptr, span);
    const Lanes<R> g = neuron.gradient(h, upstream, gv);
    store_row(narrow_row<T>(g), static_cast<T*>(p.gx) + t * p.neurons, span);
  }
};

template <class T, int kSteps>
STMIXER_DEVICE void lif_backward(const LifBackwardLaunch& launch) {
  typedef State<T> R;
  const LifBackward& p = launch.p;
  const Span span = lif_span(p.neurons, launch.vector, blockIdx.x, threadIdx.x);
  if (span.count == 0) return;
  const LaneNeuron<R> neuron(p.neuron);
  const Walk<T> walk{
      static_cast<const T*>(p.x), p.steps, p.x_step, p.neurons, p.scratch, launch.stash};
  LifBack<T, kSteps> back{p, neuron, span, {}};
  Lanes<R> gv = load_state<R>(p.gv, span);
  walk_back<kSteps, true>(walk, neuron, p.v_init, span, gv, back);
  store_state(gv, p.gv_init, span);
}

}  // namespace cuda
}  // namespace stmixer

using stmixer::Bf16;
using stmixer::F16;

STMIXER_KERNEL(lif_forward_f32, LifForwardLaunch, lif_forward<float>)
STMIXER_KERNEL(lif_forward_f64, LifForwardLaunch, lif_forward<double>)
STMIXER_KERNEL(lif_forward_bf16, LifForwardLaunch, lif_forward<Bf16>)
STMIXER_KERNEL(lif_forward_f16, LifForwardLaunch, lif_forward<F16>)

STMIXER_KERNEL(lif_backward_f32_4, LifBackwardLaunch, lif_backward<float, 4>)
STMIXER_KERNEL(lif_backward_f32_8, LifBackwardLaunch, lif_backward<float, 8>)
STMIXER_KERNEL(lif_backward_f64_2, LifBackwardLaunch, lif_backward<double, 2>)
STMIXER_KERNEL(lif_backward_bf16_4, LifBackwardLaunch, lif_backward<Bf16, 4>)
STMIXER_KERNEL(lif_backward_bf16_8, LifBackwardLaunch, lif_backward<Bf16, 8>)
STMIXER_KERNEL(lif_backward_f16_4, LifBackwardLaunch, lif_backward<F16, 4>)
STMIXER_KERNEL(lif_backward_f16_8, LifBackwardLaunch, lif_backward<F16, 8>)
