#pragma once
// What every op with a LIF in it needs to know of the neuron and of the tensors' element type.
#include "stmixer/lif_step.h"

namespace stmixer {

// The numbers are part of the Python binding.
enum class Dtype : int32_t { f32 = 0, f64 = 1, bf16 = 2, f16 = 3 };

// Membranes are float for everything but double.
STMIXER_STEP int64_t state_size(Dtype dtype) { return dtype == Dtype::f64 ? 8 : 4; }

struct Neuron {
  double threshold;
  double decay;
  bool hard;
  bool detach;
  SurrogateKind surrogate;
  double scale;     // alpha or gamma of the surrogate
  double constant;  // surrogate_constant(surrogate, scale)
};

// The second number surrogate_slope wants.
#if !defined(__CUDACC_RTC__)
inline double surrogate_constant(SurrogateKind kind, double scale) {
  switch (kind) {
    case SurrogateKind::dspike:
      return 2.0 * scale / std::tanh(scale);  // 4 gamma / (2 tanh gamma)
    case SurrogateKind::piecewise_quadratic:
      return scale * scale;
    case SurrogateKind::rect:
      return 0.5 / scale;
    case SurrogateKind::atan:
      return 1.5707963267948966 * scale;
    default:
      return 0.0;
  }
}
#endif

}  // namespace stmixer
