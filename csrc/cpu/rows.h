#pragma once
// The pieces every LIF-carrying kernel is put together from. A kernel walks a block of neurons over
// all T steps; each piece handles one step of the block, a row of n values that stays in cache.
// Rows are plain loops: the compiler vectorises them for the instruction set of the object.
// Everything has internal linkage, see simd.h.
#include <cstdint>
#include <type_traits>

#include "common/simd.h"
#include "stmixer/element.h"
#include "stmixer/lif_step.h"
#include "stmixer/neuron.h"

namespace stmixer {
namespace {

// Asks for the row that is read next: rows are too short for the hardware to see a stream.
template <class T>
inline void prefetch_row(const T* row, int n) {
  const char* bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < static_cast<int64_t>(n * sizeof(T)); i += 64)
    __builtin_prefetch(bytes + i, 0, 2);
}

// A row of a tensor in the state type: the tensor itself where the types agree, else converted
// into `buffer`.
template <class R>
inline const R* read_row(const R* row, R*, int n) {
  prefetch_row(row + n, n);
  return row;
}
template <class In, class R>
inline const R* read_row(const In* row, R* buffer, int n) {
  prefetch_row(row + n, n);
  for (int i = 0; i < n; ++i) buffer[i] = widen(row[i]);
  return buffer;
}

// A finished row, copied or converted into a tensor.
template <class R, class Out>
inline void write_row(const R* __restrict row, Out* __restrict out, int n) {
  for (int i = 0; i < n; ++i) narrow(row[i], out[i]);
}

// A row of a large result, written around the caches: such a result is gone from them before
// anyone reads it, and a plain store would first fetch the lines it overwrites.
template <class R>
inline void stream_row(const R* row, R* out, int n) {
#if defined(__AVX512F__)
  if (reinterpret_cast<uintptr_t>(out) % 64 == 0 && n * sizeof(R) % 64 == 0) {
    for (int i = 0; i < n; i += static_cast<int>(64 / sizeof(R)))
      _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i), _mm512_loadu_si512(row + i));
    return;
  }
#elif defined(__AVX2__)
  if (reinterpret_cast<uintptr_t>(out) % 32 == 0 && n * sizeof(R) % 32 == 0) {
    for (int i = 0; i < n; i += static_cast<int>(32 / sizeof(R)))
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out + i),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + i)));
    return;
  }
#endif
  write_row(row, out, n);
}

// Streamed stores are ordered before whatever the thread does next.
inline void end_streams() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Results from this size on are streamed.
constexpr int64_t kStreamBytes = int64_t{16} << 20;

// Where to write a row of results, and what finishes it: a conversion, or streaming it out if it is
// not in its place already.
template <class R>
inline R* result_row(R* row, R*) {
  return row;
}
template <class Out, class R>
inline R* result_row(Out*, R* buffer) {
  return buffer;
}
template <class R>
inline void finish_row(const R* result, R* row, int n) {
  if (result != row) stream_row(result, row, n);
}
template <class R, class Out>
inline void finish_row(const R* buffer, Out* row, int n) {
  write_row(buffer, row, n);
}

template <class R>
inline void zero_row(R* row, int n) {
  for (int i = 0; i < n; ++i) row[i] = R(0);
}

template <class R>
inline void copy_row(const R* __restrict from, R* __restrict to, int n) {
  for (int i = 0; i < n; ++i) to[i] = from[i];
}

// One step: v is the membrane after the last reset, and after this one on return.
template <bool kHard, class R>
inline void step_row(R* __restrict v, const R* __restrict x, R* __restrict s, int n, R threshold,
                     R decay) {
  for (int i = 0; i < n; ++i) {
    const R h = lif_charge(v[i], x[i], decay);
    const bool fired = lif_fires(h, threshold);
    s[i] = fired ? R(1) : R(0);
    v[i] = lif_reset<kHard>(h, fired, threshold);
  }
}

template <SurrogateKind kKind, class R>
inline void slope_row(const R* __restrict h, R* __restrict slope, int n, R threshold, R a, R b) {
  for (int i = 0; i < n; ++i) slope[i] = surrogate_slope<kKind>(h[i] - threshold, a, b);
}

// 32 spikes (positive values) a word, n a multiple of 32.
template <class R>
inline void pack_row(const R* s, uint32_t* words, int n) {
  for (int w = 0; w < n / 32; ++w) {
    const R* row = s + 32 * w;
    uint32_t word = 0;
    for (int i = 0; i < 32; ++i) word |= static_cast<uint32_t>(row[i] > R(0)) << i;
    words[w] = word;
  }
}
inline void pack_row(const float* s, uint32_t* words, int n) {
  constexpr int kBits = kLanes<float>;
  for (int w = 0; w < n / 32; ++w) {
    uint32_t word = 0;
    for (int i = 0; i < 32; i += kBits) word |= bits_above(load(s + 32 * w + i), VecF32{}) << i;
    words[w] = word;
  }
}

// The neuron with its numbers rounded to the state type and its options chosen once per block, so
// that the rows above carry no branches.
template <class R>
struct RowNeuron {
  R threshold, decay, a, b;
  bool hard, detach;
  SurrogateKind surrogate;

  explicit RowNeuron(const Neuron& n)
      : threshold(static_cast<R>(n.threshold)),
        decay(static_cast<R>(n.decay)),
        a(static_cast<R>(n.scale)),
        b(static_cast<R>(n.constant)),
        hard(n.hard),
        detach(n.detach),
        surrogate(n.surrogate) {}

  void step(R* v, const R* x, R* s, int n) const {
    if (hard)
      step_row<true>(v, x, s, n, threshold, decay);
    else
      step_row<false>(v, x, s, n, threshold, decay);
  }

  void slope(const R* h, R* out, int n) const {
    switch (surrogate) {
      case SurrogateKind::dspike:
        return slope_row<SurrogateKind::dspike>(h, out, n, threshold, a, b);
      case SurrogateKind::piecewise_quadratic:
        return slope_row<SurrogateKind::piecewise_quadratic>(h, out, n, threshold, a, b);
      case SurrogateKind::rect:
        return slope_row<SurrogateKind::rect>(h, out, n, threshold, a, b);
      case SurrogateKind::sigmoid:
        return slope_row<SurrogateKind::sigmoid>(h, out, n, threshold, a, b);
      case SurrogateKind::atan:
        return slope_row<SurrogateKind::atan>(h, out, n, threshold, a, b);
    }
  }

  // f(hard, detach), both as constants.
  template <class F>
  void with_reset(const F& f) const {
    if (hard)
      detach ? f(std::true_type(), std::true_type()) : f(std::true_type(), std::false_type());
    else
      detach ? f(std::false_type(), std::true_type()) : f(std::false_type(), std::false_type());
  }
};

template <class Pointer>
using Pointee = std::remove_pointer_t<Pointer>;

// Calls f with a null pointer of the element type and one of the state type.
template <class F>
inline void with_types(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::f32:
      return f(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
    case Dtype::f64:
      return f(static_cast<double*>(nullptr), static_cast<double*>(nullptr));
    case Dtype::bf16:
      return f(static_cast<Bf16*>(nullptr), static_cast<float*>(nullptr));
    case Dtype::f16:
      return f(static_cast<F16*>(nullptr), static_cast<float*>(nullptr));
  }
}

}  // namespace
}  // namespace stmixer
