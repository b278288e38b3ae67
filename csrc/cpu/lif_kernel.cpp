#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/steps.h"
#include "cpu/tables.h"

namespace stmixer {
namespace {

template <class In, class R>
void forward_part(const LifForward& p, const RowNeuron<R>& neuron, Part<In, R> part) {
  Window<R> buffer;
  fire_part<false>(p, neuron, part, {}, [&](int64_t t0, int64_t steps) {
    return part.read(p.x, p.x_step, t0, steps, buffer);
  });
}

// The whole pass back over a part, so that a block's membranes are in the nearest cache when they
// are needed again.
template <bool kHard, bool kDetach, class Slopes, class R>
__attribute__((flatten)) void back_steps(const RowNeuron<R>& neuron, int64_t steps, int n,
                                         StepRows<const R> x, const R* v_init,
                                         const GradientRows<R>& part, const Slopes& slopes) {
  for (int i = 0; i < n; i += kHistoryBlock) {
    const R* start = v_init ? v_init + i : nullptr;
    charge_steps<kHard, false, R>(neuron, steps, x.from(i), {}, start, part.history);
    slopes.prepare(part.history, steps);
    gradient_steps<kHard, kDetach, false, false>(neuron, steps, part.from(i), slopes);
  }
}

template <class In, class R>
void backward_part(const LifBackward& p, const RowNeuron<R>& neuron, Part<In, R> part, R* scratch) {
  const auto [m, n, in_place] = part;
  const auto buffer = [&](int k) {
    return StepRows<R>{scratch + k * p.steps * kHistoryBlock, kHistoryBlock};
  };
  const auto read = [&](const void* tensor, int64_t pitch, int k) {
    return part.read(tensor, pitch, 0, p.steps, buffer(k));
  };
  alignas(64) R start[kHistoryBlock], gv[kHistoryBlock], gv_init[kHistoryBlock];
  R* kept = p.gv_init ? static_cast<R*>(p.gv_init) + m : nullptr;
  GradientRows<R> rows{};
  rows.history = buffer(0);
  rows.g = part.results(p.gx, p.neurons, 0, buffer(3));
  rows.gs = p.gs ? read(p.gs, p.neurons, 3) : StepRows<const R>{kZeros<R>, 0};
  rows.gv = read_state(p.gv, m, n, gv);
  rows.gv_init = in_place ? kept : gv_init;
  const R* v_init = read_state(p.v_init, m, n, start);
  const StepRows<const R> x = read(p.x, p.x_step, 2);
  with_slopes(neuron, buffer(1), [&](const auto& slopes) {
    neuron.with_reset([&](auto hard, auto detach) {
      back_steps<hard, detach>(neuron, p.steps, part.values(), x, v_init, rows, slopes);
    });
  });
  if (in_place) return;
  In* out = static_cast<In*>(p.gx) + m;
  for (int64_t t = 0; t < p.steps; ++t) write_row(rows.g[t], out + t * p.neurons, n);
  if (kept) copy_row(gv_init, kept, n);
}

// f(part) for the parts of blocks [begin, end) of the neurons.
template <class In, class R, class F>
void for_each_part_of(int64_t begin, int64_t end, int64_t neurons, bool in_place, const F& f) {
  const int64_t m = begin * kHistoryBlock, last = end * kHistoryBlock;
  for_each_part<In, R>(m, (last < neurons ? last : neurons) - m, in_place,
                       [&](int64_t, Part<In, R> part) { f(part); });
}

void forward(const LifForward& p, int64_t begin, int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using In = Pointee<decltype(in)>;
    using R = Pointee<decltype(state)>;
    const RowNeuron<R> neuron(p.neuron);
    const bool stream = p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
    for_each_part_of<In, R>(begin, end, p.neurons, !stream && p.s,
                            [&](Part<In, R> part) { forward_part(p, neuron, part); });
    end_streams();
  });
}

void backward(const LifBackward& p, int64_t begin, int64_t end, void* scratch) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using In = Pointee<decltype(in)>;
    using R = Pointee<decltype(state)>;
    const RowNeuron<R> neuron(p.neuron);
    for_each_part_of<In, R>(begin, end, p.neurons, true, [&](Part<In, R> part) {
      backward_part(p, neuron, part, static_cast<R*>(scratch));
    });
  });
}

}  // namespace

STMIXER_DEFINE_TABLE(LifKernels, lif_kernels) = {forward, backward};

}  // namespace stmixer
