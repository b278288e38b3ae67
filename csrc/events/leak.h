#pragma once
#include <vector>

#include "events/kernels.h"
#include "stmixer/events.h"

namespace stmixer::events {

// What a step leaves of a membrane: `decay`, or where every leak has one time constant what that
// says.
double decay_of(double decay, const Options& options);

// What a membrane keeps over time, tabulated.
class Leak {
 public:
  // `decay` in [0, 1) is what is left after `step_us` microseconds.
  Leak(double decay, double step_us);

  LeakTable view() const {
    return {coarse_.data(), fine_.data(), static_cast<int64_t>(coarse_.size()), rate_};
  }

 private:
  std::vector<double> coarse_, fine_;
  double rate_;
};

}  // namespace stmixer::events
