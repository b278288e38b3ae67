#pragma once
// A network as the grid runs it: what does not change from recording to recording.
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "events/process.h"
#include "graph/arithmetic.h"

namespace stmixer::events {

// The numbers of a population, per channel or, where integers mix tokens, per head and token.
template <class T>
struct Parameters {
  std::vector<T> threshold, reset, decay, start;
  std::vector<T> start_bias;  // per channel, what the biases add to the start; or empty
  float scale = 1.0f;
  bool per_token = false;
  int heads_channels = 1;  // channels of a head

  size_t at(int channel, int pixel, int pixels) const {
    return per_token ? size_t(channel / heads_channels) * pixels + pixel : channel;
  }
};

template <class T>
std::vector<T> widened(std::vector<T> values, size_t size, T value) {
  if (values.empty()) values.assign(size, value);
  return values;
}

inline Parameters<float> parameters(const Population& p, const Current&, const Options& options,
                                    float) {
  const size_t channels = p.shape.channels;
  Parameters<float> n;
  n.threshold = widened(p.channel_threshold, channels, p.threshold);
  if (p.soft_reset) n.reset = n.threshold;
  n.decay = widened(p.channel_decay, channels, p.decay);
  for (float& d : n.decay) d = static_cast<float>(decay_of(d, options));
  n.start = widened(p.channel_v_init, channels, p.v_init);
  n.scale = p.input_scale;
  return n;
}

inline Parameters<int32_t> parameters(const Population& p, const Current& c, const Options& options,
                                      int32_t) {
  Parameters<int32_t> n;
  n.threshold = p.integer_threshold;
  n.reset = p.integer_reset;
  n.per_token = !c.projections.empty() && c.projections[0].kind == Projection::Kind::token_mix;
  if (n.per_token) n.heads_channels = p.shape.channels * p.shape.pixels() / int(n.threshold.size());
  n.decay = widened(p.channel_integer_decay, n.threshold.size(), int32_t{p.integer_decay});
  const double one = 1 << graph::kDecayBits;
  for (int32_t& d : n.decay) d = static_cast<int32_t>(std::lrint(decay_of(d / one, options) * one));
  n.start = widened(p.integer_v_init, n.threshold.size(), int32_t{0});
  return n;
}

template <class T>
struct GridNetwork {
  explicit GridNetwork(const Model& model) {
    const Layout& layout = model.layout;
    for (const Wire& wire : layout.wires) {
      std::vector<T> values;
      if constexpr (std::is_same_v<T, float>) {
        values = weights_of(wire);
      } else {
        const Projection& p = *wire.projection;
        values.resize(graph::weight_count(p));
        for (size_t i = 0; i < values.size(); ++i) values[i] = integer_weight(p, i);
      }
      rows.push_back(make_rows(wire, Lanes::channels, values));
    }
    for (const Population* p : layout.populations)
      populations.push_back(parameters(
          *p, layout.graph().currents[layout.checked->find(p->current).index], model.options, T{}));
    if (model.options.bias == Bias::initial)
      for (size_t p = 0; p < populations.size(); ++p)
        for (double b : layout.bias(static_cast<int>(p)))
          populations[p].start_bias.push_back(
              static_cast<T>(b * populations[p].scale * layout.graph().steps));
    number.assign(layout.graph().populations.size(), -1);
    for (size_t i = 0; i < layout.populations.size(); ++i)
      number[layout.populations[i] - layout.graph().populations.data()] = static_cast<int>(i);
  }

  std::vector<Rows<T>> rows;  // [wire]
  std::vector<Parameters<T>> populations;
  std::vector<int> number;  // of a population of the graph among the LIF populations
};

}  // namespace stmixer::events
