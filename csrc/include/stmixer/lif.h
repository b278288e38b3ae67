#pragma once
// LIF over T steps. A step of every tensor is the same dense run of `neurons` elements; `x_step`
// is the distance between steps of the input in elements (0 repeats one step), outputs are packed.
#include "stmixer/neuron.h"

namespace stmixer {

struct LifForward {
  Dtype dtype;
  int64_t steps, neurons, x_step;
  Neuron neuron;
  const void* x;
  const void* v_init;  // state type (float, or double for f64), or null for zeros
  void* s;             // or null
  void* v_out;         // state type, or null
  uint32_t* bits;      // 32 spikes a word in memory order, or null; needs neurons % 32 == 0
};

struct LifBackward {
  Dtype dtype;
  int64_t steps, neurons, x_step;
  Neuron neuron;
  const void* x;
  const void* v_init;  // or null
  const void* gs;      // gradient of the spikes, or null for zeros
  const void* gv;      // gradient of the last membrane, state type, or null
  void* gx;
  void* gv_init;  // state type, or null
  void* scratch;  // threads * lif_scratch_bytes(steps, dtype)
};

int64_t lif_scratch_bytes(int64_t steps, Dtype dtype);
void lif_forward(const LifForward& p, int threads);
void lif_backward(const LifBackward& p, int threads);

}  // namespace stmixer
