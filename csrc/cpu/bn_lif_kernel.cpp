#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/steps.h"
#include "cpu/tables.h"
#include "cpu/tiles.h"

namespace stmixer {
namespace {

// f(i, length, channel) for each run of the block [m, m + n): with channels innermost a run is
// consecutive channels, else it is one channel's neighbours.
template <class F>
void for_each_stretch(const ChannelLayout& layout, int64_t m, int n, const F& f) {
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

// Sum of a row in 16 interleaved parts of its own type, then of those in double.
template <class R>
double sum_row(const R* row, int n) {
  R parts[16] = {};
  int i = 0;
  for (; i + 16 <= n; i += 16)
    for (int k = 0; k < 16; ++k) parts[k] += row[i + k];
  for (int k = 0; i < n; ++i, ++k) parts[k] += row[i];
  double sums[8];
  for (int k = 0; k < 8; ++k) sums[k] = static_cast<double>(parts[k]) + parts[k + 8];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// Adds two rows of per-neuron sums to the per-channel sums [2, channels].
template <class R>
void gather_sums(const ChannelLayout& layout, int64_t m, int n, const R* first, const R* second,
                 double* sums) {
  double* second_sums = sums + layout.channels;
  for_each_stretch(layout, m, n, [&](int at, int length, int64_t channel) {
    if (layout.inner == 1) {
      for (int i = 0; i < length; ++i) sums[channel + i] += first[at + i];
      for (int i = 0; i < length; ++i) second_sums[channel + i] += second[at + i];
    } else {
      sums[channel] += sum_row(first + at, length);
      second_sums[channel] += sum_row(second + at, length);
    }
  });
}

// Per-channel rows of a block, laid out anew only where the block starts at another channel.
template <class R, int kCount, int kBlock>
class ChannelRows {
 public:
  ChannelRows(const ChannelLayout& layout, const void* const (&channels)[kCount])
      : layout_(layout) {
    for (int k = 0; k < kCount; ++k) channels_[k] = static_cast<const R*>(channels[k]);
  }

  void move_to(int64_t m, int n) {
    const int64_t start = layout_.inner == 1 ? m % layout_.channels : -1;
    if (start >= 0 && start == start_ && n <= filled_) return;
    for_each_stretch(layout_, m, n, [&](int at, int length, int64_t channel) {
      for (int k = 0; k < kCount; ++k) {
        const R* values = channels_[k] + channel;
        if (layout_.inner == 1)
          copy_row(values, rows_[k] + at, length);
        else
          for (int i = 0; i < length; ++i) rows_[k][at + i] = *values;
      }
    });
    start_ = start;
    filled_ = n;
  }

  const R* operator[](int k) const { return rows_[k]; }

 private:
  ChannelLayout layout_;
  const R* channels_[kCount];
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
void add_row(R* __restrict row, const R* __restrict other, int n) {
  for (int i = 0; i < n; ++i) row[i] += other[i];
}

template <class In, class R>
void statistics_blocks(const BnStatistics& p, const void* pivots, int64_t begin, int64_t end,
                       double* sums) {
  const void* const channels[] = {pivots};
  ChannelRows<R, 1, kForwardBlock> rows(p.layout, channels);
  alignas(64) R first_row[kForwardBlock], second_row[kForwardBlock];
  const int block = channel_block(kForwardBlock, p.layout.channels, p.layout.inner);
  for_each_block(begin, end, block, p.neurons, [&](int64_t m, int n) {
    rows.move_to(m, n);
    for (int i = 0; i < n; i += kTileSize<R>) {
      const auto pivot = Tile<R>::at(rows[0] + i);
      Tile<R> first{}, second{};
      for (int64_t t = 0; t < p.steps; ++t) {
        const In* row = static_cast<const In*>(p.x) + t * p.x_step + m + i;
        const auto x = read_tile<R>(row, n - i);
        for (int k = 0; k < kTile; ++k) {
          const Vec<R> centred = x.lanes[k] - pivot.lanes[k];
          first.lanes[k] += centred;
          second.lanes[k] += centred * centred;
        }
      }
      first.store_at(first_row + i);
      second.store_at(second_row + i);
    }
    gather_sums(p.layout, m, n, first_row, second_row, sums);
  });
}

template <class In, class R>
void forward_blocks(const BnLifForward& p, const BnChannels& c, int64_t begin, int64_t end) {
  const bool stream = p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
  const RowNeuron<R> neuron(p.neuron);
  const void* const channels[] = {c.scale, c.shift};
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
void backward_blocks(const BnLifBackward& p, const BnChannels& c, int64_t begin, int64_t end,
                     void* scratch, double* sums) {
  const RowNeuron<R> neuron(p.neuron);
  const void* const channels[] = {c.scale, c.shift, p.bn.mean};
  ChannelRows<R, 3, kHistoryBlock> rows(p.layout, channels);
  const auto buffer = [&](int k) {
    return StepRows<R>{static_cast<R*>(scratch) + k * p.steps * kHistoryBlock, kHistoryBlock};
  };
  const StepRows<R> history = buffer(0), g = buffer(2);
  alignas(64) R start[kHistoryBlock], gv[kHistoryBlock], gv_init[kHistoryBlock],
      first[kHistoryBlock], second[kHistoryBlock];
  for_each_block(begin, end, kHistoryBlock, p.neurons, [&](int64_t m, int n) {
    const auto read = [&](const void* tensor, int64_t pitch, int k) {
      return read_steps<In, R>(tensor, m, pitch, p.steps, n, buffer(k));
    };
    rows.move_to(m, n);
    const R* v_init = read_state(p.v_init, m, n, start);
    const StepRows<const R> x = read(p.x, p.x_step, 3);
    neuron.with_reset([&](auto hard, auto) {
      if (p.sum)
        charge_steps<hard, false>(neuron, p.steps, read(p.sum, p.neurons, 4), rows[0], rows[1],
                                  v_init, history);
      else
        charge_steps<hard, true>(neuron, p.steps, x, rows[0], rows[1], v_init, history);
    });
    In* out = static_cast<In*>(p.g) + m;
    GradientRows<R> back{};
    back.x = x;
    back.gs = p.gs ? read(p.gs, p.neurons, 4) : StepRows<const R>{kZeros<R>, 0};
    if (p.gsum) back.gsum = read(p.gsum, p.neurons, 5);
    back.history = history;
    back.g = in_place<In, R>(n) ? StepRows<R>{reinterpret_cast<R*>(out), p.neurons} : g;
    back.mean = rows[2];
    back.gv = read_state(p.gv, m, n, gv);
    back.gv_init = p.gv_init ? gv_init : nullptr;
    back.first = first;
    back.second = second;
    with_slopes(neuron, buffer(1), [&](const auto& slopes) {
      slopes.prepare(history, p.steps);
      neuron.with_reset([&](auto hard, auto detach) {
        if (p.gsum)
          gradient_steps<hard, detach, true, true>(neuron, p.steps, back, slopes);
        else
          gradient_steps<hard, detach, false, true>(neuron, p.steps, back, slopes);
      });
    });
    if (!in_place<In, R>(n))
      for (int64_t t = 0; t < p.steps; ++t) write_row(g[t], out + t * p.neurons, n);
    if (p.gv_init) copy_row(gv_init, static_cast<R*>(p.gv_init) + m, n);
    gather_sums(p.layout, m, n, first, second, sums);
  });
}

template <class In, class R>
void input_gradient_blocks(const BnLifBackward& p, const BnChannels& c, int64_t begin,
                           int64_t end) {
  // In place the lines are in the cache already.
  const bool stream =
      p.gx != p.g && p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
  const void* const channels[] = {c.scale, p.bn.mean, c.slope, c.offset};
  ChannelRows<R, 4, kForwardBlock> rows(p.layout, channels);
  const int block = channel_block(kForwardBlock, p.layout.channels, p.layout.inner);
  for_each_block(begin, end, block, p.neurons, [&](int64_t m, int n) {
    rows.move_to(m, n);
    for (int i = 0; i < n; i += kTileSize<R>) {
      const auto scale = Tile<R>::at(rows[0] + i), mean = Tile<R>::at(rows[1] + i),
                 slope = Tile<R>::at(rows[2] + i), offset = Tile<R>::at(rows[3] + i);
      for (int64_t t = 0; t < p.steps; ++t) {
        const int64_t at = t * p.neurons + m + i;
        const In* row = static_cast<const In*>(p.x) + t * p.x_step + m + i;
        const auto x = read_tile<R>(row, n - i);
        auto g = read_tile<R>(static_cast<const In*>(p.g) + at, n - i);
        for (int k = 0; k < kTile; ++k)
          g.lanes[k] = scale.lanes[k] * g.lanes[k] - (x.lanes[k] - mean.lanes[k]) * slope.lanes[k] -
                       offset.lanes[k];
        write_tile(g, static_cast<In*>(p.gx) + at, n - i, stream);
      }
    }
  });
  end_streams();
}

// Any value near a channel's mean: its first.
void pivots(const BnStatistics& p, void* pivots) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    const auto* x = static_cast<const Pointee<decltype(in)>*>(p.x);
    for (int64_t c = 0; c < p.layout.channels; ++c)
      static_cast<decltype(state)>(pivots)[c] = widen(x[c * p.layout.inner]);
  });
}

void statistics(const BnStatistics& p, const void* pivots, int64_t begin, int64_t end,
                double* sums) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    statistics_blocks<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, pivots, begin, end, sums);
  });
}

void forward(const BnLifForward& p, const BnChannels& channels, int64_t begin,
             int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    forward_blocks<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, channels, begin, end);
  });
}

void backward(const BnLifBackward& p, const BnChannels& channels, int64_t begin, int64_t end,
              void* scratch, double* sums) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    backward_blocks<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, channels, begin, end,
                                                                     scratch, sums);
  });
}

void input_gradient(const BnLifBackward& p, const BnChannels& channels, int64_t begin,
                    int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    input_gradient_blocks<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, channels, begin, end);
  });
}

}  // namespace

extern const BnLifKernels STMIXER_JOIN(bn_lif_kernels, STMIXER_ISA) = {pivots, statistics, forward,
                                                                       backward, input_gradient};

}  // namespace stmixer
