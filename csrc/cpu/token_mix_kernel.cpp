#include "common/simd.h"
#include "cpu/blocks.h"
#include "cpu/rows.h"
#include "cpu/tables.h"

namespace stmixer {
namespace {

// Rows of kMixChannels channels, `pitch` values each, in the caller's scratch.
template <class R>
struct Scratch {
  R *s, *y, *v;
  Scratch(void* memory, int64_t pitch)
      : s(static_cast<R*>(memory)), y(s + kMixChannels * pitch), v(y + kMixChannels * pitch) {}
};

// kVectors vectors of outputs: the sum of weight rows, in order of the input token.
template <int kVectors, class R>
void add_spikes(const R* weight, int64_t pitch, const uint32_t* words, int64_t count, R* y) {
  Vec<R> sum[kVectors] = {};
  for (int64_t w = 0; w < count; ++w) {
    for (uint32_t word = words[w]; word != 0; word &= word - 1) {
      const R* row = weight + (32 * w + __builtin_ctz(word)) * pitch;
      for (int k = 0; k < kVectors; ++k) sum[k] += load(row + k * kLanes<R>);
    }
  }
  for (int k = 0; k < kVectors; ++k) store(y + k * kLanes<R>, sum[k]);
}

// The same for any values.
template <int kVectors, class R>
void add_scaled(const R* weight, int64_t pitch, const R* s, int64_t tokens, R* y) {
  Vec<R> sum[kVectors] = {};
  for (int64_t n = 0; n < tokens; ++n) {
    if (s[n] == R(0)) continue;
    const R* row = weight + n * pitch;
    for (int k = 0; k < kVectors; ++k) sum[k] += s[n] * load(row + k * kLanes<R>);
  }
  for (int k = 0; k < kVectors; ++k) store(y + k * kLanes<R>, sum[k]);
}

template <class R>
bool all_spikes(const R* s, int64_t tokens) {
  int others = 0;
  for (int64_t n = 0; n < tokens; ++n) others += s[n] != R(0) && s[n] != R(1);
  return others == 0;
}

// Currents of one channel at one step: weight rows of its spikes, multiplied only if they are
// graded (or NaN).
template <class R>
void mix_row(const R* weight, int64_t pitch, const R* s, int64_t tokens, R* y) {
  constexpr int kTile = 4;
  const bool spikes = all_spikes(s, tokens);
  const int64_t words = (tokens + 31) / 32;
  uint32_t bits[kMaxMixTokens / 32];
  if (spikes) pack_row(s, bits, static_cast<int>(32 * words));
  int64_t m = 0;
  for (; m + kTile * kLanes<R> <= pitch; m += kTile * kLanes<R>) {
    if (spikes)
      add_spikes<kTile>(weight + m, pitch, bits, words, y + m);
    else
      add_scaled<kTile>(weight + m, pitch, s, tokens, y + m);
  }
  for (; m < pitch; m += kLanes<R>) {
    if (spikes)
      add_spikes<1>(weight + m, pitch, bits, words, y + m);
    else
      add_scaled<1>(weight + m, pitch, s, tokens, y + m);
  }
}

// Rows between a strided tensor and scratch; the shorter stride runs innermost.
template <class Copy>
void for_each_element(int channels, int64_t tokens, bool channels_inner, const Copy& copy) {
  if (channels_inner) {
    for (int64_t n = 0; n < tokens; ++n)
      for (int c = 0; c < channels; ++c) copy(c, n);
  } else {
    for (int c = 0; c < channels; ++c)
      for (int64_t n = 0; n < tokens; ++n) copy(c, n);
  }
}

// One batch element, up to kMixChannels channels of one head, all steps.
template <class In, class R>
void mix_group(const TokenMix& p, int64_t b, int64_t head, int64_t c0, int channels,
               const Scratch<R>& scratch) {
  const RowNeuron<R> neuron(p.neuron);
  const int64_t words = (p.tokens + 31) / 32;
  const R* weight = static_cast<const R*>(p.weight) + head * p.tokens * p.pitch;
  const int64_t v_base = b * p.v_strides[0] + c0 * p.v_strides[1];
  const bool v_inner = p.v_strides[1] < p.v_strides[2];
  if (p.lif) {
    const R* v_init = static_cast<const R*>(p.v_init);
    for_each_element(channels, p.tokens, v_inner, [&](int c, int64_t n) {
      scratch.v[c * p.pitch + n] =
          v_init ? v_init[v_base + c * p.v_strides[1] + n * p.v_strides[2]] : R(0);
    });
  }
  zero_row(scratch.s, static_cast<int>(kMixChannels * p.pitch));
  for (int64_t t = 0; t < p.steps; ++t) {
    const In* s =
        static_cast<const In*>(p.s) + t * p.s_strides[0] + b * p.s_strides[1] + c0 * p.s_strides[2];
    for_each_element(channels, p.tokens, p.s_strides[2] < p.s_strides[3], [&](int c, int64_t n) {
      scratch.s[c * p.pitch + n] = widen(s[c * p.s_strides[2] + n * p.s_strides[3]]);
    });
    for (int c = 0; c < channels; ++c) {
      R* row = scratch.s + c * p.pitch;
      R* y = scratch.y + c * p.pitch;
      mix_row(weight, p.pitch, row, p.tokens, y);
      if (p.lif) {
        neuron.step(scratch.v + c * p.pitch, y, row, static_cast<int>(p.tokens));
        copy_row(row, y, static_cast<int>(p.tokens));
        if (p.bits)
          pack_row(row, p.bits + ((t * p.batch + b) * p.channels + c0 + c) * words,
                   static_cast<int>(32 * words));
      }
    }
    In* out = static_cast<In*>(p.out) + t * p.out_strides[0] + b * p.out_strides[1] +
              c0 * p.out_strides[2];
    for_each_element(
        channels, p.tokens, p.out_strides[2] < p.out_strides[3], [&](int c, int64_t n) {
          narrow(scratch.y[c * p.pitch + n], out[c * p.out_strides[2] + n * p.out_strides[3]]);
        });
  }
  if (p.lif && p.v_out) {
    R* v_out = static_cast<R*>(p.v_out);
    for_each_element(channels, p.tokens, v_inner, [&](int c, int64_t n) {
      v_out[v_base + c * p.v_strides[1] + n * p.v_strides[2]] = scratch.v[c * p.pitch + n];
    });
  }
}

void run(const TokenMix& p, int64_t begin, int64_t end, void* scratch) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using R = Pointee<decltype(state)>;
    const int64_t per_head = p.channels / p.heads;
    const int64_t groups = (per_head + kMixChannels - 1) / kMixChannels;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t group = task % groups, head = task / groups % p.heads;
      const int64_t first = group * kMixChannels;
      const int channels =
          static_cast<int>(per_head - first < kMixChannels ? per_head - first : kMixChannels);
      mix_group<Pointee<decltype(in)>, R>(p, task / groups / p.heads, head, head * per_head + first,
                                          channels, Scratch<R>(scratch, p.pitch));
    }
  });
}

}  // namespace

STMIXER_DEFINE_TABLE(TokenMixKernels, token_mix_kernels) = {run};

}  // namespace stmixer
