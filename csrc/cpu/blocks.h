#pragma once
// How the neurons of a step are cut into blocks: shared by the kernels and their host side.
#include <cstdint>

namespace stmixer {
namespace {

// Neurons per block where nothing but a few rows is kept: the rows of one block stay in L1.
constexpr int kForwardBlock = 512;

// Neurons per block where a row is kept for every step. Short, because the T rows of a block often
// lie a multiple of 4 KiB apart and then share cache sets.
constexpr int kHistoryBlock = 64;

// Blocks of all steps that the backward kernel of bn_lif keeps: membranes, slopes, and copies of x,
// of the sum or the gradient of the spikes, of the gradient of the sum, and of the result.
constexpr int kBackwardBuffers = 6;

// The same for lif: membranes, slopes, a copy of x, and one of the gradient of the spikes, then of
// the result.
constexpr int kLifBuffers = 4;

// A block of about `base` neurons that starts at channel 0 wherever that can be had, so that
// per-channel rows are laid out once. Blocks stay multiples of 32, so that words of bits do too.
inline int channel_block(int base, int64_t channels, int64_t inner) {
  if (inner != 1 || channels > base) return base;
  const int whole = static_cast<int>(base / channels * channels);
  return whole % 32 == 0 ? whole : base;
}

// block(m, n) for each block of `size` neurons in [begin, end).
template <class F>
inline void for_each_block(int64_t begin, int64_t end, int64_t size, int64_t neurons,
                           const F& block) {
  for (int64_t m = begin * size; m < end * size && m < neurons; m += size)
    block(m, static_cast<int>(neurons - m < size ? neurons - m : size));
}

// Channels a head's token mixing takes at a time: a cache line of the channels-innermost layout.
constexpr int kMixChannels = 16;

}  // namespace
}  // namespace stmixer
