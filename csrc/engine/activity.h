#pragma once
// What neurons did: spikes to bytes, and spikes to synaptic operations. Only for runs that are
// recorded; nothing here is on the hot path.
#include <cstdint>
#include <vector>

#include "engine/plan.h"

namespace stmixer::engine {

// Spikes of one image at one step, [C][N] bytes of 0 or 1.
void unpack_spikes(const Neurons& neurons, const uint8_t* bits, uint8_t* spikes);

// Counts spikes and the synaptic operations they cause: a spike at pixel p makes fan_out(p) of
// them, which near the border of a convolution is less than in the middle.
class ActivityCounter {
 public:
  ActivityCounter(const Plan& plan, const CheckedGraph& graph);

  // Adds the activity of `images` consecutive bit maps.
  void count(int neurons, const uint8_t* bits, int64_t images, Activity* activity) const;

 private:
  const Plan& plan_;
  std::vector<std::vector<int64_t>> fan_out_;  // by neurons, by pixel
};

}  // namespace stmixer::engine
