#include "events/agenda.h"

#include <algorithm>

namespace stmixer::events {
namespace {

// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Apart from each other, so that a spike that is lost says nothing of when others come.
constexpr uint64_t kDrop = 1, kJitter = 2;

double to_unit(uint64_t random) { return static_cast<double>(random >> 11) * 0x1p-53; }

}  // namespace

uint64_t hash(uint64_t seed, uint64_t a, uint64_t b, uint64_t c) {
  return mix(mix(mix(mix(seed) ^ a) ^ b) ^ c);
}

Delays::Delays(const Options& options, size_t wires)
    : delay_(wires, 0), jitter_(wires, 0), drop_(wires, 0), late_(wires, 0), seed_(options.seed) {
  if (!options.delay_us.empty()) delay_ = options.delay_us;
  if (!options.jitter_us.empty()) jitter_ = options.jitter_us;
  if (!options.drop.empty()) drop_ = options.drop;
  for (size_t w = 0; w < wires; ++w) {
    late_[w] = delay_[w] > 0 || jitter_[w] > 0;
    any_ |= late_[w] || drop_[w] > 0;
  }
}

bool Delays::lost(int wire, int64_t index, int64_t ordinal) const {
  return drop_[wire] > 0 && to_unit(hash(seed_ ^ kDrop, wire, index, ordinal)) < drop_[wire];
}

int64_t Delays::arrival(int wire, int64_t index, int64_t ordinal, int64_t t) const {
  t += delay_[wire];
  if (jitter_[wire] > 0)
    t += static_cast<int64_t>(hash(seed_ ^ kJitter, wire, index, ordinal) %
                              static_cast<uint64_t>(jitter_[wire] + 1));
  return t;
}

int64_t Agenda::next() const {
  int64_t t = next_tick();
  if (!ends_.empty()) t = std::min(t, ends_.front().t);
  if (!crossings_.empty()) t = std::min(t, crossings_.top().t);
  if (!deliveries_.empty()) t = std::min(t, deliveries_.top().t);
  return t;
}

std::vector<SelfEvent> Agenda::take_ends(int64_t t) {
  std::vector<SelfEvent> due;
  for (; !ends_.empty() && ends_.front().t == t; ends_.pop_front()) due.push_back(ends_.front());
  return due;
}

std::vector<SelfEvent> Agenda::take_crossings(int64_t t) {
  std::vector<SelfEvent> due;
  for (; !crossings_.empty() && crossings_.top().t == t; crossings_.pop())
    due.push_back(crossings_.top());
  return due;
}

std::vector<Delivery> Agenda::take_deliveries(int64_t t) {
  std::vector<Delivery> due;
  for (; has_delivery(t); deliveries_.pop()) due.push_back(deliveries_.top());
  return due;
}

bool Agenda::take_tick(int64_t t) {
  if (next_tick() != t) return false;
  ++ticks_;
  return true;
}

}  // namespace stmixer::events
