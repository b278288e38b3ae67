#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/steps.h"
#include "cpu/tables.h"

namespace stmixer {
namespace {

// Steps of converted rows that the forward pass holds at a time.
constexpr int64_t kWindow = 8;

template <class In, class R>
void forward_run(const LifForward& p, const RowNeuron<R>& neuron, int64_t m, int n, bool stream) {
  alignas(64) R v[kHistoryBlock], x_rows[kWindow * kHistoryBlock], s_rows[kWindow * kHistoryBlock];
  const bool here = in_place<In, R>(n) && !stream && p.s;
  const int64_t window = here ? p.steps : kWindow;
  R* kept = p.v_out ? static_cast<R*>(p.v_out) + m : nullptr;
  R* v_out = here ? kept : v;
  const R* v_init = read_state(p.v_init, m, n, v);
  for (int64_t t0 = 0; t0 < p.steps; t0 += window) {
    const int64_t steps = p.steps - t0 < window ? p.steps - t0 : window;
    const In* first = static_cast<const In*>(p.x) + t0 * p.x_step;
    In* out = p.s ? static_cast<In*>(p.s) + t0 * p.neurons + m : nullptr;
    const auto x = read_steps<In, R>(first, m, p.x_step, steps, n, {x_rows, kHistoryBlock});
    const auto s = here ? StepRows<R>{reinterpret_cast<R*>(out), p.neurons}
                        : StepRows<R>{s_rows, kHistoryBlock};
    neuron.with_reset([&](auto hard, auto) {
      fire_steps<hard>(neuron, steps, here ? n : kHistoryBlock, x, v_init, s, v_out);
    });
    v_init = v_out;
    for (int64_t t = 0; t < steps; ++t) {
      if (p.bits) pack_row(s[t], p.bits + ((t0 + t) * p.neurons + m) / 32, n);
      if (!here && out) finish_row(s[t], out + t * p.neurons, n, true);
    }
  }
  if (kept && !here) copy_row(v, kept, n);
}

// The whole pass back over a run, so that a block's membranes are in the nearest cache when they
// are needed again.
template <bool kHard, bool kDetach, class Slopes, class R>
__attribute__((flatten)) void back_steps(const RowNeuron<R>& neuron, int64_t steps, int n,
                                         StepRows<const R> x, const R* v_init,
                                         const GradientRows<R>& run, const Slopes& slopes) {
  for (int i = 0; i < n; i += kHistoryBlock) {
    const R* start = v_init ? v_init + i : nullptr;
    charge_steps<kHard, false, R>(neuron, steps, x.from(i), nullptr, nullptr, start, run.history);
    slopes.prepare(run.history, steps);
    GradientRows<R> rows = run;
    if (run.gs.pitch) rows.gs = run.gs.from(i);
    rows.g = run.g.from(i);
    if (run.gv) rows.gv = run.gv + i;
    if (run.gv_init) rows.gv_init = run.gv_init + i;
    gradient_steps<kHard, kDetach, false, false>(neuron, steps, rows, slopes);
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
