#include "events/layout.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <unordered_map>

#include "graph/fan_out.h"
#include "graph/kinds.h"

namespace stmixer::events {
namespace {

using Kind = Projection::Kind;
using graph::NodeRef;

constexpr auto fail = events_error;

// A current may be part of another by several ways, and a graded population emit the spikes of
// several sources; more are a mistake.
constexpr int kMostWays = 1 << 10;

bool is_relay(const Projection& p) {
  return graph::is_pool(p.kind) || p.kind == Kind::spike_product;
}

// What the spikes of a relay, which are whole numbers, are worth.
float worth(const Projection& p) {
  if (p.kind == Kind::spike_product) return p.scale;
  return p.kind == Kind::avg_pool ? 1.0f / (float(p.kernel) * float(p.kernel)) : 1.0f;
}

// Finds out whose spikes arrive where no weight changes them.
class Tapper {
 public:
  explicit Tapper(Layout* layout)
      : layout_(*layout),
        graph_(layout->graph()),
        populations_(graph_.populations.size()),
        currents_(graph_.currents.size()) {}

  void run() {
    number_populations();
    int before = 0;
    for (const NodeRef& node : layout_.checked->order) {
      if (node.is(NodeRef::Kind::current)) {
        tap_current(node.index, before);
        continue;
      }
      const Population& p = graph_.populations[node.index];
      before += p.kind == Population::Kind::lif;
      if (p.kind != Population::Kind::graded) continue;
      const Spikes& spikes = currents_[layout_.checked->find(p.current).index];
      if (!spikes.obstacle.empty())
        fail(p.name, "emits what is no sum of spikes: " + spikes.obstacle);
      populations_[node.index] = spikes.taps;
    }
    for (size_t c = 0; c < graph_.currents.size(); ++c) wire(static_cast<int>(c));
  }

 private:
  // What a current sums, as spikes of sources; or why it cannot be expressed so.
  struct Spikes {
    std::vector<Tap> taps;
    std::string obstacle;
  };

  void number_populations() {
    for (size_t i = 0; i < graph_.populations.size(); ++i) {
      const Population& p = graph_.populations[i];
      if (p.kind == Population::Kind::readout) layout_.readout = &p;
      if (p.kind != Population::Kind::input) continue;
      layout_.input = &p;
      populations_[i] = {{kInputSource}};
    }
    for (const NodeRef& node : layout_.checked->order) {
      if (!node.is(NodeRef::Kind::population)) continue;
      const Population& p = graph_.populations[node.index];
      if (p.kind != Population::Kind::lif) continue;
      layout_.populations.push_back(&p);
      populations_[node.index] = {{static_cast<int>(layout_.populations.size())}};
    }
  }

  const std::vector<Tap>& taps_of(const std::string& population) const {
    return populations_[layout_.checked->find(population).index];
  }

  void tap_current(int index, int before) {
    const Current& c = graph_.currents[index];
    Spikes& spikes = currents_[index];
    const auto is_zero = [](float b) { return b == 0; };
    if (!std::all_of(c.bias.begin(), c.bias.end(), is_zero))
      spikes.obstacle = c.name + " has a bias";
    for (const Projection& p : c.projections) {
      const NodeRef& source = layout_.checked->find(p.source);
      const bool reads_spikes = source.is(NodeRef::Kind::population);
      if (is_relay(p)) {
        if (!reads_spikes) fail(p.name, "reads values of '" + p.source + "', not spikes");
        add_relay(p, index, before);
        add_tap({relay_of_.at(&p), p.channel_offset, worth(p)}, &spikes);
      } else if (p.kind == Kind::identity && reads_spikes) {
        for (Tap tap : taps_of(p.source)) {
          tap.channel += p.channel_offset;
          add_tap(tap, &spikes);
        }
      } else {
        spikes.obstacle = p.name + " weighs or averages them";
      }
    }
    for (const std::string& name : c.currents) {
      const Spikes& other = currents_[layout_.checked->find(name).index];
      for (const Tap& tap : other.taps) add_tap(tap, &spikes);
      if (!other.obstacle.empty()) spikes.obstacle = other.obstacle;
      if (spikes.taps.size() > size_t{kMostWays}) spikes.obstacle = c.name + " sums too many";
      if (!spikes.obstacle.empty()) spikes.taps.clear();
    }
  }

  // A source that is summed twice is worth twice.
  static void add_tap(const Tap& tap, Spikes* spikes) {
    for (Tap& known : spikes->taps) {
      if (known.source != tap.source || known.channel != tap.channel) continue;
      known.factor += tap.factor;
      return;
    }
    spikes->taps.push_back(tap);
  }

  void add_relay(const Projection& p, int current, int before) {
    Relay relay{&p, {}, {}, graph_.currents[current].shape, current, before, 0};
    for (const std::string& name : graph::sources(p)) {
      relay.operands.push_back(taps_of(name));
      relay.in.push_back(layout_.checked->shape(layout_.checked->find(name)));
      for (const Tap& tap : relay.operands.back())
        if (tap.factor != 1.0f)
          fail(p.name, "reads '" + name + "', whose spikes are not worth 1 each");
    }
    relay.out.channels = relay.in.back().channels;
    const int first = relay.operands.back().empty() ? 0 : relay.operands.back()[0].source;
    relay.owner =
        first < layout_.first_relay() ? first : layout_.relays[first - layout_.first_relay()].owner;
    relay_of_[&p] = layout_.sources();
    layout_.relays.push_back(std::move(relay));
  }

  void wire(int index) {
    const Current& c = graph_.currents[index];
    for (const Projection& p : c.projections) {
      const NodeRef& source = layout_.checked->find(p.source);
      if (!source.is(NodeRef::Kind::population) || p.kind == Kind::mean) continue;
      if (const auto relay = relay_of_.find(&p); relay != relay_of_.end()) {
        layout_.wires.push_back({&p, layout_.shape(relay->second), c.shape, relay->second, index, 0,
                                 p.channel_offset, worth(p)});
        continue;
      }
      for (const Tap& tap : taps_of(p.source)) {
        Shape in = layout_.checked->shape(source);
        const int channels = layout_.shape(tap.source).channels;
        if (p.kind == Kind::token_mix && channels != in.channels)
          fail(p.name, "mixes tokens of graded values that several populations make up");
        in.channels = channels;
        const int offset = p.channel_offset + (p.kind == Kind::identity ? tap.channel : 0);
        layout_.wires.push_back(
            {&p, in, c.shape, tap.source, index, tap.channel, offset, tap.factor});
      }
    }
  }

  Layout& layout_;
  const graph::Graph& graph_;
  std::vector<std::vector<Tap>> populations_;
  std::vector<Spikes> currents_;
  std::unordered_map<const Projection*, int> relay_of_;  // the number of the source
};

}  // namespace

Layout::Layout(const CheckedGraph& checked) : checked(&checked) {
  Tapper(this).run();
  const graph::Graph& g = graph();
  for (const Population* p : populations) {
    std::vector<int> times(g.currents.size(), 0);
    times[checked.find(p->current).index] = 1;
    for (auto node = checked.order.rbegin(); node != checked.order.rend(); ++node) {
      if (!node->is(NodeRef::Kind::current) || times[node->index] == 0) continue;
      const Current& c = g.currents[node->index];
      if (times[node->index] > kMostWays)
        fail(c.name, "is part of what '" + p->name + "' integrates in too many ways");
      for (const std::string& name : c.currents)
        times[checked.find(name).index] += times[node->index];
      for (const Projection& projection : c.projections)
        if (projection.kind == Kind::mean ||
            checked.find(projection.source).is(NodeRef::Kind::current))
          fail(projection.name, "reads values, not spikes, and drives '" + p->name +
                                    "': without a clock there are only spikes");
    }
    parts.push_back(std::move(times));
  }
}

const Shape& Layout::shape(int source) const {
  if (source == kInputSource) return input->shape;
  return is_population(source) ? populations[source - 1]->shape
                               : relays[source - first_relay()].out;
}

std::vector<double> Layout::bias(int population) const {
  std::vector<double> sum;
  const auto add = [&](const auto& bias, int times) {
    if (bias.empty()) return;
    sum.resize(bias.size(), 0.0);
    for (size_t i = 0; i < bias.size(); ++i) sum[i] += double(bias[i]) * times;
  };
  for (size_t c = 0; c < graph().currents.size(); ++c) {
    const int times = parts[population][c];
    if (times == 0) continue;
    add(graph().currents[c].bias, times);
    add(graph().currents[c].integer_bias, times);
  }
  return sum;
}

int64_t Layout::event_unit() const {
  return std::min<int64_t>(int64_t{1} << graph().input_shift, std::numeric_limits<int16_t>::max());
}

int32_t integer_weight(const Projection& p, size_t i) {
  return p.weight8.empty() ? p.weight16.data()[i] : p.weight8.data()[i];
}

std::vector<float> weights_of(const Wire& wire) {
  const Projection& p = *wire.projection;
  if (!graph::has_weight(p.kind)) return {wire.factor};
  const bool sliced = p.kind != Kind::token_mix;
  const size_t rows = sliced ? p.weight_shape[0] : 1;
  const size_t columns = sliced ? p.weight_shape[1] : 1;
  const size_t each = p.weight.size() / (rows * columns);
  const size_t first = sliced ? wire.channel * each : 0,
               count = sliced ? wire.in.channels * each : each;
  std::vector<float> weights;
  for (size_t row = 0; row < rows; ++row)
    for (size_t i = first; i < first + count; ++i)
      weights.push_back(p.weight.data()[row * columns * each + i] * wire.factor);
  return weights;
}

std::vector<int64_t> fan_out(const Wire& wire) {
  const Projection& p = *wire.projection;
  if (is_relay(p))  // which has done its part: what is left is to add what its spikes are worth
    return std::vector<int64_t>(wire.in.pixels(), p.kind != Kind::max_pool);
  return graph::fan_out(p, wire.in, wire.out);
}

void events_error(const std::string& node, const std::string& what) {
  throw std::invalid_argument("events: '" + node + "': " + what);
}

}  // namespace stmixer::events
