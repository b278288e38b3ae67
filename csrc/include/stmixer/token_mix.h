#pragma once
// Per-head token mixing of spikes, with or without a LIF as its epilogue:
// y[t,b,c,m] = sum_n weight[h,m,n] s[t,b,c,n].
#include "stmixer/neuron.h"

namespace stmixer {

struct TokenMix {
  Dtype dtype;
  int64_t steps, batch, channels, tokens, heads;
  int64_t s_strides[4];    // of s, in elements: t, b, c, n
  int64_t out_strides[4];  // of the output
  const void* s;
  const void*
      weight;     // [heads, tokens (input), pitch] in the state type, zero from tokens to pitch
  int64_t pitch;  // a multiple of 32
  void* out;      // currents, or spikes with a LIF
  bool lif;
  Neuron neuron;
  const void* v_init;    // [batch, channels, tokens] in the state type, or null
  void* v_out;           // the same, or null
  int64_t v_strides[3];  // of both, in elements: b, c, n
  uint32_t* bits;        // [steps, batch, channels, ceil(tokens / 32)], or null
  void* scratch;         // threads * token_mix_scratch_bytes(pitch, dtype)
};

constexpr int kMaxMixTokens = 4096;

int64_t token_mix_scratch_bytes(int64_t pitch, Dtype dtype);
void token_mix(const TokenMix& p, int threads);

}  // namespace stmixer
