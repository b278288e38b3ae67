#include "events/clockless.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "events/arrivals.h"
#include "events/leak_factor.h"

namespace stmixer::events {
namespace {

// Further away, nothing comes.
constexpr double kFar = 4e18;

// How many thresholds fit into a membrane that is at least one, at most so many.
int spikes_of(float v, float threshold, int, int most) {
  if (most == 1) return 1;
  return static_cast<int>(std::min<double>(std::floor(double{v} / threshold), most));
}
int spikes_of(int64_t v, int64_t threshold, int fraction, int most) {
  if (most == 1) return 1;
  const int64_t half = fraction > 0 ? int64_t{1} << (fraction - 1) : 0;
  return static_cast<int>(
      std::min<int64_t>(((v + half) >> fraction) / ((threshold + half) >> fraction), most));
}

float lowered(float v, float reset, int spikes) {
  return spikes == 1 ? v - reset : static_cast<float>(v - double{reset} * spikes);
}
int64_t lowered(int64_t v, int64_t reset, int spikes) { return v - reset * spikes; }

}  // namespace

template <class T>
Clockless<T>::Clockless(const Model& model, const Wiring<T>& wiring)
    : Process(model), wiring_(&wiring) {
  int most = 1;
  for (const Neurons<T>& n : wiring.neurons) most = std::max(most, n.lanes);
  found_.resize(most);
}

template <class T>
void Clockless<T>::begin() {
  membranes_.clear();
  latches_.clear();
  for (const Relay& relay : model_->layout.relays) latches_.emplace_back(relay, options().latch_us);
  silent_until_.clear();
  crossing_.clear();
  sequence_ = 0;
  fresh_ = true;
  agenda_.begin(t0_, options().bias == Bias::tick ? options().step_us : 0);
  for (const Neurons<T>& n : wiring_->neurons) {
    membranes_.emplace_back(n, t0_);
    if (options().refractory_us > 0) silent_until_.emplace_back(n.size(), t0_);
    if (options().bias == Bias::current) crossing_.emplace_back(n.size(), kNever);
  }
  if (options().bias != Bias::current) return;
  for (size_t p = 0; p < membranes_.size(); ++p)
    for (int b = 0; b < membranes_[p].neurons.blocks; ++b)
      plan_crossings(static_cast<int>(p), b, t0_);
}

template <class T>
void Clockless<T>::run_until(int64_t t) {
  if (fresh_) {
    fresh_ = false;
    if (options().bias == Bias::initial) test_all(t0_);
  }
  while (!stopped_) {
    int64_t next = agenda_.next();
    if (has_open_round()) next = std::min(next, time_);
    if (next >= t) break;
    happen(next);
  }
}

template <class T>
void Clockless<T>::fire(int population, int64_t t, std::vector<Arrival>* fired) {
  Membranes<T>& m = membranes_[population];
  const Neurons<T>& n = m.neurons;
  const size_t begin = fired->size();
  const bool limited = std::isfinite(options().v_min) || std::isfinite(options().v_max);
  const T low = membrane_limit(options().v_min, std::numeric_limits<T>::lowest());
  const T high = membrane_limit(options().v_max, std::numeric_limits<T>::max());
  for (int i = 0; i < m.cells.touched_count; ++i) {
    const int block = m.cells.touched[i];
    if (limited) kernels().clamp(m.cells, block, low, high);
    if (m.cells.blocks[block].hot) {
      const int count = kernels().find(m.cells, block, found_.data());
      for (int l = 0; l < count; ++l) {
        Arrival spikes;
        if (emit(population, t, block, found_[l], &spikes)) fired->push_back(spikes);
      }
    }
    if (!crossing_.empty()) plan_crossings(population, block, t);
  }
  updates_[population] += m.visits();
  m.cells.touched_count = 0;
  if (fired->size() - begin > 1) std::sort(fired->begin() + begin, fired->end(), by_index);
  for (size_t i = begin; i < fired->size(); ++i) {
    const Arrival& spikes = (*fired)[i];
    count(population + 1, spikes, t);
    if (model_->delays.any()) post(population + 1, spikes, t);
    if (silent_until_.empty()) continue;
    const int block = n.block(spikes.channel, spikes.pixel);
    const int lane = n.lane(spikes.channel, spikes.pixel);
    agenda_.add_end({t + options().refractory_us, population, block, lane});
  }
}

template <class T>
bool Clockless<T>::emit(int population, int64_t t, int block, int lane, Arrival* spikes) {
  Membranes<T>& m = membranes_[population];
  const Neurons<T>& n = m.neurons;
  const int64_t at = int64_t{block} * n.lanes + lane;
  if (!silent_until_.empty()) {
    int64_t& until = silent_until_[population][at];
    if (t < until) return false;
    until = t + options().refractory_us;
  }
  const int64_t row = int64_t{block / n.blocks_per_row} * n.lanes + lane;
  T& v = m.cells.v[at];
  const int pixel = n.pixel(block, lane);
  const int count =
      affordable(population + 1, pixel, spikes_of(v, n.thresholds[row], n.fraction, n.max_spikes));
  v = n.resets.empty() ? T(0) : lowered(v, n.resets[row], count);
  *spikes = {n.channel(block, lane), pixel, count};
  return true;
}

template <class T>
void Clockless<T>::relay(int before, int64_t t, std::vector<std::vector<Arrival>>* emitted,
                         size_t* next) {
  const Layout& layout = model_->layout;
  for (; *next < latches_.size() && layout.relays[*next].after <= before; ++*next) {
    const int source = layout.first_relay() + static_cast<int>(*next);
    std::vector<Arrival>& spikes = (*emitted)[source];
    latches_[*next].pass(*emitted, t, &spikes);
    for (const Arrival& a : spikes) count(source, a, t);
  }
}

template <class T>
void Clockless<T>::post(int source, const Arrival& spikes, int64_t t) {
  const int64_t i = index(source, spikes);
  const int64_t first = counts_[source][i] - spikes.count;
  const auto& wires = model_->layout.wires;
  for (int n = 0; n < spikes.count; ++n, ++sequence_) {
    for (size_t w = 0; w < wires.size(); ++w) {
      const int wire = static_cast<int>(w);
      if (wires[w].source != source || !model_->delays.late(wire)) continue;
      if (model_->delays.lost(wire, i, first + n)) continue;
      agenda_.add({model_->delays.arrival(wire, i, first + n, t),
                   sequence_,
                   wire,
                   {spikes.channel, spikes.pixel, 1}});
    }
  }
}

template <class T>
std::vector<SelfEvent> Clockless<T>::take_self_events(int64_t t) {
  std::vector<SelfEvent> due = agenda_.take_ends(t);
  for (const SelfEvent& e : agenda_.take_crossings(t)) {
    int64_t& valid =
        crossing_[e.population][int64_t{e.block} * membranes_[e.population].neurons.lanes + e.lane];
    if (valid != t) continue;
    valid = kNever;
    due.push_back(e);
  }
  const auto place = [&](const SelfEvent& e) {
    const Neurons<T>& n = wiring_->neurons[e.population];
    return std::tuple(e.population, n.channel(e.block, e.lane), n.pixel(e.block, e.lane));
  };
  std::sort(due.begin(), due.end(),
            [&](const SelfEvent& a, const SelfEvent& b) { return place(a) < place(b); });
  return due;
}

// Lanes of a block that is at the present.
template <class T>
void Clockless<T>::plan_crossings(int population, int block, int64_t t) {
  if constexpr (std::is_same_v<T, float>) {
    const Membranes<float>& m = membranes_[population];
    if (m.neurons.drift_slope.empty()) return;
    for (int lane = 0; lane < m.neurons.lanes; ++lane) {
      int64_t& valid = crossing_[population][int64_t{block} * m.neurons.lanes + lane];
      // A neuron that may not be tested is visited when it may.
      const int64_t at = int64_t{block} * m.neurons.lanes + lane;
      const bool silent = !silent_until_.empty() && t < silent_until_[population][at];
      const int64_t next = silent ? kNever : crossing(m.cells, block, lane, t);
      if (next == valid) continue;
      valid = next;
      if (next != kNever) agenda_.add_crossing({next, population, block, lane});
    }
  }
}

// The first microsecond after t at which a constant current alone brings a neuron to its threshold.
template <class T>
int64_t Clockless<T>::crossing(const Cells<float>& cells, int block, int lane, int64_t t) const {
  const float v = cells.v[int64_t{block} * cells.lanes + lane];
  const float theta =
      cells.uniform ? cells.thresholds[0]
                    : cells.thresholds[int64_t{block / cells.blocks_per_row} * cells.lanes + lane];
  if (v >= theta) return kNever;
  const bool leaks = cells.leaks != nullptr;
  const float limit = leaks ? cells.drift.limit[lane] : 0.0f;
  const double slope = leaks ? 0.0 : cells.drift.slope[lane];
  if (leaks ? !(limit > theta) : !(slope > 0)) return kNever;
  const LeakTable* leak = leaks ? cells.leaks + lane * cells.leak_of_lane : nullptr;
  const auto reaches = [&](int64_t dt) {
    const float factor = leaks ? static_cast<float>(leak_factor(*leak, dt)) : 1.0f;
    return drifted(v, limit, slope, leaks, factor, dt) >= theta;
  };
  const double exact = leaks ? std::log((double{limit} - theta) / (double{limit} - v)) / leak->rate
                             : (double{theta} - v) / slope;
  if (!(exact < kFar)) return kNever;
  int64_t dt = std::max<int64_t>(static_cast<int64_t>(std::ceil(exact)), 1);
  while (dt > 1 && reaches(dt - 1)) --dt;
  for (int i = 0; i < 64 && !reaches(dt); ++i) ++dt;  // rounding of the membrane
  return t + dt;
}

template class Clockless<float>;
template class Clockless<int64_t>;

}  // namespace stmixer::events
