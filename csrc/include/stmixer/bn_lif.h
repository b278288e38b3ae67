#pragma once
// Batch normalisation + residual sum + LIF. Layout as in lif.h; the channel of neuron m is
// (m / inner) % channels, which covers both channels innermost (inner = 1) and channels first.
#include "stmixer/lif.h"

namespace stmixer {

struct ChannelLayout {
  int64_t channels, inner;
};

// Statistics of x per channel.
struct BnStatistics {
  Dtype dtype;
  int64_t steps, neurons, x_step;
  ChannelLayout layout;
  const void* x;
  void* mean;
  void* var;  // biased
};

// Per-channel values are in the state type (float, or double for f64).
struct BnParameters {
  double eps;
  const void* weight;  // or null for 1
  const void* bias;    // or null for 0
  void* mean;
  void* var;
};

struct BnLifForward {
  Dtype dtype;
  int64_t steps, neurons, x_step, residual_step;
  ChannelLayout layout;
  Neuron neuron;
  BnParameters bn;
  bool training;  // whether mean and var are those of x, and first to be filled in
  const void* x;
  const void* residual;  // or null
  const void* v_init;    // or null
  void* sum;             // what the LIF integrates, or null; given wherever there is a residual
  void* s;
  void* v_out;     // or null
  uint32_t* bits;  // or null; needs neurons % 32 == 0
};

struct BnLifBackward {
  Dtype dtype;
  int64_t steps, neurons, x_step;
  ChannelLayout layout;
  Neuron neuron;
  BnParameters bn;
  bool training;  // whether mean and var are those of x, and so depend on it
  const void* x;
  const void* sum;     // or null: then it is x normalised
  const void* v_init;  // or null
  const void* gs;      // or null
  const void* gsum;    // or null
  const void* gv;      // or null
  void* g;             // gradient of the sum
  void* gx;            // may be g
  void* gweight;
  void* gbias;
  void* gv_init;  // or null
  void* scratch;  // threads * bn_lif_scratch_bytes(steps, dtype)
};

// Those that a forward pass in training begins with.
inline BnStatistics statistics_of(const BnLifForward& p) {
  return {p.dtype, p.steps, p.neurons, p.x_step, p.layout, p.x, p.bn.mean, p.bn.var};
}

void bn_lif_forward(const BnLifForward& p, int threads);
int64_t bn_lif_scratch_bytes(int64_t steps, Dtype dtype);
void bn_lif_backward(const BnLifBackward& p, int threads);

}  // namespace stmixer
