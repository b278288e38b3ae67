#pragma once
// What pools and spike products make of spikes, with a clock and without.
#include <cstdint>
#include <deque>
#include <vector>

#include "events/kernels.h"
#include "events/layout.h"
#include "stmixer/events.h"

namespace stmixer::events {

// Without a clock no two spikes come together unless something holds one until the other is there.
// A pool lets the first spike of a window through and blocks the others for `latch_us`, none if
// that is 0. A product holds every bit of its operands for `latch_us`, at least for its own
// timestamp; a spike adds what the product grows by when its bit is set. Bits that expire take
// nothing away. Within one timestamp the increments add up to the product of all its bits.
class Latch {
 public:
  Latch(const Relay& relay, int64_t latch_us);

  // What the relay emits at a time, no earlier than before, for spikes of each source. Appends to
  // `emitted`, by index.
  void pass(const std::vector<std::vector<Arrival>>& fired, int64_t t,
            std::vector<Arrival>* emitted);

 private:
  // Bits of an operand, [pixel][channel], and when they are no longer held.
  struct Bits {
    int channels = 0;
    std::vector<uint8_t> set;
    std::vector<int64_t> until;
    const uint8_t* pixel(int i) const { return set.data() + int64_t{i} * channels; }
  };
  struct Expiry {
    int64_t t;
    int operand;
    int64_t bit;
  };

  void pool(const Arrival& spike, int64_t t);
  void set(int operand, const Arrival& spike, int64_t t);
  void expire(int64_t t);
  void add(int channel, int pixel, int count);

  const Relay* relay_;
  int64_t latch_us_;
  std::vector<int64_t> blocked_until_;  // of a pool, [channel][pixel] of its spikes
  std::vector<Bits> bits_;              // of a product
  std::deque<Expiry> expiries_;
  std::vector<int32_t> counts_;   // of spikes emitted in this pass
  std::vector<int32_t> touched_;  // where these are not 0
};

// Throws std::invalid_argument, naming the node, for what cannot be run as the options say.
void check_relays(const Layout& layout, const Options& options);

// Values of sources in one tick.
template <class T>
struct Emission {
  int32_t channel, pixel;
  T value;
};

// What the relay computes of the values that its sources have in a tick, exactly.
void relay_tick(const Relay& relay, const std::vector<std::vector<Emission<float>>>& values,
                std::vector<Emission<float>>* emitted);

}  // namespace stmixer::events
