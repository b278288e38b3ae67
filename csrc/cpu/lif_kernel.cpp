#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/steps.h"
#include "cpu/tables.h"

namespace stmixer {
namespace {

template <class In, class R>
void forward_run(const LifForward& p, const RowNeuron<R>& neuron, int64_t m, int n, bool stream) {
  Window<R> buffer;
  const Part<In, R> part{m, n, in_place<In, R>(n) && !stream && p.s};
  fire_part<false>(p, neuron, part, {}, [&](int64_t t0, int64_t steps) {
    return part.read(p.x, p.x_step, t0, steps, buffer);
  });
}

// The whole pass back over a run, so that a block's membranes are in the nearest cache when they
// are needed again.
template <bool kHard, bool kDetach, class Slopes, class R>
__attribute__((flatten)) void back_steps(const RowNeuron<R>& neuron, int64_t steps, int n,
                                         StepRows<const R> x, const R* v_init,
                                         const GradientRows<R>& run, const Slopes& slopes) {
  for (int i = 0; i < n; i += kHistoryBlock) {
    const R* start = v_init ? v_init + i : nullptr;
    charge_steps<kHard, false, R>(neuron, steps, x.from(i), {}, start, run.history);
    slopes.prepare(run.history, steps);
    gradient_steps<kHard, kDetach, false, false>(neuron, steps, run.from(i), slopes);
  }
}

template <class In, class R>
void backward_run(const LifBackward& p, const RowNeuron<R>& neuron, int64_t m, int n, R* scratch) {
  const bool here = in_place<In, R>(n);
  const auto buffer = [&](int k) {
    return StepRows<R>{scratch + k * p.steps * kHistoryBlock, kHistoryBlock};
  };
  const auto read = [&](const void* tensor, int64_t pitch, int k) {
    return read_steps<In, R>(tensor, m, pitch, p.steps, n, buffer(k));
  };
  alignas(64) R start[kHistoryBlock], gv[kHistoryBlock], gv_init[kHistoryBlock];
  In* out = static_cast<In*>(p.gx) + m;
  R* kept = p.gv_init ? static_cast<R*>(p.gv_init) + m : nullptr;
  GradientRows<R> rows{};
  rows.history = buffer(0);
  rows.g = here ? StepRows<R>{reinterpret_cast<R*>(out), p.neurons} : buffer(3);
  rows.gs = p.gs ? read(p.gs, p.neurons, 3) : StepRows<const R>{kZeros<R>, 0};
  rows.gv = read_state(p.gv, m, n, gv);
  rows.gv_init = here ? kept : gv_init;
  const R* v_init = read_state(p.v_init, m, n, start);
  const StepRows<const R> x = read(p.x, p.x_step, 2);
  with_slopes(neuron, buffer(1), [&](const auto& slopes) {
    neuron.with_reset([&](auto hard, auto detach) {
      back_steps<hard, detach>(neuron, p.steps, here ? n : kHistoryBlock, x, v_init, rows, slopes);
    });
  });
  if (here) return;
  for (int64_t t = 0; t < p.steps; ++t) write_row(rows.g[t], out + t * p.neurons, n);
  if (kept) copy_row(gv_init, kept, n);
}

void forward(const LifForward& p, int64_t begin, int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using In = Pointee<decltype(in)>;
    using R = Pointee<decltype(state)>;
    const RowNeuron<R> neuron(p.neuron);
    const bool stream = p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
    const bool whole = std::is_same_v<In, R> && !stream && p.s;
    for_each_run(begin, end, p.neurons, whole,
                 [&](int64_t m, int n) { forward_run<In, R>(p, neuron, m, n, stream); });
    end_streams();
  });
}

void backward(const LifBackward& p, int64_t begin, int64_t end, void* scratch) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using In = Pointee<decltype(in)>;
    using R = Pointee<decltype(state)>;
    const RowNeuron<R> neuron(p.neuron);
    for_each_run(begin, end, p.neurons, std::is_same_v<In, R>, [&](int64_t m, int n) {
      backward_run<In, R>(p, neuron, m, n, static_cast<R*>(scratch));
    });
  });
}

}  // namespace

extern const LifKernels STMIXER_JOIN(lif_kernels, STMIXER_ISA) = {forward, backward};

}  // namespace stmixer
