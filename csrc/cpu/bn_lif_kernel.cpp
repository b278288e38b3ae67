#include "cpu/block_rows.h"
#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/steps.h"
#include "cpu/tables.h"
#include "cpu/tiles.h"

namespace stmixer {
namespace {

// Sums of x - pivot and of its square over the steps.
template <class R>
void moment_steps(int64_t steps, int n, StepRows<const R> x, const R* pivots, R* first, R* second) {
  for (int i = 0; i < n; i += kTileSize<R>) {
    const auto pivot = Tile<R>::at(pivots + i);
    auto sum = Tile<R>::at(first + i), squares = Tile<R>::at(second + i);
    for (int64_t t = 0; t < steps; ++t) {
      const R* row = x[t] + i;
      for (int k = 0; k < kTile; ++k) {
        const Vec<R> centred = load(row + k * kLanes<R>) - pivot.lanes[k];
        sum.lanes[k] += centred;
        squares.lanes[k] += centred * centred;
      }
    }
    sum.store_at(first + i);
    squares.store_at(second + i);
  }
}

template <class In, class R>
void statistics_runs(const BnStatistics& p, const void* pivots, NeuronRuns runs, double* sums) {
  const void* const channels[] = {pivots};
  ChannelRows<R, 1> rows(p.layout, channels);
  BlockSums<R> block(p.layout, p.steps, runs.count, sums);
  Window<R> buffer;
  for_each_block(p.layout, runs, [&](int64_t m, int n, int64_t run) {
    rows.move_to(m, n);
    block.start(run);
    for_each_part<In, R>(m, n, true, [&](int64_t i, Part<In, R> part) {
      for_each_window(p.steps, part.in_place, [&](int64_t t0, int64_t steps) {
        moment_steps<R>(steps, part.values(), part.read(p.x, p.x_step, t0, steps, buffer),
                        rows[0] + i, block.first + i, block.second + i);
      });
    });
    block.finish(m, n, run);
  });
}

// The sum that the LIF integrates: x normalised, plus the residual if there is one.
template <bool kResidual, class R>
void sum_steps(int64_t steps, int n, StepRows<const R> x, AffineRows<R> affine,
               StepRows<const R> residual, StepRows<R> sum) {
  for (int i = 0; i < n; i += kTileSize<R>) {
    const auto a = Tile<R>::at(affine.scale + i), b = Tile<R>::at(affine.shift + i);
    for (int64_t t = 0; t < steps; ++t) {
      auto y = Tile<R>::at(x[t] + i);
      for (int k = 0; k < kTile; ++k) {
        y.lanes[k] = y.lanes[k] * a.lanes[k] + b.lanes[k];
        if (kResidual) y.lanes[k] += load(residual[t] + i + k * kLanes<R>);
      }
      y.store_at(sum[t] + i);
    }
  }
}

template <class In, class R>
void forward_part(const BnLifForward& p, const RowNeuron<R>& neuron, AffineRows<R> affine,
                  Part<In, R> part) {
  Window<R> x_rows, other_rows;
  if (!p.sum)
    return fire_part<true>(p, neuron, part, affine, [&](int64_t t0, int64_t steps) {
      return part.read(p.x, p.x_step, t0, steps, x_rows);
    });
  fire_part<false>(p, neuron, part, {}, [&](int64_t t0, int64_t steps) {
    const auto x = part.read(p.x, p.x_step, t0, steps, x_rows);
    const StepRows<R> sum = part.results(p.sum, p.neurons, t0, x_rows);
    if (p.residual)
      sum_steps<true>(steps, part.values(), x, affine,
                      part.read(p.residual, p.residual_step, t0, steps, other_rows), sum);
    else
      sum_steps<false>(steps, part.values(), x, affine, {}, sum);
    if (!part.in_place)  // the LIF sees the sum as it is kept
      for (int64_t t = 0; t < steps; ++t) {
        In* row = static_cast<In*>(p.sum) + (t0 + t) * p.neurons + part.m;
        write_row(sum[t], row, part.n);
        for (int i = 0; i < part.n; ++i) sum[t][i] = widen(row[i]);
      }
    return StepRows<const R>{sum.first, sum.pitch};
  });
}

template <class In, class R>
void forward_runs(const BnLifForward& p, const BnChannels& c, NeuronRuns runs) {
  const bool stream = p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
  const RowNeuron<R> neuron(p.neuron);
  const void* const channels[] = {c.scale, c.shift};
  ChannelRows<R, 2> rows(p.layout, channels);
  for_each_block(p.layout, runs, [&](int64_t m, int n, int64_t) {
    rows.move_to(m, n);
    for_each_part<In, R>(m, n, !stream, [&](int64_t i, Part<In, R> part) {
      forward_part<In, R>(p, neuron, {rows[0] + i, rows[1] + i}, part);
    });
  });
  end_streams();
}

// The pass back over a part as far as the gradient of the sum and its sums per neuron.
template <class In, class R>
void backward_part(const BnLifBackward& p, const RowNeuron<R>& neuron, AffineRows<R> affine,
                   const R* mean, Part<In, R> part, R* scratch, R* first, R* second) {
  const auto [m, n, in_place] = part;
  alignas(64) R start[kHistoryBlock], gv[kHistoryBlock], gv_init[kHistoryBlock];
  const auto buffer = [&](int k) {
    return StepRows<R>{scratch + k * p.steps * kHistoryBlock, kHistoryBlock};
  };
  const auto read = [&](const void* tensor, int64_t pitch, int k) {
    return part.read(tensor, pitch, 0, p.steps, buffer(k));
  };
  const auto read_or = [&](const void* tensor, int k, StepRows<const R> other) {
    return tensor ? read(tensor, p.neurons, k) : other;
  };
  R* kept = p.gv_init ? static_cast<R*>(p.gv_init) + m : nullptr;
  GradientRows<R> rows{};
  rows.x = read(p.x, p.x_step, 3);
  rows.gs = read_or(p.gs, 4, {kZeros<R>, 0});
  rows.gsum = read_or(p.gsum, 5, {});
  rows.history = buffer(0);
  rows.g = part.results(p.g, p.neurons, 0, buffer(2));
  rows.mean = mean;
  rows.gv = read_state(p.gv, m, n, gv);
  rows.gv_init = kept && !in_place ? gv_init : kept;
  rows.first = first;
  rows.second = second;
  // What the membranes are computed from: the buffer of the result is free until then.
  const StepRows<const R> currents = read_or(p.sum, 2, rows.x);
  const R* v_init = read_state(p.v_init, m, n, start);
  with_slopes(neuron, buffer(1), [&](const auto& slopes) {
    neuron.with_reset([&](auto hard, auto detach) {
      for (int i = 0; i < part.n; i += kHistoryBlock) {
        const R* v = v_init ? v_init + i : nullptr;
        if (p.sum)
          charge_steps<hard, false, R>(neuron, p.steps, currents.from(i), {}, v, rows.history);
        else
          charge_steps<hard, true>(neuron, p.steps, currents.from(i), affine.from(i), v,
                                   rows.history);
        slopes.prepare(rows.history, p.steps);
        if (p.gsum)
          gradient_steps<hard, detach, true, true>(neuron, p.steps, rows.from(i), slopes);
        else
          gradient_steps<hard, detach, false, true>(neuron, p.steps, rows.from(i), slopes);
      }
    });
  });
  if (in_place) return;
  In* out = static_cast<In*>(p.g) + m;
  for (int64_t t = 0; t < p.steps; ++t) write_row(rows.g[t], out + t * p.neurons, n);
  if (kept) copy_row(gv_init, kept, n);
}

template <class In, class R>
void backward_runs(const BnLifBackward& p, const BnChannels& c, NeuronRuns runs, void* scratch,
                   double* sums) {
  const RowNeuron<R> neuron(p.neuron);
  const void* const channels[] = {c.scale, c.shift, p.bn.mean};
  ChannelRows<R, 3> rows(p.layout, channels);
  BlockSums<R> block(p.layout, p.steps, runs.count, sums);
  for_each_block(p.layout, runs, [&](int64_t m, int n, int64_t run) {
    rows.move_to(m, n);
    block.start(run);
    for_each_part<In, R>(m, n, true, [&](int64_t i, Part<In, R> part) {
      backward_part<In, R>(p, neuron, {rows[0] + i, rows[1] + i}, rows[2] + i, part,
                           static_cast<R*>(scratch), block.first + i, block.second + i);
    });
    block.finish(m, n, run);
  });
}

// scale * g - (x - mean) * slope - offset.
template <class R>
struct GradientChannels {
  const R *scale, *mean, *slope, *offset;
};

template <class R>
void input_gradient_steps(int64_t steps, int n, StepRows<const R> x, StepRows<const R> g,
                          GradientChannels<R> c, StepRows<R> gx) {
  for (int i = 0; i < n; i += kTileSize<R>) {
    const auto scale = Tile<R>::at(c.scale + i), mean = Tile<R>::at(c.mean + i),
               slope = Tile<R>::at(c.slope + i), offset = Tile<R>::at(c.offset + i);
    for (int64_t t = 0; t < steps; ++t) {
      auto y = Tile<R>::at(g[t] + i);
      const auto at = Tile<R>::at(x[t] + i);
      for (int k = 0; k < kTile; ++k)
        y.lanes[k] = scale.lanes[k] * y.lanes[k] - (at.lanes[k] - mean.lanes[k]) * slope.lanes[k] -
                     offset.lanes[k];
      y.store_at(gx[t] + i);
    }
  }
}

template <class In, class R>
void input_gradient_runs(const BnLifBackward& p, const BnChannels& c, NeuronRuns runs) {
  // In place the lines are in the cache already.
  const bool stream =
      p.gx != p.g && p.steps * p.neurons * static_cast<int64_t>(sizeof(In)) >= kStreamBytes;
  const void* const channels[] = {c.scale, p.bn.mean, c.slope, c.offset};
  ChannelRows<R, 4> rows(p.layout, channels);
  Window<R> x_rows, g_rows;
  for_each_block(p.layout, runs, [&](int64_t m, int n, int64_t) {
    rows.move_to(m, n);
    for_each_part<In, R>(m, n, !stream, [&](int64_t i, Part<In, R> part) {
      for_each_window(p.steps, part.in_place, [&](int64_t t0, int64_t steps) {
        const StepRows<R> gx = part.results(p.gx, p.neurons, t0, g_rows);
        input_gradient_steps<R>(steps, part.values(), part.read(p.x, p.x_step, t0, steps, x_rows),
                                part.read(p.g, p.neurons, t0, steps, g_rows),
                                {rows[0] + i, rows[1] + i, rows[2] + i, rows[3] + i}, gx);
        if (part.in_place) return;
        In* out = static_cast<In*>(p.gx) + t0 * p.neurons + part.m;
        for (int64_t t = 0; t < steps; ++t) finish_row(gx[t], out + t * p.neurons, part.n);
      });
    });
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

void statistics(const BnStatistics& p, const void* pivots, NeuronRuns runs, double* sums) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    statistics_runs<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, pivots, runs, sums);
  });
}

void forward(const BnLifForward& p, const BnChannels& channels, NeuronRuns runs) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    forward_runs<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, channels, runs);
  });
}

void backward(const BnLifBackward& p, const BnChannels& channels, NeuronRuns runs, void* scratch,
              double* sums) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    backward_runs<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, channels, runs, scratch,
                                                                   sums);
  });
}

void input_gradient(const BnLifBackward& p, const BnChannels& channels, NeuronRuns runs) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    input_gradient_runs<Pointee<decltype(in)>, Pointee<decltype(state)>>(p, channels, runs);
  });
}

}  // namespace

STMIXER_DEFINE_TABLE(BnLifKernels, bn_lif_kernels) = {pivots, statistics, forward, backward,
                                                      input_gradient};

}  // namespace stmixer
