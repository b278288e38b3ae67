#include "events/wiring.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <tuple>

#include "graph/arithmetic.h"

namespace stmixer::events {
namespace {

using Kind = Projection::Kind;

constexpr auto fail = events_error;

// Fraction bits of integer membranes that several projections feed: their sums, multiplied but not
// yet shifted, so that any order of arrival gives the same.
constexpr int kStreamFraction = 32;

template <class T>
class NeuronMaker {
 public:
  NeuronMaker(const Layout& layout, const Options& options) : layout_(layout), options_(options) {}

  Neurons<T> make(int index) {
    Neurons<T> n;
    n.population = layout_.populations[index];
    const Population& p = *n.population;
    n.shape = p.shape;
    n.max_spikes = options_.multi_spike ? std::numeric_limits<int>::max() : p.max_spikes;
    collect_bias(index, &n);
    bool mixes = n.bias.empty();
    bool scaled = false;
    for (const Wire& wire : layout_.wires) {
      if (layout_.times(wire, index) == 0) continue;
      mixes &= wire.projection->kind == Kind::token_mix;
      scaled |= !wire.projection->multiplier.empty();
    }
    n.lanes_are = mixes ? Lanes::tokens : Lanes::channels;
    n.blocks = mixes ? p.shape.channels : p.shape.pixels();
    n.lanes = mixes ? p.shape.pixels() : p.shape.channels;
    n.fraction = scaled ? kStreamFraction : 0;
    for (T& b : n.bias) b = shifted(b, n.fraction);
    make_inlets(index, &n);
    make_thresholds(&n);
    make_leaks(&n);
    make_start(&n);
    n.masked |= options_.refractory_us > 0 || options_.bias == Bias::current;
    n.masked |= may_hold(n) && n.segments.size() > 1;
    if (options_.bias == Bias::tick)
      n.masked |= std::find(n.bias.begin(), n.bias.end(), T(0)) != n.bias.end();
    if (options_.bias == Bias::current) make_drift(&n);
    return n;
  }

 private:
  static T shifted(T value, int bits) {
    if constexpr (std::is_same_v<T, float>)
      return value;
    else
      return value * (int64_t{1} << bits);
  }

  // What one step adds: the biases of all currents that the population integrates.
  void collect_bias(int index, Neurons<T>* n) const {
    if (options_.bias == Bias::drop || options_.bias == Bias::refuse) return;
    const double scale = layout_.graph().integer ? 1.0 : n->population->input_scale;
    for (double b : layout_.bias(index)) n->bias.push_back(static_cast<T>(b * scale));
  }

  void make_inlets(int index, Neurons<T>* n) {
    for (int source = 0; source < layout_.sources(); ++source)
      for (size_t w = 0; w < layout_.wires.size(); ++w) {
        const Wire& wire = layout_.wires[w];
        const int times = layout_.times(wire, index);
        if (wire.source != source || times == 0) continue;
        auto rows = rows_of(static_cast<int>(w), *n, times);
        n->masked |= !rows->nonzero.empty();
        n->inlets.push_back({static_cast<int>(w), source, std::move(rows)});
      }
    find_segments(n);
  }

  // Between the lanes at which rows begin or end. Where there are too many, and where the lane of a
  // row depends on the spike, visits are told apart lane by lane.
  static void find_segments(Neurons<T>* n) {
    std::set<int> borders{0, n->lanes};
    for (const Inlet<T>& inlet : n->inlets) {
      n->masked |= inlet.rows->lane_step != 0;
      borders.insert(inlet.rows->lane);
      borders.insert(inlet.rows->lane + inlet.rows->length);
    }
    const std::vector<int> at(borders.begin(), borders.end());
    const int count = std::min(static_cast<int>(at.size()) - 1, kMostSegments);
    n->masked |= count < static_cast<int>(at.size()) - 1;
    for (int i = 0; i < count; ++i) {
      n->segments.push_back(at[i + 1] - at[i]);
      for (Inlet<T>& inlet : n->inlets)
        if (at[i] >= inlet.rows->lane && at[i + 1] <= inlet.rows->lane + inlet.rows->length)
          inlet.segments |= static_cast<uint16_t>(1u << i);
    }
  }

  // Whether a neuron can be at its threshold without being tested.
  bool may_hold(const Neurons<T>& n) const {
    return !n.resets.empty() || !n.start.empty() || options_.refractory_us > 0 ||
           options_.bias == Bias::current;
  }

  // Shared by the populations that feel the projection alike.
  std::shared_ptr<const Rows<T>> rows_of(int w, const Neurons<T>& n, int times) {
    const Wire& wire = layout_.wires[w];
    const double scale = layout_.graph().integer ? 1.0 : n.population->input_scale;
    auto& rows = made_[{w, scale * times, n.fraction, n.lanes_are}];
    if (rows == nullptr)
      rows = std::make_shared<Rows<T>>(
          make_rows(wire, n.lanes_are, values(wire, scale * times, n.fraction)));
    return rows;
  }

  std::vector<T> values(const Wire& wire, double scale, int fraction) const {
    if constexpr (std::is_same_v<T, float>) {
      std::vector<float> values = weights_of(wire);
      for (float& v : values) v = static_cast<float>(scale * v);
      return values;
    } else {
      const Projection& p = *wire.projection;
      std::vector<T> values(graph::weight_count(p));
      const int64_t unit = wire.source == kInputSource ? layout_.event_unit() : 1;
      const size_t per_output = values.size() / std::max(p.weight_shape[0], 1);
      for (size_t i = 0; i < values.size(); ++i) {
        const int64_t product = integer_weight(p, i) * unit * static_cast<int64_t>(scale);
        values[i] = p.multiplier.empty() ? product * (int64_t{1} << (p.shift + fraction))
                                         : product * p.multiplier[i / per_output] *
                                               (int64_t{1} << (fraction - p.shift));
      }
      return values;
    }
  }

  void make_thresholds(Neurons<T>* n) const {
    const Population& p = *n->population;
    const int channels = p.shape.channels;
    if constexpr (std::is_same_v<T, float>) {
      std::vector<float> theta = p.channel_threshold;
      if (theta.empty()) theta.assign(channels, p.threshold);
      for (float t : theta)
        if (!(t > 0)) fail(p.name, "threshold must be above v_reset, got " + std::to_string(t));
      fill(theta, n->lanes_are == Lanes::tokens ? 1 : n->blocks, n);
      if (p.soft_reset) n->resets = n->thresholds;
    } else {
      std::vector<int64_t> theta(p.integer_threshold.begin(), p.integer_threshold.end());
      std::vector<int64_t> resets(p.integer_reset.begin(), p.integer_reset.end());
      const int64_t half = n->fraction > 0 ? int64_t{1} << (n->fraction - 1) : 0;
      for (int64_t& t : theta) {
        if (t <= 0) fail(p.name, "threshold must be above v_reset, got " + std::to_string(t));
        t = shifted(t, n->fraction) - half;
      }
      for (int64_t& r : resets) r = shifted(r, n->fraction);
      const int rows = static_cast<int>(theta.size()) / n->lanes;
      if (rows * n->lanes != static_cast<int>(theta.size()) || (rows > 1 && n->blocks % rows != 0))
        fail(p.name, "mixes tokens and sums other currents in an int8 network");
      n->thresholds = theta;
      n->resets = resets;
      n->blocks_per_row = n->blocks / rows;
      n->uniform =
          std::adjacent_find(theta.begin(), theta.end(), std::not_equal_to<>()) == theta.end();
    }
    for (const T& t : n->thresholds) {
      if (!(options_.v_min < t)) fail(p.name, "v_min must be below the threshold");
      if (!(options_.v_max >= t)) fail(p.name, "v_max must not be below the threshold");
    }
  }

  // One number per channel as rows of lanes.
  static void fill(const std::vector<T>& by_channel, int blocks_per_row, Neurons<T>* n) {
    n->blocks_per_row = blocks_per_row;
    n->uniform = std::adjacent_find(by_channel.begin(), by_channel.end(), std::not_equal_to<>()) ==
                 by_channel.end();
    if (n->lanes_are == Lanes::channels) {
      n->thresholds = by_channel;
      return;
    }
    for (T value : by_channel) n->thresholds.insert(n->thresholds.end(), n->lanes, value);
  }

  std::vector<double> decays(const Population& p) const {
    std::vector<double> decays(p.channel_decay.begin(), p.channel_decay.end());
    if (layout_.graph().integer) {
      const double one = 1 << graph::kDecayBits;
      for (int32_t d : p.channel_integer_decay) decays.push_back(d / one);
      if (decays.empty()) decays.push_back(p.integer_decay / one);
    }
    if (decays.empty()) decays.push_back(p.decay);
    for (double& d : decays) d = decay_of(d, options_);
    return decays;
  }

  void make_leaks(Neurons<T>* n) const {
    const std::vector<double> all = decays(*n->population);
    if (std::all_of(all.begin(), all.end(), [](double d) { return d == 1; })) return;
    for (double decay : all) n->leaks.emplace_back(decay, static_cast<double>(options_.step_us));
  }

  void make_start(Neurons<T>* n) const {
    const Population& p = *n->population;
    if (layout_.graph().integer) {
      for (int32_t v : p.integer_v_init)
        n->start.push_back(shifted(static_cast<T>(v), n->fraction));
      n->start_by_token = n->lanes_are == Lanes::tokens;
      if (n->start_by_token) return;
    } else {
      n->start.assign(p.channel_v_init.begin(), p.channel_v_init.end());
      if (n->start.empty() && p.v_init != 0) n->start.assign(p.shape.channels, T(p.v_init));
    }
    if (options_.bias != Bias::initial || n->bias.empty()) return;
    n->start.resize(p.shape.channels, T(0));
    for (int c = 0; c < p.shape.channels; ++c)
      n->start[c] += static_cast<T>(n->bias[c] * static_cast<T>(layout_.graph().steps));
  }

  void make_drift(Neurons<T>* n) const {
    const std::vector<double> all = decays(*n->population);
    if (!n->bias.empty() && !n->leaks.empty() &&
        std::find(all.begin(), all.end(), 1.0) != all.end())
      fail(n->population->name,
           "some of its channels leak and some do not; bias 'current' needs all to be alike");
    for (size_t c = 0; c < n->bias.size(); ++c) {
      const double decay = all.size() > 1 ? all[c] : all[0], b = static_cast<double>(n->bias[c]);
      n->drift_limit.push_back(decay < 1 ? static_cast<float>(b / (1 - decay)) : 0.0f);
      n->drift_slope.push_back(b / static_cast<double>(options_.step_us));
    }
  }

  const Layout& layout_;
  const Options& options_;
  std::map<std::tuple<int, double, int, Lanes>, std::shared_ptr<const Rows<T>>> made_;
};

}  // namespace

template <class T>
Wiring<T>::Wiring(const Layout& layout, const Options& options) {
  NeuronMaker<T> maker(layout, options);
  targets.resize(layout.sources());
  for (size_t i = 0; i < layout.populations.size(); ++i) {
    neurons.push_back(maker.make(static_cast<int>(i)));
    for (const Inlet<T>& inlet : neurons.back().inlets) {
      std::vector<int>& heard = targets[inlet.source];
      if (heard.empty() || heard.back() != static_cast<int>(i))
        heard.push_back(static_cast<int>(i));
    }
  }
}

template struct Wiring<float>;
template struct Wiring<int64_t>;

}  // namespace stmixer::events
