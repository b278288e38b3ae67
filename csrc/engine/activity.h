#pragma once
// What neurons did: spikes to bytes, and spikes to synaptic operations. Only for runs that are
// recorded; nothing here is on the hot path.
#include <cstdint>
#include <vector>

#include "engine/plan.h"

namespace stmixer::engine {

// Spikes of one image at one step, [C][N] bytes of 0 or 1.
void unpack_spikes(const Neurons& neurons, const uint8_t* bits, uint8_t* spikes);

// Counts spikes and the work they cause.
class ActivityCounter {
 public:
  explicit ActivityCounter(const Plan& plan);

  // Adds the activity of `images` consecutive bit maps, and what it makes later steps do; null: not
  // wanted.
  void count(int neurons, const uint8_t* bits, int64_t images, Activity* activity,
             std::vector<Work>* work) const;

 private:
  // A step that gathers: a spike at pixel p adds fan_out[p] weights, which near the border of a
  // convolution are less than in the middle. One that reads rates instead: it would have added as
  // many, but reads no lists. Or one that lists, without fan-out.
  struct Reader {
    size_t step;
    std::vector<int64_t> fan_out;
    int64_t key_bytes;     // of a spike
    int64_t starts_bytes;  // of an image at one time step
  };

  const Plan& plan_;
  std::vector<std::vector<Reader>> readers_;  // by neurons
};

}  // namespace stmixer::engine
