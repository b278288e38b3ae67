#include "events/leak.h"

#include <cmath>

namespace stmixer::events {
namespace {

// Less than this is 0 in float32, whatever it multiplies.
constexpr double kNothing = 1e-90;

constexpr size_t kMostEntries = size_t{1} << 16;

}  // namespace

double decay_of(double decay, const Options& options) {
  if (decay == 1 || options.tau_us == 0) return decay;
  return std::exp(-static_cast<double>(options.step_us) / options.tau_us);
}

Leak::Leak(double decay, double step_us) : rate_(std::log(decay) / step_us) {
  for (int dt = 0; dt < 1 << kFineBits; ++dt) fine_.push_back(std::pow(decay, dt / step_us));
  for (int64_t dt = 0; coarse_.size() < kMostEntries; dt += 1 << kFineBits) {
    coarse_.push_back(std::pow(decay, static_cast<double>(dt) / step_us));
    if (coarse_.back() < kNothing) break;
  }
}

}  // namespace stmixer::events
