#pragma once
// Batch normalisation + residual sum + LIF. Layout as in lif.h; the channel of neuron m is
// (m / inner) % channels, which covers both channels innermost (inner = 1) and channels first.
#include "stmixer/lif.h"

namespace stmixer {

struct ChannelLayout {
  int64_t channels, inner;
};

// Per-channel parameters are in the state type (float, or double for f64).
struct BnStatistics {
  Dtype dtype;
  int64_t steps, neurons, x_step;
  ChannelLayout layout;
  const void* x;
  const void* pivot;  // any value near the channel's mean
  double* sums;       // [2, channels]: sum of x - pivot, and of its square
};

// Mean and biased variance from those sums of `count` values a channel.
struct BnMoments {
  Dtype dtype;
  int64_t channels, count;
  const double* sums;
  const void* pivot;
  void* mean;
  void* var;
};

// Normalisation as scale * x + shift.
struct BnAffine {
  Dtype dtype;
  int64_t channels;
  double eps;
  const void* weight;  // or null for 1
  const void* bias;    // or null for 0
  const void* mean;
  const void* var;
  void* invstd;
  void* scale;
  void* shift;
};

struct BnLifForward {
  Dtype dtype;
  int64_t steps, neurons, x_step, residual_step;
  ChannelLayout layout;
  Neuron neuron;
  const void* x;
  const void* scale;
  const void* shift;
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
  const void* x;
  const void* scale;
  const void* shift;
  const void* mean;
  const void* sum;     // or null: then it is x * scale + shift
  const void* v_init;  // or null
  const void* gs;      // or null
  const void* gsum;    // or null
  const void* gv;      // or null
  void* g;             // gradient of the sum
  void* gv_init;       // or null
  void* scratch;       // threads * bn_lif_scratch_bytes(steps, dtype)
  double* sums;        // [2, channels]: sum of g, and of g * (x - mean)
};

// What the sums of a backward pass say: gradients of weight and bias, and the terms below. `count`
// values a channel, or 0 where the statistics do not depend on x.
struct BnGradientTerms {
  Dtype dtype;
  int64_t channels, count;
  const double* sums;
  const void* invstd;
  const void* scale;
  void* gweight;
  void* gbias;
  void* slope;
  void* offset;
};

// gx = scale * g - (x - mean) * slope - offset; g and gx may be the same memory.
struct BnInputGradient {
  Dtype dtype;
  int64_t steps, neurons, x_step;
  ChannelLayout layout;
  const void* x;
  const void* scale;
  const void* mean;
  const void* slope;
  const void* offset;
  const void* g;
  void* gx;
};

void bn_statistics(const BnStatistics& p, int threads);
void bn_moments(const BnMoments& p);
void bn_affine(const BnAffine& p);
void bn_lif_forward(const BnLifForward& p, int threads);
int64_t bn_lif_scratch_bytes(int64_t steps, Dtype dtype);
void bn_lif_backward(const BnLifBackward& p, int threads);
void bn_gradient_terms(const BnGradientTerms& p);
void bn_input_gradient(const BnInputGradient& p, int threads);

}  // namespace stmixer
