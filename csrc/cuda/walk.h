#pragma once
// The way back through the steps. A thread recomputes the membranes of kSteps steps at a time and
// keeps them in registers. Up to kSteps steps that is all. Longer runs are walked forward first,
// which leaves the membrane before each chunk behind, and then taken from the last chunk to the
// first.
#include "cuda/lanes.h"

extern __shared__ stmixer::cuda::Quad stmixer_stash[];

namespace stmixer {
namespace cuda {

// What the LIF integrates, as it lies in memory, and what is kept of it between the walks: with a
// stash, the rows themselves (kLanes elements of a thread after those of the thread before it) and
// the membranes, in shared memory; else the membranes, in `scratch`.
template <class T>
struct Walk {
  const T* rows;
  int64_t steps, step, neurons;
  void* scratch;
  bool stash;

  __device__ __forceinline__ static Span slot() {
    return {static_cast<int64_t>(threadIdx.x) * kLanes, kLanes, true};
  }
  __device__ __forceinline__ T* stashed(int64_t t) const {
    return reinterpret_cast<T*>(stmixer_stash) + t * kThreads * kLanes;
  }
  __device__ __forceinline__ Row<T> first_read(int64_t t, const Span& span) const {
    const Row<T> row = load_row(rows + t * step, span);
    if (stash) store_row(row, stashed(t), slot());
    return row;
  }
  __device__ __forceinline__ Row<T> read_again(int64_t t, const Span& span) const {
    return stash ? load_row(static_cast<const T*>(stashed(t)), slot())
                 : load_row(rows + t * step, span);
  }
  // The membrane before chunk c > 0.
  __device__ __forceinline__ State<T>* membrane(int64_t chunk) const {
    typedef State<T> R;
    return stash ? reinterpret_cast<R*>(stashed(steps)) + (chunk - 1) * kThreads * kLanes
                 : static_cast<R*>(scratch) + (chunk - 1) * neurons;
  }
  __device__ __forceinline__ Span membrane_span(const Span& span) const {
    return stash ? slot() : span;
  }
};

// `back` is asked, for step k of a chunk, which is step t: integrated(row), for what the LIF
// integrates; ahead(slot, t), to read what it will need, Back::kAhead steps before
// step(slot, t, h, gv), for the gradient. Without kLong the walk is of one chunk, and the registers
// that the way between chunks needs are free.
template <int kSteps, bool kLong, class T, class Back>
STMIXER_DEVICE void walk_back(const Walk<T>& walk, const LaneNeuron<State<T>>& neuron,
                              const void* v_init, const Span& span, Lanes<State<T>>& gv,
                              Back& back) {
  typedef State<T> R;
  constexpr int kAhead = Back::kAhead;
  const int64_t last = kLong ? (walk.steps - 1) / kSteps : 0;
  Row<T> rows[kSteps];
  Lanes<R> v = load_state<R>(v_init, span);
  for (int64_t chunk = 0; chunk < last; ++chunk) {
#pragma unroll
    for (int k = 0; k < kSteps; ++k) rows[k] = walk.first_read(chunk * kSteps + k, span);
#pragma unroll
    for (int k = 0; k < kSteps; ++k) neuron.charge(v, back.integrated(rows[k]));
    store_state(v, walk.membrane(chunk + 1), walk.membrane_span(span));
  }
  for (int64_t chunk = last; chunk >= 0; --chunk) {
    const int64_t begin = chunk * kSteps;
    const int count = static_cast<int>(walk.steps - begin < kSteps ? walk.steps - begin : kSteps);
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
      if (k < count)
        rows[k] =
            chunk == last ? walk.first_read(begin + k, span) : walk.read_again(begin + k, span);
#pragma unroll
    for (int k = kSteps - kAhead; k < kSteps; ++k)
      if (k < count) back.ahead(k % kAhead, begin + k);
    if (chunk < last)
      v = chunk ? load_state<R>(walk.membrane(chunk), walk.membrane_span(span))
                : load_state<R>(v_init, span);
    Lanes<R> h[kSteps];
#pragma unroll
    for (int k = 0; k < kSteps; ++k)
      if (k < count) h[k] = neuron.charge(v, back.integrated(rows[k]));
#pragma unroll
    for (int k = kSteps - 1; k >= 0; --k) {
      if (k < count) back.step(k % kAhead, begin + k, h[k], gv);
      const int next = k - kAhead;
      if (next >= 0 && next < count) back.ahead(k % kAhead, begin + next);
    }
  }
}

}  // namespace cuda
}  // namespace stmixer
