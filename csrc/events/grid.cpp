// Time-stepped, as the engine computes: in every tick the currents are summed from the spikes of
// the tick, then every neuron leaks, integrates and is tested, in topological order.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <type_traits>

#include "events/arrivals.h"
#include "events/grid.h"
#include "events/grid_network.h"
#include "events/relays.h"
#include "graph/arithmetic.h"

namespace stmixer::events {
namespace {

using graph::NodeRef;

int32_t scaled(int32_t sum, int32_t multiplier, int shift) {
  const int64_t half = shift > 0 ? int64_t{1} << (shift - 1) : 0;
  return static_cast<int32_t>((int64_t{sum} * multiplier + half) >> shift);
}

float leaked(float v, float decay) { return decay * v; }
int32_t leaked(int32_t v, int32_t decay) {
  const int64_t limited = std::clamp(v, -graph::kMembraneLimit, graph::kMembraneLimit);
  constexpr int bits = graph::kDecayBits;
  return static_cast<int32_t>((limited * decay + (1 << (bits - 1))) >> bits);
}

template <class T>
class Grid final : public Process {
 public:
  explicit Grid(const Model& model)
      : Process(model), network_(std::make_shared<GridNetwork<T>>(model)) {}

  std::unique_ptr<Process> clone() const override { return std::make_unique<Grid>(*this); }

  void finish() override {
    if (any_time_) run_until(tick_start((time_ - t0_) / options().step_us + 1));
  }

  void show(const Dense& input) override {
    const Shape& shape = this->input().shape;
    for (int step = 0; step < input.steps && !stopped_; ++step) {
      const float* x = input.data + step * input.step_stride;
      for (int c = 0; c < shape.channels; ++c)
        for (int pixel = 0; pixel < shape.pixels(); ++pixel)
          if (const T value = read(*x++); value != T(0))
            emitted_[kInputSource].push_back({c, pixel, value});
      close_tick();
      time_ = tick_start(tick_) - 1;
      any_time_ = true;
    }
  }

  std::vector<float> logits() const override {
    // What the engine would have averaged; not where spikes are on their way, or biases were.
    if (options().bias == Bias::initial || model_->delays.any()) return Process::logits();
    const bool total = options().readout == Readout::total;
    return model_->readout.logits_of(sums_, total ? layout().graph().steps : elapsed_steps());
  }

 protected:
  void begin() override;

  void arrive(const Arrival& event, int64_t t) override {
    pending_.push_back(event);
    count(kInputSource, event, t);
    if (model_->delays.any()) post(kInputSource, event, t);
  }

  void run_until(int64_t t) override {
    while (!stopped_ && tick_start(tick_ + 1) <= t) close_tick();
  }

  double elapsed_steps() const override { return static_cast<double>(tick_); }

 private:
  const Layout& layout() const { return model_->layout; }
  int64_t tick_start(int64_t tick) const { return t0_ + tick * options().step_us; }

  // A value of the input as the network takes it.
  T read(float x) const {
    if constexpr (std::is_same_v<T, float>) {
      return x;
    } else {
      const float unit = static_cast<float>(1 << layout().graph().input_shift);
      return static_cast<int32_t>(std::nearbyint(std::clamp(x * unit, -32768.0f, 32767.0f)));
    }
  }
  // What spikes of a source are worth.
  T worth(int source, int count) const {
    return source == kInputSource ? read(static_cast<float>(count)) : static_cast<T>(count);
  }

  void close_tick();
  void relay(size_t index);
  void sum(int current);
  void add_wire(int wire, std::vector<T>* to);
  void add_rows(const Rows<T>& rows, const std::vector<Emission<T>>& emitted, T* to) const;
  void fire(int population);
  void post(int source, const Arrival& spikes, int64_t t);

  std::shared_ptr<const GridNetwork<T>> network_;
  int64_t tick_ = 0;                               // those before it are closed
  std::vector<Arrival> pending_, fired_;           // of the open tick
  std::vector<std::vector<Emission<T>>> emitted_;  // [source], in this tick
  std::vector<std::vector<Emission<T>>> late_;     // [wire]: what arrives in this tick of before
  std::map<int64_t, std::vector<Delivery>> later_;
  std::vector<std::vector<T>> values_;  // [current][pixel][channel]
  std::vector<std::vector<T>> v_;       // [population][pixel][channel]
  std::vector<std::vector<int64_t>> silent_until_;
  std::vector<T> scratch_;
  std::vector<std::vector<double>> sums_;  // of currents before the mean, over time and positions
};

template <class T>
void Grid<T>::begin() {
  const graph::Graph& g = layout().graph();
  tick_ = 0;
  pending_.clear();
  later_.clear();
  values_.clear();
  sums_.assign(g.currents.size(), {});
  for (size_t c = 0; c < g.currents.size(); ++c) {
    const Shape& shape = g.currents[c].shape;
    const bool before = model_->readout.before(static_cast<int>(c));
    values_.emplace_back(size_t(shape.channels) * shape.pixels());
    if (before) sums_[c].assign(shape.channels, 0.0);
  }
  emitted_.assign(layout().sources(), {});
  late_.assign(layout().wires.size(), {});
  v_.clear();
  silent_until_.clear();
  for (size_t p = 0; p < network_->populations.size(); ++p) {
    const Shape& shape = layout().populations[p]->shape;
    const Parameters<T>& n = network_->populations[p];
    v_.emplace_back();
    for (int pixel = 0; pixel < shape.pixels(); ++pixel)
      for (int c = 0; c < shape.channels; ++c)
        v_.back().push_back(n.start[n.at(c, pixel, shape.pixels())] +
                            (n.start_bias.empty() ? T(0) : n.start_bias[c]));
    if (options().refractory_us > 0) silent_until_.emplace_back(v_.back().size(), t0_);
  }
}

template <class T>
void Grid<T>::close_tick() {
  sort_and_merge(&pending_);
  for (const Arrival& a : pending_)
    emitted_[kInputSource].push_back({a.channel, a.pixel, worth(kInputSource, a.count)});
  pending_.clear();
  if (const auto due = later_.find(tick_); due != later_.end()) {
    for (const Delivery& d : due->second)
      late_[d.wire].push_back(
          {d.arrival.channel, d.arrival.pixel, worth(layout().wires[d.wire].source, 1)});
    later_.erase(due);
  }
  size_t next_relay = 0;
  for (const NodeRef& node : layout().checked->order) {
    if (node.is(NodeRef::Kind::current)) {
      while (next_relay < layout().relays.size() &&
             layout().relays[next_relay].current == node.index)
        relay(next_relay++);
      sum(node.index);
    } else if (network_->number[node.index] >= 0)
      fire(network_->number[node.index]);
  }
  for (auto& list : emitted_) list.clear();
  for (auto& list : late_) list.clear();
  ++tick_;
  note_moment(tick_start(tick_));
}

template <class T>
void Grid<T>::relay(size_t index) {
  if constexpr (std::is_same_v<T, float>) {  // an int8 network has none
    const int source = layout().first_relay() + static_cast<int>(index);
    relay_tick(layout().relays[index], emitted_, &emitted_[source]);
    for (const Emission<T>& e : emitted_[source])
      if (e.value > 0 && e.value == std::floor(e.value))  // made of spikes, not of real input
        count(source, {e.channel, e.pixel, static_cast<int32_t>(e.value)}, tick_start(tick_));
  }
}

template <class T>
void Grid<T>::sum(int current) {
  const Current& c = layout().graph().currents[current];
  if (model_->readout.behind(current)) return;
  std::vector<T>& values = values_[current];
  std::fill(values.begin(), values.end(), T(0));
  if (options().bias == Bias::tick) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (!c.bias.empty()) values[i] += static_cast<T>(c.bias[i % c.bias.size()]);
      if (!c.integer_bias.empty())
        values[i] += static_cast<T>(c.integer_bias[i % c.integer_bias.size()]);
    }
  }
  for (const std::string& name : c.currents) {
    const std::vector<T>& other = values_[layout().checked->find(name).index];
    for (size_t i = 0; i < values.size(); ++i) values[i] += other[i];
  }
  for (size_t w = 0; w < layout().wires.size(); ++w)
    if (layout().wires[w].current == current) add_wire(static_cast<int>(w), &values);
  std::vector<double>& sums = sums_[current];
  if (!sums.empty())
    for (size_t i = 0; i < values.size(); ++i) sums[i % sums.size()] += values[i];
}

template <class T>
void Grid<T>::add_wire(int wire, std::vector<T>* to) {
  const Wire& w = layout().wires[wire];
  const auto& emitted =
      model_->delays.late(wire) || model_->delays.lossy(wire) ? late_[wire] : emitted_[w.source];
  if (emitted.empty()) return;
  if constexpr (std::is_same_v<T, float>) {
    add_rows(network_->rows[wire], emitted, to->data());
  } else {
    // Sums are rounded once a tick and projection, as the engine does.
    const Projection& p = *w.projection;
    scratch_.assign(to->size(), 0);
    add_rows(network_->rows[wire], emitted, scratch_.data());
    const int channels = w.out.channels;
    for (size_t i = 0; i < scratch_.size(); ++i) {
      const int channel = static_cast<int>(i % channels) - p.channel_offset;
      if (p.multiplier.empty())
        (*to)[i] += scratch_[i] * (1 << p.shift);
      else if (channel >= 0 && channel < static_cast<int>(p.multiplier.size()))
        (*to)[i] += scaled(scratch_[i], p.multiplier[channel], p.shift);
    }
  }
}

template <class T>
void Grid<T>::add_rows(const Rows<T>& rows, const std::vector<Emission<T>>& emitted, T* to) const {
  const int channels = rows.lanes;
  for (const Emission<T>& e : emitted) {
    const T* group = rows.weights.data() + (e.channel / rows.group) * rows.group_weights;
    const int lane = rows.lane + e.channel * rows.lane_step;
    for (int t = rows.first[e.pixel]; t < rows.first[e.pixel + 1]; ++t) {
      const Touch& touch = rows.touches[t];
      const T* w = group + touch.weights;
      for (int b = 0; b < touch.blocks; ++b, w += rows.length) {
        T* v = to + int64_t{touch.block + b} * channels + lane;
        for (int i = 0; i < rows.length; ++i) v[i] += e.value * w[i];
      }
    }
  }
}

template <class T>
void Grid<T>::fire(int population) {
  const Population& p = *layout().populations[population];
  const Parameters<T>& n = network_->populations[population];
  const int channels = p.shape.channels, pixels = p.shape.pixels();
  const std::vector<T>& x = values_[layout().checked->find(p.current).index];
  const int64_t now = tick_start(tick_);
  const int most = options().multi_spike ? std::numeric_limits<int>::max() : p.max_spikes;
  const T low = membrane_limit(options().v_min, std::numeric_limits<T>::lowest());
  const T high = membrane_limit(options().v_max, std::numeric_limits<T>::max());
  fired_.clear();
  for (int pixel = 0; pixel < pixels; ++pixel) {
    for (int c = 0; c < channels; ++c) {
      const size_t i = size_t(pixel) * channels + c, k = n.at(c, pixel, pixels);
      T& v = v_[population][i];
      if constexpr (std::is_same_v<T, float>)
        v = leaked(v, n.decay[k]) + n.scale * x[i];
      else
        v = leaked(v, n.decay[k]) + x[i];
      v = std::clamp(v, low, high);
      if (!(v >= n.threshold[k])) continue;
      if (!silent_until_.empty()) {
        if (now < silent_until_[population][i]) continue;
        silent_until_[population][i] = now + options().refractory_us;
      }
      int count = 1;
      if (most > 1) {
        const double fits = std::floor(static_cast<double>(v) / n.threshold[k]);
        count = affordable(population + 1, pixel, static_cast<int>(std::min<double>(fits, most)));
      }
      v = n.reset.empty() ? T(0) : static_cast<T>(v - static_cast<double>(n.reset[k]) * count);
      fired_.push_back({c, pixel, count});
    }
  }
  updates_[population] += int64_t{channels} * pixels;
  std::sort(fired_.begin(), fired_.end(), by_index);
  for (const Arrival& a : fired_) {
    count(population + 1, a, now);
    emitted_[population + 1].push_back({a.channel, a.pixel, static_cast<T>(a.count)});
    if (model_->delays.any()) post(population + 1, a, now);
  }
}

// Sends spikes by the projections that are late or lose some.
template <class T>
void Grid<T>::post(int source, const Arrival& spikes, int64_t t) {
  const int64_t i = int64_t{spikes.channel} * layout().shape(source).pixels() + spikes.pixel;
  const int64_t first = counts_[source][i] - spikes.count;
  for (size_t w = 0; w < layout().wires.size(); ++w) {
    const int wire = static_cast<int>(w);
    if (layout().wires[w].source != source) continue;
    if (!model_->delays.late(wire) && !model_->delays.lossy(wire)) continue;
    for (int n = 0; n < spikes.count; ++n) {
      if (model_->delays.lost(wire, i, first + n)) continue;
      const int64_t tick =
          (model_->delays.arrival(wire, i, first + n, t) - t0_) / options().step_us;
      if (tick > tick_ || source == kInputSource)
        later_[tick].push_back({tick, 0, wire, {spikes.channel, spikes.pixel, 1}});
      else
        late_[wire].push_back({spikes.channel, spikes.pixel, worth(source, 1)});
    }
  }
}

}  // namespace

std::unique_ptr<Process> make_grid(const Model& model) {
  if (model.layout.graph().integer) return std::make_unique<Grid<int32_t>>(model);
  return std::make_unique<Grid<float>>(model);
}

}  // namespace stmixer::events
