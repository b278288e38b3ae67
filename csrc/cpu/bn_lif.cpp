#include "stmixer/bn_lif.h"

#include <vector>

#include "cpu/blocks.h"
#include "cpu/dispatch.h"

namespace stmixer {

namespace {

// Per-channel sums over all blocks. Blocks are summed in a fixed number of parts, and the parts in
// order, so the result does not depend on the thread count.
template <class Kernel>
void sum_channels(int64_t blocks, int64_t channels, int threads, double* sums,
                  const Kernel& kernel) {
  const int64_t parts = std::min<int64_t>(blocks, 32);
  std::vector<double> partial(static_cast<size_t>(parts * 2 * channels), 0.0);
  parallel_ranges(parts, threads, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t part = begin; part < end; ++part)
      kernel(blocks * part / parts, blocks * (part + 1) / parts, thread,
             partial.data() + part * 2 * channels);
  });
  std::fill(sums, sums + 2 * channels, 0.0);
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t i = 0; i < 2 * channels; ++i) sums[i] += partial[part * 2 * channels + i];
}

int64_t forward_blocks(int64_t neurons, const ChannelLayout& layout) {
  return ceil_div(neurons, channel_block(kForwardBlock, layout.channels, layout.inner));
}

}  // namespace

void bn_statistics(const BnStatistics& p, int threads) {
  const auto& kernels = STMIXER_TABLE(bn_lif_kernels);
  sum_channels(forward_blocks(p.neurons, p.layout), p.layout.channels,
               useful_threads(p.steps * p.neurons, threads), p.sums,
               [&](int64_t begin, int64_t end, int, double* sums) {
                 kernels.statistics(p, begin, end, sums);
               });
}

void bn_lif_forward(const BnLifForward& p, int threads) {
  const auto& kernels = STMIXER_TABLE(bn_lif_kernels);
  parallel_ranges(forward_blocks(p.neurons, p.layout), useful_threads(p.steps * p.neurons, threads),
                  [&](int64_t begin, int64_t end, int) { kernels.forward(p, begin, end); });
}

int64_t bn_lif_scratch_bytes(int64_t steps, Dtype dtype) {
  return kBackwardBuffers * steps * kHistoryBlock * state_size(dtype);
}

void bn_lif_backward(const BnLifBackward& p, int threads) {
  const auto& kernels = STMIXER_TABLE(bn_lif_kernels);
  const int64_t scratch = bn_lif_scratch_bytes(p.steps, p.dtype);
  sum_channels(ceil_div(p.neurons, kHistoryBlock), p.layout.channels,
               useful_threads(p.steps * p.neurons, threads), p.sums,
               [&](int64_t begin, int64_t end, int thread, double* sums) {
                 kernels.backward(p, begin, end, static_cast<char*>(p.scratch) + thread * scratch,
                                  sums);
               });
}

void bn_input_gradient(const BnInputGradient& p, int threads) {
  const auto& kernels = STMIXER_TABLE(bn_lif_kernels);
  parallel_ranges(forward_blocks(p.neurons, p.layout), useful_threads(p.steps * p.neurons, threads),
                  [&](int64_t begin, int64_t end, int) { kernels.input_gradient(p, begin, end); });
}

}  // namespace stmixer
