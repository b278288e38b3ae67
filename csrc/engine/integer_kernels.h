#pragma once
// What the kernels of an int8 network are told; see kernels.h. Integers are exact, so any order of
// summation gives the same sums and each instruction set may take its own.
#include <cstdint>

#include "engine/kernels.h"
#include "graph/arithmetic.h"

namespace stmixer::engine {

// Output channels of a tile: a row of int8 weights is one AVX-512 register.
constexpr int kIntegerTile = 64;

using graph::kDecayBits;
using graph::kMembraneLimit;

// v = (v * decay + 2^14) >> 15, then v += x; spike where v >= threshold; then v = 0 (hard) or
// v -= reset (soft).
struct IntegerLif {
  const int32_t* threshold;  // [channels]
  const int32_t* reset;      // [channels], or null for a hard reset
  int32_t decay;
};

// The largest magnitude of weights of 7 bits.
constexpr int kSevenBits = 63;

// Sums of int8 or int16 weight rows that spikes select; see GatherTask. Sums of int8 weights are
// formed in 16 bits for as many blocks as cannot overflow, then added to 32.
struct IntegerGatherTask {
  const uint16_t* keys;
  const uint32_t* starts;
  const void* weights;  // [blocks][kernel_h][kernel_w * block_channels][kIntegerTile]
  const void* next;
  int16_t* narrow;  // [pixels][steps][kIntegerTile], not for int16 weights
  int32_t* wide;    // the same
  int64_t step_keys, step_rows;
  Geometry geometry;
  int32_t blocks, block_channels;
  int32_t safe_blocks;  // whose sums fit in 16 bits; all: they stay there, and wide is not written
  int32_t first_pixel, pixels, steps;
};

// Real-valued input in fixed point. Channels come in pairs, the last padded with zeros.
struct IntegerDenseTask {
  const int16_t* in;       // [steps][in_height][in_width][2 * pairs]
  const int16_t* weights;  // [kernel_h][kernel_w][pairs][kIntegerTile][2]
  int32_t* sums;           // [pixels][steps][kIntegerTile]
  int64_t in_step;
  Geometry geometry;
  int32_t pairs;
  int32_t first_pixel, pixels, steps;
};

// The mean over all pixels and steps, rounded, of `channels` channels.
struct IntegerMeanTask {
  const int32_t* in;  // [steps][pixels][in_pixel]
  int32_t* out;
  int64_t in_step, in_pixel;
  int32_t pixels, steps, channels;
};

// x = base + scaled sum + bias is stored and drives the neurons; see FinishTask. A sum is scaled by
// (sum * multiplier + half) >> shift, or without multiplier by sum << shift.
struct IntegerFinishTask {
  const int16_t* narrow;  // sums, or
  const int32_t* wide;    // sums
  int64_t sums_pixel, sums_step;
  const int32_t* multiplier;  // [channels] or null
  int32_t shift;
  const int32_t* bias;  // [channels] or null
  const int32_t* base;
  int32_t* store;
  int64_t store_pixel, store_step;
  const IntegerLif* lif;
  uint8_t* bits;
  int64_t bits_pixel, bits_step;
  int32_t pixels, steps, channels;
};

struct IntegerKernels {
  // Weights of a row are laid out so that interleaving two rows, byte by byte in each 16 bytes of a
  // register of this size, gives their pairs in order; see byte_position.
  int vector_bytes;
  void (*gather7)(const IntegerGatherTask&) noexcept;  // weights in [-63, 63]
  void (*gather8)(const IntegerGatherTask&) noexcept;
  void (*gather16)(const IntegerGatherTask&) noexcept;
  void (*dense)(const IntegerDenseTask&) noexcept;
  void (*mean)(const IntegerMeanTask&) noexcept;
};

struct FinishKernels {
  void (*real)(const FinishTask&) noexcept;
  void (*integer)(const IntegerFinishTask&) noexcept;
};

}  // namespace stmixer::engine
