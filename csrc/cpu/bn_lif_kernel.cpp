#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/tables.h"

namespace stmixer {
namespace {

// f(i, length, channel) for each run of the block [m, m + n): with channels innermost a run is
// consecutive channels, else it is one channel's neighbours.
template <class F>
void for_each_run(const ChannelLayout& layout, int64_t m, int n, const F& f) {
  int64_t channel = m / layout.inner % layout.channels;
  int64_t room = layout.inner == 1 ? layout.channels - channel : layout.inner - m % layout.inner;
  for (int i = 0; i < n;) {
    const int length = static_cast<int>(room < n - i ? room : n - i);
    f(i, length, channel);
    i += length;
    channel = layout.inner == 1 || channel + 1 == layout.channels ? 0 : channel + 1;
    room = layout.inner == 1 ? layout.channels : layout.inner;
  }
}

template <class R>
void spread_row(const ChannelLayout& layout, int64_t m, int n, const void* channels, R* row) {
  const R* values = static_cast<const R*>(channels);
  for_each_run(layout, m, n, [&](int at, int length, int64_t channel) {
    if (layout.inner == 1) return copy_row(values + channel, row + at, length);
    const R value = values[channel];
    for (int i = 0; i < length; ++i) row[at + i] = value;
  });
}

// Sum of a row in eight interleaved parts, which vectorises and shortens the chain of additions.
template <class R>
double sum_row(const R* row, int n) {
  double parts[8] = {};
  int i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) parts[k] += row[i + k];
  for (int k = 0; i < n; ++i, ++k) parts[k] += row[i];
  return ((parts[0] + parts[1]) + (parts[2] + parts[3])) +
         ((parts[4] + parts[5]) + (parts[6] + parts[7]));
}

// Adds a row of per-neuron sums to per-channel sums.
template <class R>
void gather_sums(const ChannelLayout& layout, int64_t m, int n, const R* row, double* sums) {
  for_each_run(layout, m, n, [&](int at, int length, int64_t channel) {
    if (layout.inner == 1) {
      for (int i = 0; i < length; ++i) sums[channel + i] += row[at + i];
    } else {
      sums[channel] += sum_row(row + at, length);
    }
  });
}

// Per-channel rows of a block, laid out anew only where the block starts at another channel.
template <class R, int kCount, int kBlock>
class ChannelRows {
 public:
  ChannelRows(const ChannelLayout& layout, const void* const (&channels)[kCount])
      : layout_(layout), channels_(channels) {}

  void move_to(int64_t m, int n) {
    const int64_t start = layout_.inner == 1 ? m % layout_.channels : -1;
    if (start >= 0 && start == start_ && n <= filled_) return;
    for (int k = 0; k < kCount; ++k) spread_row<R>(layout_, m, n, channels_[k], rows_[k]);
    start_ = start;
    filled_ = n;
  }

  const R* operator[](int k) const { return rows_[k]; }

 private:
  ChannelLayout layout_;
  const void* const (&channels_)[kCount];
  int64_t start_ = -1;
  int filled_ = 0;
  alignas(64) R rows_[kCount][kBlock];
};

template <class R>
void affine_row(const R* __restrict x, const R* __restrict scale, const R* __restrict shift,
                R* __restrict out, int n) {
  for (int i = 0; i < n; ++i) out[i] = x[i] * scale[i] + shift[i];
}

template <class R>
void moments_row(const R* __restrict x, const R* __restrict pivot, R* __restrict first,
                 R* __restrict second, int n) {
  for (int i = 0; i < n; ++i) {
    const R centred = x[i] - pivot[i];
    first[i] += centred;
    second[i] += centred * centred;
  }
}

// Sums of g and of its product with the normalised x.
template <class R>
void project_row(const R* __restrict g, const R* __restrict x, const R* __restrict mean,
                 const R* __restrict invstd, R* __restrict first, R* __restrict second, int n) {
  for (int i = 0; i < n; ++i) {
    first[i] += g[i];
    second[i] += g[i] * ((x[i] - mean[i]) * invstd[i]);
  }
}

// g and gx may be the same row: each value is read before it is written.
template <class R>
void input_gradient_row(const R* g, const R* __restrict x, const R* __restrict scale,
                        const R* __restrict mean, const R* __restrict slope,
                        const R* __restrict offset, R* gx, int n) {
  for (int i = 0; i < n; ++i) gx[i] = scale[i] * g[i] - (x[i] - mean[i]) * slope[i] - offset[i];
}

template <class R>
void add_row(R* __restrict row, const R* __restrict other, int n) {
  for (int i = 0; i < n; ++i) row[i] += other[i];
}

template <class In, class R>
void statistics_blocks(const BnStatistics& p, int64_t begin, int64_t end, double* sums) {
  const void* const channels[] = {p.pivot};
  ChannelRows<R, 1, kForwardBlock> rows(p.layout, channels);
  alignas(64) R x_row[kForwardBlock], first[kForwardBlock], second[kForwardBlock];
  const int block = channel_block(kForwardBlock, p.layout.channels, p.layout.inner);
  for_each_block(begin, end, block, p.neurons, [&](int64_t m, int n) {
    rows.move_to(m, n);
    const R* pivot = rows[0];
    fill_row<R>(first, nullptr, n);
    fill_row<R>(second, nullptr, n);
    for (int64_t t = 0; t < p.steps; ++t) {
      const R* x = read_row(static_cast<const In*>(p.x) + t * p.x_step + m, x_row, n);
      moments_row(x, pivot, first, second, n);
    }
    gather_sums(p.layout, m, n, first, sums);
    gather_sums(p.layout, m, n, second, sums + p.layout.channels);
  });
}

template <class In, class R>
void forward_blocks(const BnLifForward& p, int64_t begin, int64_t end) {
  const bool stream = p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
  const RowNeuron<R> neuron(p.neuron);
  const void* const channels[] = {p.scale, p.shift};
  ChannelRows<R, 2, kForwardBlock> rows(p.layout, channels);
  alignas(64) R v[kForwardBlock], x_row[kForwardBlock], sum_row[kForwardBlock],
      s_row[kForwardBlock];
  const int block = channel_block(kForwardBlock, p.layout.channels, p.layout.inner);
  for_each_block(begin, end, block, p.neurons, [&](int64_t m, int n) {
    rows.move_to(m, n);
    const R* v_init = static_cast<const R*>(p.v_init);
    fill_row(v, v_init ? v_init + m : nullptr, n);
    for (int64_t t = 0; t < p.steps; ++t) {
      const int64_t at = t * p.neurons + m;
      const R* x = read_row(static_cast<const In*>(p.x) + t * p.x_step + m, x_row, n);
      In* kept = p.sum ? static_cast<In*>(p.sum) + at : nullptr;
      R* sum = kept ? result_row(kept, sum_row, false) : sum_row;
      affine_row(x, rows[0], rows[1], sum, n);
      if (p.residual)
        add_row(sum,
                read_row(static_cast<const In*>(p.residual) + t * p.residual_step + m, x_row, n),
                n);
      const R* integrated = sum;
      if (kept) {  // the LIF sees the sum as it is kept
        finish_row(sum, kept, n, false);
        integrated = read_row(kept, x_row, n);
      }
      In* out = static_cast<In*>(p.s) + at;
      R* s = result_row(out, s_row, stream);
      neuron.step(v, integrated, s, n);
      if (p.bits) pack_row(s, p.bits + at / 32, n);
      finish_row(s, out, n, stream);
    }
    if (p.v_out) copy_row(v, static_cast<R*>(p.v_out) + m, n);
  });
  end_streams();
}

template <class In, class R>
void backward_blocks(const BnLifBackward& p, int64_t begin, int64_t end, R* history, double* sums) {
  const RowNeuron<R> neuron(p.neuron);
  const void* const channels[] = {p.scale, p.shift, p.mean, p.invstd};
  ChannelRows<R, 4, kHistoryBlock> rows(p.layout, channels);
  alignas(64) R v[kHistoryBlock], x_row[kHistoryBlock], sum_row[kHistoryBlock],
      slope[kHistoryBlock], gs_row[kHistoryBlock], gsum_row[kHistoryBlock], g_row[kHistoryBlock],
      first[kHistoryBlock], second[kHistoryBlock];
  const int block = channel_block(kHistoryBlock, p.layout.channels, p.layout.inner);
  for_each_block(begin, end, block, p.neurons, [&](int64_t m, int n) {
    rows.move_to(m, n);
    const R* v_init = static_cast<const R*>(p.v_init);
    fill_row(v, v_init ? v_init + m : nullptr, n);
    for (int64_t t = 0; t < p.steps; ++t) {
      const R* integrated;
      if (p.sum) {
        integrated = read_row(static_cast<const In*>(p.sum) + t * p.neurons + m, sum_row, n);
      } else {
        const R* x = read_row(static_cast<const In*>(p.x) + t * p.x_step + m, x_row, n);
        affine_row(x, rows[0], rows[1], sum_row, n);
        integrated = sum_row;
      }
      neuron.charge(v, integrated, history + t * kHistoryBlock, n);
    }
    R* gv = v;
    const R* gv_last = static_cast<const R*>(p.gv);
    fill_row(gv, gv_last ? gv_last + m : nullptr, n);
    if (!p.gs) fill_row<R>(gs_row, nullptr, n);
    fill_row<R>(first, nullptr, n);
    fill_row<R>(second, nullptr, n);
    const R* mean = rows[2];
    const R* invstd = rows[3];
    for (int64_t t = p.steps - 1; t >= 0; --t) {
      const int64_t at = t * p.neurons + m;
      const R* h = history + t * kHistoryBlock;
      const In* gs = p.gs ? static_cast<const In*>(p.gs) + at : nullptr;
      In* out = static_cast<In*>(p.g) + at;
      R* g = g_row;
      neuron.slope(h, slope, n);
      neuron.gradient(h, slope, gs ? read_row(gs, gs_row, n) : gs_row, gv, g, n);
      if (p.gsum) add_row(g, read_row(static_cast<const In*>(p.gsum) + at, gsum_row, n), n);
      const R* x = read_row(static_cast<const In*>(p.x) + t * p.x_step + m, x_row, n);
      project_row(g, x, mean, invstd, first, second, n);
      write_row(g, out, n);
    }
    if (p.gv_init) copy_row(gv, static_cast<R*>(p.gv_init) + m, n);
    gather_sums(p.layout, m, n, first, sums);
    gather_sums(p.layout, m, n, second, sums + p.layout.channels);
  });
}

template <class In, class R>
void input_gradient_blocks(const BnInputGradient& p, int64_t begin, int64_t end) {
  // In place the lines are in the cache already.
  const bool stream =
      p.gx != p.g && p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
  const void* const channels[] = {p.scale, p.mean, p.slope, p.offset};
  ChannelRows<R, 4, kForwardBlock> rows(p.layout, channels);
  alignas(64) R x_row[kForwardBlock], g_row[kForwardBlock], gx_row[kForwardBlock];
  const int block = channel_block(kForwardBlock, p.layout.channels, p.layout.inner);
  for_each_block(begin, end, block, p.neurons, [&](int64_t m, int n) {
    rows.move_to(m, n);
    const R *scale = rows[0], *mean = rows[1], *slope = rows[2], *offset = rows[3];
    for (int64_t t = 0; t < p.steps; ++t) {
      const int64_t at = t * p.neurons + m;
      const R* x = read_row(static_cast<const In*>(p.x) + t * p.x_step + m, x_row, n);
      const R* g = read_row(static_cast<const In*>(p.g) + at, g_row, n);
      In* out = static_cast<In*>(p.gx) + at;
      R* gx = result_row(out, gx_row, stream);
      for (int i = 0; i < n; ++i) gx[i] = scale[i] * g[i] - (x[i] - mean[i]) * slope[i] - offset[i];
      finish_row(gx, out, n, stream);
    }
  });
  end_streams();
}

void statistics(const BnStatistics& p, int64_t begin, int64_t end, double* sums) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    statistics_blocks<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, begin, end, sums);
  });
}

void forward(const BnLifForward& p, int64_t begin, int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    forward_blocks<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, begin, end);
  });
}

void backward(const BnLifBackward& p, int64_t begin, int64_t end, void* scratch,
              double* sums) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using R = Pointee<decltype(state)>;
    backward_blocks<Pointee<decltype(in)>, R>(p, begin, end, static_cast<R*>(scratch), sums);
  });
}

void input_gradient(const BnInputGradient& p, int64_t begin, int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    input_gradient_blocks<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, begin, end);
  });
}

}  // namespace

extern const BnLifKernels STMIXER_JOIN(bn_lif_kernels, STMIXER_ISA) = {statistics, forward,
                                                                       backward, input_gradient};

}  // namespace stmixer
