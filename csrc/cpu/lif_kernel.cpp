#include "cpu/blocks.h"
#include "cpu/rows.h"
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
                    R* history) {
  const bool stream = p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
  alignas(64) R v[kHistoryBlock], x_row[kHistoryBlock], slope[kHistoryBlock], gs_row[kHistoryBlock],
      gx_row[kHistoryBlock];
  const R* v_init = static_cast<const R*>(p.v_init);
  fill_row(v, v_init ? v_init + m : nullptr, n);
  for (int64_t t = 0; t < p.steps; ++t) {
    const In* x = static_cast<const In*>(p.x) + t * p.x_step + m;
    neuron.charge(v, read_row(x, x_row, n), history + t * kHistoryBlock, n);
  }
  R* gv = v;
  const R* gv_last = static_cast<const R*>(p.gv);
  fill_row(gv, gv_last ? gv_last + m : nullptr, n);
  if (!p.gs) fill_row<R>(gs_row, nullptr, n);
  for (int64_t t = p.steps - 1; t >= 0; --t) {
    const R* h = history + t * kHistoryBlock;
    const In* gs = p.gs ? static_cast<const In*>(p.gs) + t * p.neurons + m : nullptr;
    In* out = static_cast<In*>(p.gx) + t * p.neurons + m;
    R* gx = result_row(out, gx_row, stream);
    neuron.slope(h, slope, n);
    neuron.gradient(h, slope, gs ? read_row(gs, gs_row, n) : gs_row, gv, gx, n);
    finish_row(gx, out, n, stream);
  }
  if (p.gv_init) copy_row(gv, static_cast<R*>(p.gv_init) + m, n);
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
    end_streams();
  });
}

}  // namespace

extern const LifKernels STMIXER_JOIN(lif_kernels, STMIXER_ISA) = {forward, backward};

}  // namespace stmixer
