#pragma once
// The steps of a pass over blocks of kHistoryBlock neurons, with what goes from step to step in
// registers. Whole blocks only: a short last one, like one of narrow values, is copied to rows of
// kHistoryBlock values; what is computed beyond its end is dropped.
#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/tiles.h"

namespace stmixer {
namespace {

// The rows of a block, one a step; those that are not there begin at null.
template <class R>
struct StepRows {
  R* first;
  int64_t pitch;
  R* operator[](int64_t t) const { return first + t * pitch; }
  StepRows from(int i) const { return {first ? first + i : first, pitch}; }
};

// The neurons [m, m + n) that a kernel takes at a time: whole blocks whose results are written
// where they belong, `in_place`, or at most one block that is written through buffers. Whole blocks
// of the state type are read in place either way.
template <class In, class R>
struct Part {
  int64_t m;
  int n;
  bool in_place;

  int values() const { return in_place ? n : kHistoryBlock; }
  StepRows<const R> read(const void* tensor, int64_t pitch, int64_t t0, int64_t steps,
                         StepRows<R> buffer) const {
    const In* rows = static_cast<const In*>(tensor) + t0 * pitch + m;
    if (std::is_same_v<In, R> && n % kHistoryBlock == 0)
      return {reinterpret_cast<const R*>(rows), pitch};
    for (int64_t t = 0; t < steps; ++t)
      for (int i = 0; i < n; ++i) buffer[t][i] = widen(rows[t * pitch + i]);
    return {buffer.first, buffer.pitch};
  }
  // Where to write rows of a tensor from step t0 on.
  StepRows<R> results(void* tensor, int64_t pitch, int64_t t0, StepRows<R> buffer) const {
    if (!in_place) return buffer;
    return {reinterpret_cast<R*>(static_cast<In*>(tensor) + t0 * pitch + m), pitch};
  }
};

// Neurons of a part at most: a single block is so little work that calls show.
constexpr int64_t kPart = 16 * kHistoryBlock;

// f(i, part) for the parts of [m, m + n), which begin at i: in place, many blocks at a time, if
// that is allowed and the types agree, then what is left block by block.
template <class In, class R, class F>
void for_each_part(int64_t m, int64_t n, bool in_place, const F& f) {
  const int64_t whole = in_place && std::is_same_v<In, R> ? n / kHistoryBlock * kHistoryBlock : 0;
  int64_t i = 0;
  while (i < whole) {
    const int length = static_cast<int>(whole - i < kPart ? whole - i : kPart);
    f(i, Part<In, R>{m + i, length, true});
    i += length;
  }
  for (; i < n; i += kHistoryBlock) {
    const int length = static_cast<int>(n - i < kHistoryBlock ? n - i : kHistoryBlock);
    f(i, Part<In, R>{m + i, length, false});
  }
}

template <class R>
alignas(64) constexpr R kZeros[kHistoryBlock] = {};

// A membrane or its gradient of a part where it lies, or copied if it is a short block; null if
// there is none.
template <class R>
const R* read_state(const void* tensor, int64_t m, int n, R* buffer) {
  if (!tensor) return nullptr;
  const R* row = static_cast<const R*>(tensor) + m;
  if (n % kHistoryBlock == 0) return row;
  copy_row(kZeros<R>, buffer, kHistoryBlock);
  copy_row(row, buffer, n);
  return buffer;
}

// Zeros where there is no row.
template <class R>
Tile<R> tile_or_zero(const R* row, int i) {
  return row ? Tile<R>::at(row + i) : Tile<R>{};
}

// What a part is normalised with: x * scale + shift.
template <class R>
struct AffineRows {
  const R *scale, *shift;
  AffineRows from(int i) const { return {scale + i, shift + i}; }
};

// Spikes of a part and the membranes they leave behind, from those before the first step. kAffine:
// what the LIF integrates is x normalised.
template <bool kHard, bool kAffine, class R>
void fire_steps(const RowNeuron<R>& neuron, int64_t steps, int n, StepRows<const R> x,
                AffineRows<R> affine, const R* v_init, StepRows<R> s, R* v_out) {
  const Vec<R> threshold = neuron.threshold + Vec<R>{}, decay = neuron.decay + Vec<R>{};
  const Vec<R> one = R(1) + Vec<R>{};
  for (int i = 0; i < n; i += kTileSize<R>) {
    Tile<R> a{}, b{};
    if (kAffine) {
      a = Tile<R>::at(affine.scale + i);
      b = Tile<R>::at(affine.shift + i);
    }
    auto v = tile_or_zero(v_init, i);
    for (int64_t t = 0; t < steps; ++t) {
      const R* from = x[t] + i;
      R* to = s[t] + i;
      for (int k = 0; k < kTile; ++k) {
        Vec<R> current = load(from + k * kLanes<R>);
        if (kAffine) current = current * a.lanes[k] + b.lanes[k];
        const Vec<R> h = lif_charge(v.lanes[k], current, decay);
        const auto fired = lif_fires(h, threshold);
        store(to + k * kLanes<R>, fired ? one : Vec<R>{});
        v.lanes[k] = lif_reset<kHard>(h, fired, threshold);
      }
    }
    if (v_out) v.store_at(v_out + i);
  }
}

// Steps that buffers hold at a time where no pass back needs them all.
constexpr int64_t kWindow = 8;

template <class R>
struct Window {
  alignas(64) R rows[kWindow * kHistoryBlock];
  operator StepRows<R>() { return {rows, kHistoryBlock}; }
};

// f(t0, steps): all steps at once in place, else by windows.
template <class F>
void for_each_window(int64_t steps, bool in_place, const F& f) {
  const int64_t window = in_place ? steps : kWindow;
  for (int64_t t = 0; t < steps; t += window) f(t, steps - t < window ? steps - t : window);
}

// The forward pass over a part. p: a LifForward or what has the same results; currents(t0, steps):
// the rows that the LIF integrates, or normalises first.
template <bool kAffine, class In, class R, class P, class Currents>
void fire_part(const P& p, const RowNeuron<R>& neuron, Part<In, R> part, AffineRows<R> affine,
               const Currents& currents) {
  const auto [m, n, in_place] = part;
  Window<R> buffer;
  alignas(64) R v[kHistoryBlock];
  R* kept = p.v_out ? static_cast<R*>(p.v_out) + m : nullptr;
  R* v_out = in_place ? kept : v;
  const R* v_init = read_state(p.v_init, m, n, v);
  for_each_window(p.steps, part.in_place, [&](int64_t t0, int64_t steps) {
    const StepRows<const R> x = currents(t0, steps);
    const StepRows<R> s = part.results(p.s, p.neurons, t0, buffer);
    neuron.with_reset([&](auto hard, auto) {
      fire_steps<hard, kAffine>(neuron, steps, part.values(), x, affine, v_init, s, v_out);
    });
    v_init = v_out;
    for (int64_t t = 0; t < steps; ++t) {
      const int64_t at = (t0 + t) * p.neurons + part.m;
      if (p.bits) pack_row(s[t], p.bits + at / 32, part.n);
      if (!part.in_place && p.s) finish_row(s[t], static_cast<In*>(p.s) + at, part.n);
    }
  });
  if (kept && !in_place) copy_row(v, kept, n);
}

// Membranes before reset of a block; kAffine as in fire_steps.
template <bool kHard, bool kAffine, class R>
void charge_steps(const RowNeuron<R>& neuron, int64_t steps, StepRows<const R> x,
                  AffineRows<R> affine, const R* v_init, StepRows<R> history) {
  const Vec<R> threshold = neuron.threshold + Vec<R>{}, decay = neuron.decay + Vec<R>{};
  for (int i = 0; i < kHistoryBlock; i += kTileSize<R>) {
    Tile<R> a{}, b{};
    if (kAffine) {
      a = Tile<R>::at(affine.scale + i);
      b = Tile<R>::at(affine.shift + i);
    }
    auto v = tile_or_zero(v_init, i);
    for (int64_t t = 0; t < steps; ++t) {
      auto h = Tile<R>::at(x[t] + i);
      for (int k = 0; k < kTile; ++k) {
        if (kAffine) h.lanes[k] = h.lanes[k] * a.lanes[k] + b.lanes[k];
        h.lanes[k] = lif_charge(v.lanes[k], h.lanes[k], decay);
        v.lanes[k] = lif_reset<kHard>(h.lanes[k], lif_fires(h.lanes[k], threshold), threshold);
      }
      h.store_at(history[t] + i);
    }
  }
}

// Surrogate slopes of a block, computed where they are needed or kept in rows.
template <SurrogateKind kKind, class R>
struct ComputedSlopes {
  R threshold, a, b;
  void prepare(StepRows<R>, int64_t) const {}
  Vec<R> operator()(int64_t, int, Vec<R> h) const {
    return surrogate_slope<kKind>(h - (threshold + Vec<R>{}), a + Vec<R>{}, b + Vec<R>{});
  }
};
template <class R>
struct StoredSlopes {
  const RowNeuron<R>& neuron;
  StepRows<R> rows;
  void prepare(StepRows<R> history, int64_t steps) const {
    neuron.slope(history[0], rows[0], static_cast<int>(steps) * kHistoryBlock);
  }
  Vec<R> operator()(int64_t t, int at, Vec<R>) const { return load(rows[t] + at); }
};

// f(slopes); `buffer` is for those that are kept.
template <class R, class F>
void with_slopes(const RowNeuron<R>& neuron, StepRows<R> buffer, const F& f) {
  const R threshold = neuron.threshold, a = neuron.a, b = neuron.b;
  if (neuron.surrogate == SurrogateKind::piecewise_quadratic)
    return f(ComputedSlopes<SurrogateKind::piecewise_quadratic, R>{threshold, a, b});
  if (neuron.surrogate == SurrogateKind::rect)
    return f(ComputedSlopes<SurrogateKind::rect, R>{threshold, a, b});
  f(StoredSlopes<R>{neuron, buffer});
}

// What the steps back read and write. gv is the gradient of the last membrane, gv_init that of the
// first; without a gradient of the sum gsum is null, without sums x, mean, first and second are.
template <class R>
struct GradientRows {
  StepRows<const R> x, gs, gsum;
  StepRows<R> history, g;
  const R *mean, *gv;
  R *gv_init, *first, *second;

  // Those of a block of a part; the membranes are one block's anyway.
  GradientRows from(int i) const {
    const auto at = [i](auto* row) { return row ? row + i : row; };
    const StepRows<const R> spikes = gs.pitch ? gs.from(i) : gs;  // without a pitch: zeros
    return {x.from(i), spikes, gsum.from(i), history,   g.from(i),
            at(mean),  at(gv), at(gv_init),  at(first), at(second)};
  }
};

// Gradients of what the LIF integrates. With kGradient its own gradient is added to that of the
// spikes; with kSums, to the sums those over the steps of the gradients and of their products with
// x - mean.
template <bool kHard, bool kDetach, bool kGradient, bool kSums, class Slopes, class R>
void gradient_steps(const RowNeuron<R>& neuron, int64_t steps, const GradientRows<R> rows,
                    const Slopes slopes) {
  const Vec<R> threshold = neuron.threshold + Vec<R>{}, decay = neuron.decay + Vec<R>{};
  for (int i = 0; i < kHistoryBlock; i += kTileSize<R>) {
    auto gv = tile_or_zero(rows.gv, i);
    Tile<R> mean{}, first{}, second{};
    if (kSums) {
      mean = Tile<R>::at(rows.mean + i);
      first = Tile<R>::at(rows.first + i);
      second = Tile<R>::at(rows.second + i);
    }
    for (int64_t t = steps - 1; t >= 0; --t) {
      for (int k = 0; k < kTile; ++k) {
        const int at = i + k * kLanes<R>;
        const Vec<R> h = load(rows.history[t] + at);
        Vec<R> g = lif_gradient<kHard, kDetach>(h, lif_fires(h, threshold), slopes(t, at, h),
                                                load(rows.gs[t] + at), gv.lanes[k], threshold);
        gv.lanes[k] = decay * g;
        if (kGradient) g += load(rows.gsum[t] + at);
        if (kSums) {
          first.lanes[k] += g;
          second.lanes[k] += g * (load(rows.x[t] + at) - mean.lanes[k]);
        }
        store(rows.g[t] + at, g);
      }
    }
    if (rows.gv_init) gv.store_at(rows.gv_init + i);
    if (kSums) {
      first.store_at(rows.first + i);
      second.store_at(rows.second + i);
    }
  }
}

}  // namespace
}  // namespace stmixer
