#pragma once
#include <vector>

#include "events/kernels.h"

namespace stmixer::events {

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
