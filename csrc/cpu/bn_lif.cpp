#include "stmixer/bn_lif.h"

#include <vector>

#include "cpu/blocks.h"
#include "cpu/bn_channels.h"
#include "cpu/dispatch.h"

namespace stmixer {

namespace {

// Sums [2, channels] over all blocks. Blocks are summed in a fixed number of parts, and the parts
// in order, so the result does not depend on the thread count.
template <class Kernel>
std::vector<double> sum_channels(int64_t blocks, int64_t channels, int threads,
                                 const Kernel& kernel) {
  const int64_t parts = std::min<int64_t>(blocks, 32);
  std::vector<double> partial(static_cast<size_t>(parts * 2 * channels), 0.0);
  parallel_ranges(parts, threads, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t part = begin; part < end; ++part)
      kernel(blocks * part / parts, blocks * (part + 1) / parts, thread,
             partial.data() + part * 2 * channels);
  });
  std::vector<double> sums(static_cast<size_t>(2 * channels), 0.0);
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t i = 0; i < 2 * channels; ++i) sums[i] += partial[part * 2 * channels + i];
  return sums;
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

int64_t forward_blocks(int64_t neurons, const ChannelLayout& layout) {
  return ceil_div(neurons, channel_block(kForwardBlock, layout.channels, layout.inner));
}

}  // namespace

void bn_statistics(const BnStatistics& p, int threads) {
  const auto& kernels = STMIXER_TABLE(bn_lif_kernels);
  std::vector<double> pivots(static_cast<size_t>(p.layout.channels));
  kernels.pivots(p, pivots.data());
  const auto sums = sum_channels(forward_blocks(p.neurons, p.layout), p.layout.channels,
                                 useful_threads(p.steps * p.neurons, threads),
                                 [&](int64_t begin, int64_t end, int, double* part) {
                                   kernels.statistics(p, pivots.data(), begin, end, part);
                                 });
  channel_moments(p, pivots.data(), sums.data());
}

void bn_lif_forward(const BnLifForward& p, int threads) {
  const auto& kernels = STMIXER_TABLE(bn_lif_kernels);
  const ChannelMemory per(p.layout.channels);
  channel_affine(p.dtype, p.layout.channels, p.bn, per.channels);
  parallel_ranges(
      forward_blocks(p.neurons, p.layout), useful_threads(p.steps * p.neurons, threads),
      [&](int64_t begin, int64_t end, int) { kernels.forward(p, per.channels, begin, end); });
}

int64_t bn_lif_scratch_bytes(int64_t steps, Dtype dtype) {
  return kBackwardBuffers * steps * kHistoryBlock * state_size(dtype);
}

void bn_lif_backward(const BnLifBackward& p, int threads) {
  const auto& kernels = STMIXER_TABLE(bn_lif_kernels);
  const int64_t scratch = bn_lif_scratch_bytes(p.steps, p.dtype);
  const int useful = useful_threads(p.steps * p.neurons, threads);
  const ChannelMemory per(p.layout.channels);
  channel_affine(p.dtype, p.layout.channels, p.bn, per.channels);
  const auto sums = sum_channels(ceil_div(p.neurons, kHistoryBlock), p.layout.channels, useful,
                                 [&](int64_t begin, int64_t end, int thread, double* part) {
                                   char* memory = static_cast<char*>(p.scratch) + thread * scratch;
                                   kernels.backward(p, per.channels, begin, end, memory, part);
                                 });
  channel_gradients(p, sums.data(), per.channels);
  parallel_ranges(forward_blocks(p.neurons, p.layout), useful,
                  [&](int64_t begin, int64_t end, int) {
                    kernels.input_gradient(p, per.channels, begin, end);
                  });
}

}  // namespace stmixer
