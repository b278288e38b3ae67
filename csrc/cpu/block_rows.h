#pragma once
// Blocks of neurons, their channels, and what there is per channel: laid out in rows for a block,
// or summed up from one.
#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/tables.h"

namespace stmixer {
namespace {

// f(m, n, run) for the blocks of all runs: those with the same channels, one in each run, after
// another.
template <class F>
void for_each_block(const ChannelLayout& layout, const NeuronRuns& runs, const F& f) {
  const int size = channel_block(kForwardBlock, layout.channels, layout.inner);
  for (int64_t at = 0; at < runs.length; at += size) {
    const int n = static_cast<int>(runs.length - at < size ? runs.length - at : size);
    for (int64_t run = 0; run < runs.count; ++run) f(runs.first + run * runs.pitch + at, n, run);
  }
}

// f(i, length, channel) for the neurons of the block [m, m + n): with channels innermost
// consecutive channels at a time, else one channel's neighbours.
template <class F>
void for_each_channel(const ChannelLayout& layout, int64_t m, int n, const F& f) {
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

// Two sums per neuron of a block, over the steps and some runs, on their way to sums per channel.
// Not over all runs: what is added up in the state type stays short.
template <class R>
class BlockSums {
 public:
  BlockSums(const ChannelLayout& layout, int64_t steps, int64_t runs, double* sums)
      : layout_(layout),
        runs_(runs),
        sums_(sums),
        together_(steps < kValues ? kValues / steps : 1) {}

  void start(int64_t run) {
    if (run % together_ != 0) return;
    zero_row(first, kForwardBlock);
    zero_row(second, kForwardBlock);
  }

  // Adds them to the sums [2, channels].
  void finish(int64_t m, int n, int64_t run) {
    if ((run + 1) % together_ != 0 && run + 1 != runs_) return;
    double* second_sums = sums_ + layout_.channels;
    for_each_channel(layout_, m, n, [&](int at, int length, int64_t channel) {
      if (layout_.inner == 1) {
        for (int i = 0; i < length; ++i) sums_[channel + i] += first[at + i];
        for (int i = 0; i < length; ++i) second_sums[channel + i] += second[at + i];
      } else {
        sums_[channel] += sum_row(first + at, length);
        second_sums[channel] += sum_row(second + at, length);
      }
    });
  }

  alignas(64) R first[kForwardBlock], second[kForwardBlock];

 private:
  static constexpr int64_t kValues = 64;
  ChannelLayout layout_;
  int64_t runs_;
  double* sums_;
  int64_t together_;
};

// Per-channel rows of a block, laid out anew only where the block starts at another channel.
template <class R, int kCount>
class ChannelRows {
 public:
  ChannelRows(const ChannelLayout& layout, const void* const (&channels)[kCount])
      : layout_(layout) {
    for (int k = 0; k < kCount; ++k) channels_[k] = static_cast<const R*>(channels[k]);
  }

  void move_to(int64_t m, int n) {
    const int64_t start = m % (layout_.channels * layout_.inner);
    if (start == start_ && n <= filled_) return;
    for_each_channel(layout_, m, n, [&](int at, int length, int64_t channel) {
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
  alignas(64) R rows_[kCount][kForwardBlock];
};

}  // namespace
}  // namespace stmixer
