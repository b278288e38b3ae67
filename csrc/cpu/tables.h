#pragma once
// The per-ISA kernels of each op: one table of function pointers per object file, chosen at run
// time. A kernel takes a range of blocks, or runs of neurons, throws nothing and allocates nothing.
#include <cstdint>

#include "common/isa_table.h"
#include "stmixer/bn_lif.h"
#include "stmixer/lif.h"
#include "stmixer/pack.h"
#include "stmixer/token_mix.h"

namespace stmixer {

struct LifKernels {
  void (*forward)(const LifForward& p, int64_t begin, int64_t end) noexcept;
  void (*backward)(const LifBackward& p, int64_t begin, int64_t end, void* scratch) noexcept;
};

// Normalisation per channel in the state type: x * scale + shift, and for its gradient
// gx = scale * g - (x - mean) * slope - offset.
struct BnChannels {
  void *invstd, *scale, *shift, *slope, *offset;
};

// `count` runs of `length` neurons each, `pitch` apart.
struct NeuronRuns {
  int64_t first, length, pitch, count;
};

// The passes over some neurons; sums per channel, [2, channels], are added to.
struct BnLifKernels {
  void (*pivots)(const BnStatistics& p, void* pivots) noexcept;
  void (*statistics)(const BnStatistics& p, const void* pivots, NeuronRuns runs,
                     double* sums) noexcept;
  void (*forward)(const BnLifForward& p, const BnChannels& channels, NeuronRuns runs) noexcept;
  void (*backward)(const BnLifBackward& p, const BnChannels& channels, NeuronRuns runs,
                   void* scratch, double* sums) noexcept;
  void (*input_gradient)(const BnLifBackward& p, const BnChannels& channels,
                         NeuronRuns runs) noexcept;
};

struct PackKernels {
  void (*pack)(const PackRows& p, int64_t begin, int64_t end) noexcept;
  void (*unpack)(const UnpackRows& p, int64_t begin, int64_t end) noexcept;
};

struct TokenMixKernels {
  void (*run)(const TokenMix& p, int64_t begin, int64_t end, void* scratch) noexcept;
};

STMIXER_DECLARE_TABLE(LifKernels, lif_kernels);
STMIXER_DECLARE_TABLE(BnLifKernels, bn_lif_kernels);
STMIXER_DECLARE_TABLE(PackKernels, pack_kernels);
STMIXER_DECLARE_TABLE(TokenMixKernels, token_mix_kernels);

}  // namespace stmixer
