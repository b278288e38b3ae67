#pragma once
// What a checked graph says to the simulator, whatever the numbers: who emits, and who hears whom.
#include <string>
#include <vector>

#include "graph/check.h"

namespace stmixer::events {

using graph::CheckedGraph;
using graph::Current;
using graph::Population;
using graph::Projection;
using graph::Shape;

// Sources of spikes: 0 is the input, i + 1 population i; relays come behind the populations.
constexpr int kInputSource = 0;

// A source as a part of what a projection reads: its first channel there, and what its spikes are
// worth. A graded population has several: it emits spikes of others.
struct Tap {
  int source;
  int channel = 0;
  float factor = 1.0f;
};

// A pool or a spike product: no neuron, but a source of spikes that it makes of others' at once.
// What one is worth (1 / kernel^2, scale) is for the wires behind it.
struct Relay {
  const Projection* projection;
  std::vector<std::vector<Tap>> operands;  // of a product: query, key, value
  std::vector<Shape> in;                   // of the operands
  Shape out;                               // of its spikes
  int current;                             // that it writes to
  int after;                               // how many populations come before it
  int owner;  // the source whose row of the statistics has what its spikes cost
};

// A projection that reads a source, and what it drives. Without a weight it adds what spikes are
// worth in their own channel.
struct Wire {
  const Projection* projection;
  Shape in, out;  // of what it reads of its source, and of the current that owns it
  int source;
  int current;
  int channel;   // of the source's first channel among those that the projection reads
  int offset;    // the first channel of the current that it writes
  float factor;  // what a spike is worth
};

// Populations in topological order, wires in the order of the projections in the graph, and how
// often each current is part of what each population integrates.
struct Layout {
  // Throws std::invalid_argument, naming the node, for what cannot be simulated.
  explicit Layout(const CheckedGraph& checked);

  const CheckedGraph* checked;
  const Population* input = nullptr;
  const Population* readout = nullptr;
  std::vector<const Population*> populations;
  std::vector<Relay> relays;
  std::vector<Wire> wires;
  std::vector<std::vector<int>> parts;  // [population][current]: how often

  const graph::Graph& graph() const { return *checked->graph; }
  int sources() const { return static_cast<int>(1 + populations.size() + relays.size()); }
  const Shape& shape(int source) const;
  bool is_population(int source) const {
    return source > 0 && source <= static_cast<int>(populations.size());
  }
  int first_relay() const { return static_cast<int>(1 + populations.size()); }
  // How often a wire reaches a population.
  int times(const Wire& wire, int population) const { return parts[population][wire.current]; }
  // Per channel, the biases of all currents that a population integrates, each as often as it does;
  // empty if none of them has one.
  std::vector<double> bias(int population) const;
  // What an event is worth to an int8 network, whose input saturates at 16 bits.
  int64_t event_unit() const;
};

// The weights of a wire, in the order of its projection but only for the channels of its source,
// times what spikes are worth; without a weight one number.
std::vector<float> weights_of(const Wire& wire);

// A weight of an int8 network.
int32_t integer_weight(const Projection& p, size_t i);

// For each position of its source, how many weights a spike there adds.
std::vector<int64_t> fan_out(const Wire& wire);

[[noreturn]] void events_error(const std::string& node, const std::string& what);

}  // namespace stmixer::events
