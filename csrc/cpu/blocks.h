#pragma once
// How the neurons of a step are cut into pieces: shared by the kernels and their host side.
//
//   range   neurons one after the other that a thread works on
//   run     of a range: neighbours with the same group of channels, one run per image
//   block   kForwardBlock of a run, whose channels' numbers are laid out in rows; or kHistoryBlock
//   part    whole kHistoryBlocks in place, or one through buffers: what a pass takes at a time
//   tile    a few vectors that stay in registers over the steps
//   lane    one neuron
//
// A row is what a piece has at one step; a window is the steps whose rows the buffers hold.
#include <cstdint>

namespace stmixer {
namespace {

// Neurons per block of rows with a value per channel: the rows of one block stay in L1.
constexpr int kForwardBlock = 512;

// Neurons per block where a row is kept for every step. Short, because the T rows of a block often
// lie a multiple of 4 KiB apart and then share cache sets.
constexpr int kHistoryBlock = 64;

// Blocks of all steps that the backward kernel of bn_lif keeps: membranes, slopes, and copies of
// the sum, then of the result, of x, of the gradient of the spikes and of that of the sum.
constexpr int kBackwardBuffers = 6;

// The same for lif: membranes, slopes, a copy of x, and one of the gradient of the spikes, then of
// the result.
constexpr int kLifBuffers = 4;

// A block of about `base` neurons that starts at channel 0 wherever that can be had, so that
// per-channel rows are laid out once, and that is cut into whole blocks of histories.
inline int channel_block(int base, int64_t channels, int64_t inner) {
  if (inner != 1 || channels > base) return base;
  const int whole = static_cast<int>(base / channels * channels);
  return whole % kHistoryBlock == 0 ? whole : base;
}

// Channels a head's token mixing takes at a time: a cache line of the channels-innermost layout.
constexpr int kMixChannels = 16;

}  // namespace
}  // namespace stmixer
