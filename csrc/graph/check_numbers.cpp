#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "graph/arithmetic.h"
#include "graph/check.h"
#include "graph/kinds.h"

namespace stmixer::graph {
namespace {

using Kind = Projection::Kind;

constexpr auto fail = graph_error;

void check_size(const std::string& node, const std::string& what, size_t size, size_t expected) {
  if (size != expected)
    fail(node,
         what + " must hold " + std::to_string(expected) + " values, got " + std::to_string(size));
}

[[noreturn]] void fail_graph(const std::string& what) {
  throw std::invalid_argument("graph: " + what);
}

template <class T>
void check_range(const std::string& node, const std::string& what, const std::vector<T>& values,
                 int64_t low, int64_t high) {
  for (int64_t v : values)
    if (v < low || v > high)
      fail(node, what + " must lie in [" + std::to_string(low) + ", " + std::to_string(high) +
                     "], got " + std::to_string(v));
}

template <class Floats>
void check_floats(const std::string& node, const std::string& what, const Floats& values,
                  size_t expected) {
  check_size(node, what, values.size(), expected);
  bool finite = true;  // no early end, so that the loop can be vectorised
  for (float v : values) finite &= std::isfinite(v);
  if (!finite) fail(node, what + " holds a value that is not finite");
}

class NumberChecker {
 public:
  explicit NumberChecker(const CheckedGraph& graph) : graph_(graph) {}

  // What real numbers become the input, and how long a step is.
  void check_input() const {
    const Graph& g = *graph_.graph;
    if (g.step_us < 0) fail_graph("'step_us' must be positive, got " + std::to_string(g.step_us));
    if (g.mean.empty() && g.std.empty()) return;
    for (const Population& p : g.populations) {
      if (p.kind != Population::Kind::input) continue;
      check_floats(p.name, "mean", g.mean, p.shape.channels);
      check_floats(p.name, "std", g.std, p.shape.channels);
    }
    for (float s : g.std)
      if (!(s > 0)) fail_graph("'std' must be positive, got " + std::to_string(s));
  }

  void check_spikes() const {
    for (const Population& p : graph_.graph->populations)
      if (p.max_spikes < 1)
        fail(p.name, "max_spikes must be at least 1, got " + std::to_string(p.max_spikes));
  }

  void check_float() const {
    for (const Population& p : graph_.graph->populations)
      if (p.kind == Population::Kind::lif) check_neurons(p);
    for (const Current& c : graph_.graph->currents) {
      if (!c.bias.empty()) check_floats(c.name, "bias", c.bias, c.shape.channels);
      for (const Projection& p : c.projections)
        check_floats(p.name, "weight", p.weight, weight_count(p));
    }
  }

  void check_integer() const {
    if (graph_.graph->input_shift < 0 || graph_.graph->input_shift > 24)
      fail("input", "input_shift must lie in [0, 24]");
    for (const Population& p : graph_.graph->populations) {
      if (p.kind == Population::Kind::graded)
        fail(p.name, "an int8 network has no graded population");
      if (p.kind == Population::Kind::lif) check_integer_neurons(p);
      if (p.kind != Population::Kind::readout) continue;
      check_floats(p.name, "scale", p.scale, p.shape.channels);
      check_floats(p.name, "bias", p.bias, p.shape.channels);
    }
    for (const Current& c : graph_.graph->currents) {
      if (!c.integer_bias.empty()) {
        check_size(c.name, "bias", c.integer_bias.size(), c.shape.channels);
        check_range(c.name, "bias", c.integer_bias, -kMembraneLimit, kMembraneLimit);
      }
      for (const Projection& p : c.projections) check_integer_projection(p);
    }
  }

 private:
  static void check_neurons(const Population& p) {
    const auto check_channels = [&](const char* what, const std::vector<float>& values) {
      if (!values.empty()) check_floats(p.name, what, values, p.shape.channels);
    };
    check_channels("threshold", p.channel_threshold);
    check_channels("decay", p.channel_decay);
    check_channels("v_init", p.channel_v_init);
    const auto leaks = [](float decay) { return decay >= 0.0f && decay <= 1.0f; };
    if (!leaks(p.decay) || !std::all_of(p.channel_decay.begin(), p.channel_decay.end(), leaks))
      fail(p.name, "decay must lie in [0, 1]");
    for (float v : {p.threshold, p.input_scale, p.v_init})
      if (!std::isfinite(v)) fail(p.name, "the parameters of the neuron must be finite");
  }

  void check_integer_neurons(const Population& p) const {
    const Current& c = graph_.graph->currents[graph_.find(p.current).index];
    size_t expected = p.shape.channels;
    if (!c.projections.empty() && c.projections[0].kind == Kind::token_mix)
      expected = size_t(c.projections[0].weight_shape[0]) * p.shape.pixels();
    check_size(p.name, "threshold", p.integer_threshold.size(), expected);
    check_range(p.name, "threshold", p.integer_threshold, -kMembraneLimit,
                std::numeric_limits<int32_t>::max());
    if (p.integer_decay < 0 || p.integer_decay > 1 << kDecayBits)
      fail(p.name, "decay must lie in [0, 2^15]");
    if (!p.channel_integer_decay.empty()) {
      check_size(p.name, "decay", p.channel_integer_decay.size(), expected);
      check_range(p.name, "decay", p.channel_integer_decay, 0, 1 << kDecayBits);
    }
    if (!p.integer_v_init.empty()) {
      check_size(p.name, "v_init", p.integer_v_init.size(), expected);
      check_range(p.name, "v_init", p.integer_v_init, -kMembraneLimit, kMembraneLimit);
    }
    if (!p.soft_reset) return;
    check_size(p.name, "reset", p.integer_reset.size(), expected);
    check_range(p.name, "reset", p.integer_reset, 0, kMembraneLimit);
  }

  static void check_integer_projection(const Projection& p) {
    if (!has_weight(p.kind) && p.kind != Kind::mean)
      fail(p.name, std::string("an int8 network has no ") + kind_name(p.kind));
    if (!p.weight8.empty() && !p.weight16.empty()) fail(p.name, "weight has two types");
    check_size(p.name, "weight", p.weight8.size() + p.weight16.size(), weight_count(p));
    if (p.kind == Kind::mean) return;
    const int most = p.multiplier.empty() ? 16 : 32;
    if (p.shift < 0 || p.shift > most)
      fail(p.name, "shift must lie in [0, " + std::to_string(most) + "]");
    if (p.multiplier.empty()) return;
    if (p.kind == Kind::token_mix) fail(p.name, "token mixing takes no multiplier");
    check_size(p.name, "multiplier", p.multiplier.size(), p.weight_shape[0]);
  }

  const CheckedGraph& graph_;
};

}  // namespace

size_t weight_count(const Projection& p) {
  constexpr size_t most = std::numeric_limits<size_t>::max();
  size_t count = p.weight_shape.empty() ? 0 : 1;
  for (int n : p.weight_shape) {
    const size_t size = std::max(n, 0);
    count = size > 0 && count > most / size ? most : count * size;
  }
  return count;
}

void check_numbers(const CheckedGraph& graph) {
  const NumberChecker checker(graph);
  checker.check_input();
  checker.check_spikes();
  graph.graph->integer ? checker.check_integer() : checker.check_float();
}

}  // namespace stmixer::graph
