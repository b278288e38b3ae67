#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/steps.h"
#include "cpu/tables.h"

namespace stmixer {
namespace {

template <class In, class R>
void forward_block(const LifForward& p, const RowNeuron<R>& neuron, int64_t m, int n) {
  const bool stream = p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
  alignas(64) R v[kForwardBlock], x_row[kForwardBlock], s_row[kForwardBlock];
  const R* v_init = static_cast<const R*>(p.v_init);
  fill_row(v, v_init ? v_init + m : nullptr, n);
  for (int64_t t = 0; t < p.steps; ++t) {
    const In* x = static_cast<const In*>(p.x) + t * p.x_step + m;
    In* out = static_cast<In*>(p.s) + t * p.neurons + m;
    R* s = result_row(out, s_row, stream);
    neuron.step(v, read_row(x, x_row, n), s, n);
    if (p.bits) pack_row(s, p.bits + (t * p.neurons + m) / 32, n);
    finish_row(s, out, n, stream);
  }
  if (p.v_out) copy_row(v, static_cast<R*>(p.v_out) + m, n);
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
  alignas(64) R v[kHistoryBlock];
  alignas(64) const R zeros[kHistoryBlock] = {};
  In* out = static_cast<In*>(p.gx) + m;
  GradientRows<R> back{};
  back.history = buffer(0);
  back.slopes = buffer(1);
  back.g = in_place<In, R>(n) ? StepRows<R>{reinterpret_cast<R*>(out), p.neurons} : buffer(2);
  back.gv = v;
  read_state(p.v_init, m, n, v);
  const StepRows<const R> x = read(p.x, p.x_step, 2);
  neuron.with_reset([&](auto hard, auto) {
    charge_steps<hard, false, R>(neuron, p.steps, x, nullptr, nullptr, v, back.history);
  });
  neuron.slope(back.history[0], back.slopes[0], static_cast<int>(p.steps) * kHistoryBlock);
  read_state(p.gv, m, n, v);
  back.gs = p.gs ? read(p.gs, p.neurons, 2) : StepRows<const R>{zeros, 0};
  neuron.with_reset([&](auto hard, auto detach) {
    gradient_steps<hard, detach, false, false>(neuron, p.steps, back);
  });
  if (!in_place<In, R>(n))
    for (int64_t t = 0; t < p.steps; ++t) write_row(back.g[t], out + t * p.neurons, n);
  if (p.gv_init) copy_row(v, static_cast<R*>(p.gv_init) + m, n);
}

void forward(const LifForward& p, int64_t begin, int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using R = Pointee<decltype(state)>;
    const RowNeuron<R> neuron(p.neuron);
    for_each_block(begin, end, kForwardBlock, p.neurons, [&](int64_t m, int n) {
      forward_block<Pointee<decltype(in)>, R>(p, neuron, m, n);
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
