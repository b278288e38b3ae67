#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/steps.h"
#include "cpu/tables.h"

namespace stmixer {
namespace {

// Steps of converted rows that the forward pass holds at a time.
constexpr int64_t kWindow = 8;

template <class In, class R>
void forward_block(const LifForward& p, const RowNeuron<R>& neuron, int64_t m, int n, bool stream) {
  alignas(64) R v[kHistoryBlock], x_rows[kWindow * kHistoryBlock], s_rows[kWindow * kHistoryBlock];
  const bool here = in_place<In, R>(n) && !stream;
  const int64_t window = here ? p.steps : kWindow;
  const R* v_init = read_state(p.v_init, m, n, v);
  for (int64_t t0 = 0; t0 < p.steps; t0 += window) {
    const int64_t steps = p.steps - t0 < window ? p.steps - t0 : window;
    const In* first = static_cast<const In*>(p.x) + t0 * p.x_step;
    In* out = static_cast<In*>(p.s) + t0 * p.neurons + m;
    const auto x = read_steps<In, R>(first, m, p.x_step, steps, n, {x_rows, kHistoryBlock});
    const auto s = here ? StepRows<R>{reinterpret_cast<R*>(out), p.neurons}
                        : StepRows<R>{s_rows, kHistoryBlock};
    neuron.with_reset([&](auto hard, auto) { fire_steps<hard>(neuron, steps, x, v_init, s, v); });
    v_init = v;
    for (int64_t t = 0; t < steps; ++t) {
      if (p.bits) pack_row(s[t], p.bits + ((t0 + t) * p.neurons + m) / 32, n);
      if (!here) finish_row(s[t], out + t * p.neurons, n, true);
    }
  }
  if (p.v_out) copy_row(v, static_cast<R*>(p.v_out) + m, n);
}

// One function for each kind of neuron and state: a block is so little work that calls would show.
template <bool kHard, bool kDetach, class Slopes, class R>
__attribute__((flatten)) void back_steps(const RowNeuron<R>& neuron, int64_t steps,
                                         StepRows<const R> x, const R* v_init,
                                         const GradientRows<R>& rows, const Slopes& slopes) {
  charge_steps<kHard, false, R>(neuron, steps, x, nullptr, nullptr, v_init, rows.history);
  slopes.prepare(rows.history, steps);
  gradient_steps<kHard, kDetach, false, false>(neuron, steps, rows, slopes);
}

template <class In, class R>
void backward_block(const LifBackward& p, const RowNeuron<R>& neuron, int64_t m, int n,
                    R* scratch) {
  const auto buffer = [&](int k) {
    return StepRows<R>{scratch + k * p.steps * kHistoryBlock, kHistoryBlock};
  };
  const auto read = [&](const void* tensor, int64_t pitch, int k) {
    return read_steps<In, R>(tensor, m, pitch, p.steps, n, buffer(k));
  };
  alignas(64) R start[kHistoryBlock], gv[kHistoryBlock], gv_init[kHistoryBlock];
  In* out = static_cast<In*>(p.gx) + m;
  GradientRows<R> rows{};
  rows.history = buffer(0);
  rows.g = in_place<In, R>(n) ? StepRows<R>{reinterpret_cast<R*>(out), p.neurons} : buffer(3);
  rows.gs = p.gs ? read(p.gs, p.neurons, 3) : StepRows<const R>{kZeros<R>, 0};
  rows.gv = read_state(p.gv, m, n, gv);
  rows.gv_init = p.gv_init ? gv_init : nullptr;
  const R* v_init = read_state(p.v_init, m, n, start);
  const StepRows<const R> x = read(p.x, p.x_step, 2);
  with_slopes(neuron, buffer(1), [&](const auto& slopes) {
    neuron.with_reset([&](auto hard, auto detach) {
      back_steps<hard, detach>(neuron, p.steps, x, v_init, rows, slopes);
    });
  });
  if (!in_place<In, R>(n))
    for (int64_t t = 0; t < p.steps; ++t) write_row(rows.g[t], out + t * p.neurons, n);
  if (p.gv_init) copy_row(gv_init, static_cast<R*>(p.gv_init) + m, n);
}

void forward(const LifForward& p, int64_t begin, int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using R = Pointee<decltype(state)>;
    const RowNeuron<R> neuron(p.neuron);
    using In = Pointee<decltype(in)>;
    const bool stream = p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
    for_each_block(begin, end, kHistoryBlock, p.neurons, [&](int64_t m, int n) {
      forward_block<In, R>(p, neuron, m, n, stream);
    });
    end_streams();
  });
}

void backward(const LifBackward& p, int64_t begin, int64_t end, void* scratch) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using R = Pointee<decltype(state)>;
    const RowNeuron<R> neuron(p.neuron);
    for_each_block(begin, end, kHistoryBlock, p.neurons, [&](int64_t m, int n) {
      backward_block<Pointee<decltype(in)>, R>(p, neuron, m, n, static_cast<R*>(scratch));
    });
  });
}

}  // namespace

extern const LifKernels STMIXER_JOIN(lif_kernels, STMIXER_ISA) = {forward, backward};

}  // namespace stmixer
