#pragma once
// What is to happen later in one recording.
#include <cstdint>
#include <deque>
#include <limits>
#include <queue>
#include <vector>

#include "events/kernels.h"
#include "stmixer/events.h"

namespace stmixer::events {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

// A neuron that is tested without an arrival: its refractory time ends, or a constant current
// brings it to its threshold.
struct SelfEvent {
  int64_t t;
  int32_t population, block, lane;
};

struct Delivery {
  int64_t t, sequence;  // the sequence number is that of the spike
  int32_t wire;
  Arrival arrival;
};

// Reproducible random numbers in [0, 2^64) of a key.
uint64_t hash(uint64_t seed, uint64_t a, uint64_t b, uint64_t c);

// When the spikes of a projection arrive. Nothing is drawn but from the key (seed, wire, source
// neuron, ordinal of its spike), so that results depend on neither threads nor batch.
class Delays {
 public:
  Delays(const Options& options, size_t wires);

  bool late(int wire) const { return late_[wire]; }
  bool lossy(int wire) const { return drop_[wire] > 0; }
  bool any() const { return any_; }

  bool lost(int wire, int64_t index, int64_t ordinal) const;
  int64_t arrival(int wire, int64_t index, int64_t ordinal, int64_t t) const;

 private:
  std::vector<int64_t> delay_, jitter_;
  std::vector<double> drop_;
  std::vector<char> late_;
  uint64_t seed_;
  bool any_ = false;
};

class Agenda {
 public:
  void begin(int64_t t0, int64_t tick_us) {
    *this = Agenda{};
    t0_ = t0;
    tick_us_ = tick_us;
  }

  void add(const Delivery& delivery) { deliveries_.push(delivery); }
  // Refractory times are all equally long, so their ends come in order.
  void add_end(const SelfEvent& end) { ends_.push_back(end); }
  void add_crossing(const SelfEvent& crossing) { crossings_.push(crossing); }

  // The time of the next entry, or kNever.
  int64_t next() const;

  // What is due at t, which is next(). Ends and crossings by population and index are for the
  // caller to order.
  std::vector<SelfEvent> take_ends(int64_t t);
  std::vector<SelfEvent> take_crossings(int64_t t);
  std::vector<Delivery> take_deliveries(int64_t t);
  bool take_tick(int64_t t);
  bool has_delivery(int64_t t) const { return !deliveries_.empty() && deliveries_.top().t == t; }

 private:
  struct Later {
    bool operator()(const Delivery& a, const Delivery& b) const {
      if (a.t != b.t) return a.t > b.t;
      return a.sequence != b.sequence ? a.sequence > b.sequence : a.wire > b.wire;
    }
    bool operator()(const SelfEvent& a, const SelfEvent& b) const { return a.t > b.t; }
  };
  int64_t next_tick() const { return tick_us_ > 0 ? t0_ + ticks_ * tick_us_ : kNever; }

  int64_t t0_ = 0, tick_us_ = 0, ticks_ = 0;
  std::deque<SelfEvent> ends_;
  std::priority_queue<SelfEvent, std::vector<SelfEvent>, Later> crossings_;
  std::priority_queue<Delivery, std::vector<Delivery>, Later> deliveries_;
};

}  // namespace stmixer::events
