#include "engine/limits.h"

#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>

#include "common/rounding.h"
#include "engine/integer_kernels.h"
#include "engine/kernels.h"
#include "graph/kinds.h"

namespace stmixer::engine {
namespace {

using Kind = Projection::Kind;

constexpr auto fail = engine_error;

// Keys of spike lists are 16 bits wide.
constexpr int kMaxExtent = 4096;
constexpr int kMaxChannels = 1 << 16;

// Neurons count with the channels that fill up units.
constexpr int64_t kMaxNeurons = 1 << 25;     // of a node
constexpr int64_t kMaxAllNeurons = 1 << 27;  // of all nodes

constexpr int64_t kMaxPadding = 1 << 24;  // weights beyond a multiple of those given
constexpr int kMaxSteps = 4096;

// Returns how many neurons the node counts as.
int64_t check_shape(const std::string& node, const Shape& s) {
  const auto neurons = static_cast<int64_t>(round_up(s.channels, kUnit)) * s.pixels();
  if (s.channels > kMaxChannels || s.height > kMaxExtent || s.width > kMaxExtent ||
      neurons > kMaxNeurons)
    fail(node, "shape " + text(s) + " is larger than the engine takes");
  return neurons;
}

void check_shapes(const Graph& graph) {
  int64_t neurons = 0;
  for (const Population& p : graph.populations) neurons += check_shape(p.name, p.shape);
  for (const Current& c : graph.currents) neurons += check_shape(c.name, c.shape);
  if (neurons > kMaxAllNeurons)
    throw std::invalid_argument("engine: the graph has " + std::to_string(neurons) +
                                " neurons, more than the engine takes");
}

// Kinds of nodes that the format has and the kernels do not compute: the first node of each.
void check_kinds(const Graph& graph) {
  std::string refused;
  std::set<std::string> seen;
  const auto refuse = [&](const std::string& node, const char* kind) {
    if (seen.insert(kind).second)
      refused += (refused.empty() ? "'" : ", '") + node + "' (" + kind + ")";
  };
  for (const Population& p : graph.populations)
    if (p.kind == Population::Kind::graded) refuse(p.name, "graded values");
  for (const Current& c : graph.currents)
    for (const Projection& p : c.projections)
      if (!graph::has_weight(p.kind) && p.kind != Kind::mean)
        refuse(p.name, graph::kind_name(p.kind));
  if (!refused.empty())
    throw std::invalid_argument("engine: the time-stepped engine cannot express " + refused);
}

// What the format can say of neurons and the kernels do not compute.
void check_neurons(const Population& p) {
  if (p.max_spikes > 1)
    fail(p.name, "max_spikes is " + std::to_string(p.max_spikes) +
                     ", but the time-stepped engine gives one spike a step at most");
  if (!p.channel_integer_decay.empty())
    fail(p.name, "decay must be one number for all channels in an int8 network");
  if (!p.integer_v_init.empty()) fail(p.name, "v_init must be 0 in an int8 network");
}

void check_extents(const Projection& p) {
  if (p.kind != Kind::conv) return;
  for (int size : {p.weight_shape[2], p.weight_shape[3], p.stride, p.padding})
    if (size > kMaxExtent)
      fail(p.name, "kernel, stride and padding must be at most " + std::to_string(kMaxExtent) +
                       ", got " + std::to_string(size));
}

// Kernels compute whole tiles, so a network of many narrow layers is mostly padding.
void check_padding(const Graph& graph) {
  int64_t given = 0, padded = 0;
  for (const Current& c : graph.currents) {
    for (const Projection& p : c.projections) {
      check_extents(p);
      if (p.kind == Kind::mean) continue;
      const int* shape = p.weight_shape.data() + (p.kind == Kind::token_mix);
      const auto weights = static_cast<int64_t>(weight_count(p));
      const int64_t tiles = weights / (int64_t{shape[0]} * shape[1]);
      given += weights;
      padded += tiles * round_up(shape[0], kIntegerTile) * round_up(shape[1], 8);
      if (padded > 8 * given + kMaxPadding)
        fail(p.name, "takes memory for " + std::to_string(padded) + " weights where " +
                         std::to_string(given) + " are given: its layers are too narrow");
    }
  }
}

}  // namespace

void check_limits(const graph::CheckedGraph& graph) {
  if (graph.graph->steps > kMaxSteps)
    throw std::invalid_argument("engine: 'steps' must lie in [1, " + std::to_string(kMaxSteps) +
                                "], got " + std::to_string(graph.graph->steps));
  check_kinds(*graph.graph);
  check_shapes(*graph.graph);
  for (const Population& p : graph.graph->populations) check_neurons(p);
  check_padding(*graph.graph);
}

void engine_error(const std::string& node, const std::string& what) {
  throw std::invalid_argument("engine: '" + node + "': " + what);
}

}  // namespace stmixer::engine
