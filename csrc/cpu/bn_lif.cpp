#include "stmixer/bn_lif.h"

#include <numeric>
#include <vector>

#include "cpu/blocks.h"
#include "cpu/bn_statistics.h"
#include "cpu/dispatch.h"

namespace stmixer {

namespace {

// The channels in groups of neighbours. A pass that needs sums over a channel and the pass that
// needs these sums go over one group after the other: its values are then still in the cache.
// Groups are at least kForwardBlock neurons wide and whole blocks of histories. That takes channels
// whose neurons lie together (inner > 1), and so many of them that 32 threads get a group each.
class ChannelGroups {
 public:
  ChannelGroups(int64_t neurons, const ChannelLayout& layout)
      : neurons_(neurons), layout_(layout), width_(width(layout.inner)) {}

  int64_t count() const { return ceil_div(layout_.channels, width_); }
  bool apart() const { return layout_.inner > 1 && count() >= 32; }
  int64_t begin(int64_t group) const { return group * width_; }
  int64_t end(int64_t group) const { return std::min((group + 1) * width_, layout_.channels); }

  NeuronRuns runs(int64_t group) const {
    const int64_t all = layout_.channels * layout_.inner;
    return {begin(group) * layout_.inner, (end(group) - begin(group)) * layout_.inner, all,
            neurons_ / all};
  }

 private:
  static int64_t width(int64_t inner) {
    const int64_t whole = kHistoryBlock / std::gcd<int64_t>(kHistoryBlock, inner);
    return whole * ceil_div<int64_t>(kForwardBlock, whole * inner);
  }

  int64_t neurons_;
  ChannelLayout layout_;
  int64_t width_;
};

// The neurons as a sequence of blocks, whatever their channels.
class Blocks {
 public:
  Blocks(int64_t neurons, const ChannelLayout& layout)
      : neurons_(neurons), size_(channel_block(kForwardBlock, layout.channels, layout.inner)) {}

  int64_t count() const { return ceil_div(neurons_, size_); }
  NeuronRuns runs(int64_t begin, int64_t end) const {
    return {begin * size_, std::min(end * size_, neurons_) - begin * size_, 0, 1};
  }

 private:
  int64_t neurons_, size_;
};

template <class Apply>
void over_blocks(const Blocks& blocks, int threads, const Apply& apply) {
  parallel_ranges(blocks.count(), threads,
                  [&](int64_t begin, int64_t end, int) { apply(blocks.runs(begin, end)); });
}

// accumulate(runs, thread, sums) adds to sums per channel, finalize(begin, end, sums) makes of them
// the coefficients of channels [begin, end), and apply(runs) uses these. No result depends on the
// thread count: one thread adds up the sums of a group; without groups a fixed number of ranges has
// sums of its own, which are added in order.
template <class Accumulate, class Finalize, class Apply>
void in_two_passes(int64_t neurons, const ChannelLayout& layout, int threads,
                   const Accumulate& accumulate, const Finalize& finalize, const Apply& apply) {
  const int64_t values = 2 * layout.channels;
  std::vector<double> sums(static_cast<size_t>(values), 0.0);
  const ChannelGroups groups(neurons, layout);
  if (groups.apart()) {
    parallel_ranges(groups.count(), threads, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t group = begin; group < end; ++group) {
        accumulate(groups.runs(group), thread, sums.data());
        finalize(groups.begin(group), groups.end(group), sums.data());
        apply(groups.runs(group));
      }
    });
    return;
  }
  const Blocks blocks(neurons, layout);
  const int64_t ranges = std::min<int64_t>(blocks.count(), 32);
  std::vector<double> partial(static_cast<size_t>(ranges * values), 0.0);
  parallel_ranges(ranges, threads, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t range = begin; range < end; ++range)
      accumulate(
          blocks.runs(blocks.count() * range / ranges, blocks.count() * (range + 1) / ranges),
          thread, partial.data() + range * values);
  });
  for (int64_t range = 0; range < ranges; ++range)
    for (int64_t i = 0; i < values; ++i) sums[i] += partial[range * values + i];
  finalize(0, layout.channels, sums.data());
  over_blocks(blocks, threads, apply);
}

// The memory behind a BnChannels, a double's room for every value.
struct ChannelMemory {
  std::vector<double> memory;
  BnChannels channels;

  explicit ChannelMemory(int64_t count)
      : memory(static_cast<size_t>(5 * count)),
        channels{memory.data(), memory.data() + count, memory.data() + 2 * count,
                 memory.data() + 3 * count, memory.data() + 4 * count} {}
};

}  // namespace

void bn_lif_forward(const BnLifForward& p, int threads) {
  const auto& kernels = STMIXER_TABLE(bn_lif_kernels);
  const int64_t channels = p.layout.channels;
  const int useful = useful_threads(p.steps * p.neurons, threads);
  const ChannelMemory per(channels);
  const auto apply = [&](NeuronRuns runs) { kernels.forward(p, per.channels, runs); };
  if (!p.training) {
    channel_affine(p.dtype, 0, channels, p.bn, per.channels);
    return over_blocks({p.neurons, p.layout}, useful, apply);
  }
  const BnStatistics statistics = statistics_of(p);
  std::vector<double> pivots(static_cast<size_t>(channels));
  kernels.pivots(statistics, pivots.data());
  in_two_passes(
      p.neurons, p.layout, useful,
      [&](NeuronRuns runs, int, double* sums) {
        kernels.statistics(statistics, pivots.data(), runs, sums);
      },
      [&](int64_t begin, int64_t end, const double* sums) {
        channel_moments(statistics, begin, end, pivots.data(), sums);
        channel_affine(p.dtype, begin, end, p.bn, per.channels);
      },
      apply);
}

int64_t bn_lif_scratch_bytes(int64_t steps, Dtype dtype) {
  return kBackwardBuffers * steps * kHistoryBlock * state_size(dtype);
}

void bn_lif_backward(const BnLifBackward& p, int threads) {
  const auto& kernels = STMIXER_TABLE(bn_lif_kernels);
  const int64_t scratch = bn_lif_scratch_bytes(p.steps, p.dtype);
  const ChannelMemory per(p.layout.channels);
  channel_affine(p.dtype, 0, p.layout.channels, p.bn, per.channels);
  in_two_passes(
      p.neurons, p.layout, useful_threads(p.steps * p.neurons, threads),
      [&](NeuronRuns runs, int thread, double* sums) {
        kernels.backward(p, per.channels, runs, static_cast<char*>(p.scratch) + thread * scratch,
                         sums);
      },
      [&](int64_t begin, int64_t end, const double* sums) {
        channel_gradients(p, begin, end, sums, per.channels);
      },
      [&](NeuronRuns runs) { kernels.input_gradient(p, per.channels, runs); });
}

}  // namespace stmixer
