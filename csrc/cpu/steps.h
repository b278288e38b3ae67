#pragma once
// The steps of a backward pass over a block of kHistoryBlock neurons, with what goes from step to
// step in registers. Whole tiles only: a short last block, like one of narrow values, is copied to
// rows of kHistoryBlock values; what is computed beyond its end is dropped.
#include "cpu/blocks.h"
#include "cpu/tiles.h"

namespace stmixer {
namespace {

// The rows of a block, one a step.
template <class R>
struct StepRows {
  R* first;
  int64_t pitch;
  R* operator[](int64_t t) const { return first + t * pitch; }
};

// Whether the rows of a block can be used where they lie.
template <class In, class R>
constexpr bool in_place(int n) {
  return std::is_same_v<In, R> && n == kHistoryBlock;
}

template <class In, class R>
StepRows<const R> read_steps(const void* tensor, int64_t m, int64_t pitch, int64_t steps, int n,
                             StepRows<R> buffer) {
  const In* rows = static_cast<const In*>(tensor) + m;
  if (in_place<In, R>(n)) return {reinterpret_cast<const R*>(rows), pitch};
  for (int64_t t = 0; t < steps; ++t)
    for (int i = 0; i < n; ++i) buffer[t][i] = widen(rows[t * pitch + i]);
  return {buffer.first, buffer.pitch};
}

// A block of a membrane or of its gradient, zeros where there is none.
template <class R>
void read_state(const void* tensor, int64_t m, int n, R* row) {
  for (int i = 0; i < kHistoryBlock; ++i) row[i] = R(0);
  if (tensor) copy_row(static_cast<const R*>(tensor) + m, row, n);
}

// Membranes before reset from what the LIF integrates: scale * x + shift, or x itself, for which
// scale and shift may be null.
template <bool kHard, bool kAffine, class R>
void charge_steps(const RowNeuron<R>& neuron, int64_t steps, StepRows<const R> x, const R* scale,
                  const R* shift, const R* v_init, StepRows<R> history) {
  const Vec<R> threshold = neuron.threshold + Vec<R>{}, decay = neuron.decay + Vec<R>{};
  for (int i = 0; i < kHistoryBlock; i += kTileSize<R>) {
    Tile<R> a{}, b{};
    if (kAffine) {
      a = Tile<R>::at(scale + i);
      b = Tile<R>::at(shift + i);
    }
    auto v = Tile<R>::at(v_init + i);
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

// What the steps back read and write. Without a gradient of the sum gsum is null, without sums x,
// mean, first and second are.
template <class R>
struct GradientRows {
  StepRows<const R> x, gs, gsum;
  StepRows<R> history, slopes, g;
  const R* mean;
  R *gv, *first, *second;
};

// Gradients of what the LIF integrates. With kGradient its own gradient is added to that of the
// spikes; with kSums, the sums over the steps of the gradients and of their products with x - mean.
template <bool kHard, bool kDetach, bool kGradient, bool kSums, class R>
void gradient_steps(const RowNeuron<R>& neuron, int64_t steps, const GradientRows<R> rows) {
  const Vec<R> threshold = neuron.threshold + Vec<R>{}, decay = neuron.decay + Vec<R>{};
  for (int i = 0; i < kHistoryBlock; i += kTileSize<R>) {
    auto gv = Tile<R>::at(rows.gv + i);
    Tile<R> mean{}, first{}, second{};
    if (kSums) mean = Tile<R>::at(rows.mean + i);
    for (int64_t t = steps - 1; t >= 0; --t) {
      for (int k = 0; k < kTile; ++k) {
        const int at = i + k * kLanes<R>;
        const Vec<R> h = load(rows.history[t] + at);
        Vec<R> g =
            lif_gradient<kHard, kDetach>(h, lif_fires(h, threshold), load(rows.slopes[t] + at),
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
    gv.store_at(rows.gv + i);
    if (kSums) {
      first.store_at(rows.first + i);
      second.store_at(rows.second + i);
    }
  }
}

}  // namespace
}  // namespace stmixer
