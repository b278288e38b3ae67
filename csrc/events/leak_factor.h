#pragma once
// Static, since objects for several instruction sets include it; see kernels.h.
#include <cmath>
#include <cstdint>

#include "events/kernels.h"

namespace stmixer::events {

static inline double leak_factor(const LeakTable& leak, int64_t dt) {
  const int64_t coarse = dt >> kFineBits;
  if (coarse < leak.entries) return leak.coarse[coarse] * leak.fine[dt & ((1 << kFineBits) - 1)];
  return std::exp(leak.rate * static_cast<double>(dt));
}

// A membrane under a constant current after dt microseconds: towards `limit` with a leak, of which
// `factor` is left, or by `slope` a microsecond.
static inline float drifted(float v, float limit, double slope, bool leaks, float factor,
                            int64_t dt) {
  if (leaks) return limit + (v - limit) * factor;
  return static_cast<float>(v + slope * static_cast<double>(dt));
}

}  // namespace stmixer::events
