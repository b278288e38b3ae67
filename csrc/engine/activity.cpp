#include "engine/activity.h"

#include <bitset>

namespace stmixer::engine {
namespace {

// For each position along one axis, how many outputs of a convolution it reaches.
std::vector<int64_t> reach(int in, int out, int kernel, int stride, int padding) {
  std::vector<int64_t> count(in, 0);
  for (int o = 0; o < out; ++o)
    for (int k = 0; k < kernel; ++k) {
      const int i = o * stride + k - padding;
      if (i >= 0 && i < in) ++count[i];
    }
  return count;
}

void add_fan_out(const Projection& p, const Shape& in, const Shape& out,
                 std::vector<int64_t>* fan_out) {
  if (p.kind != Projection::Kind::conv) {
    const int64_t each = p.kind == Projection::Kind::token_mix ? out.pixels() : p.weight_shape[0];
    for (int64_t& n : *fan_out) n += each;
    return;
  }
  const auto rows = reach(in.height, out.height, p.weight_shape[2], p.stride, p.padding);
  const auto columns = reach(in.width, out.width, p.weight_shape[3], p.stride, p.padding);
  for (int y = 0; y < in.height; ++y)
    for (int x = 0; x < in.width; ++x)
      (*fan_out)[size_t(y) * in.width + x] += rows[y] * columns[x] * p.weight_shape[0];
}

int64_t count_bits(const uint8_t* bytes, int n) {
  int64_t count = 0;
  for (int i = 0; i < n; ++i) count += std::bitset<8>(bytes[i]).count();
  return count;
}

}  // namespace

void unpack_spikes(const Neurons& n, const uint8_t* bits, uint8_t* spikes) {
  for (int row = 0; row < n.rows; ++row, bits += n.row_bytes) {
    for (int column = 0; column < n.columns; ++column) {
      const int64_t at =
          n.by_channel ? int64_t{row} * n.columns + column : int64_t{column} * n.rows + row;
      spikes[at] = bits[column / 8] >> (column % 8) & 1;
    }
  }
}

ActivityCounter::ActivityCounter(const Plan& plan, const CheckedGraph& graph) : plan_(plan) {
  std::vector<int> neurons_of(graph.graph->populations.size(), -1);
  for (size_t i = 0; i < plan.neurons.size(); ++i) {
    const int population = plan.neurons[i].population;
    neurons_of[population] = static_cast<int>(i);
    fan_out_.emplace_back(graph.graph->populations[population].shape.pixels(), 0);
  }
  for (const Current& c : graph.graph->currents) {
    for (const Projection& p : c.projections) {
      const NodeRef& source = graph.find(p.source);
      if (!source.is(NodeRef::Kind::population) || neurons_of[source.index] < 0) continue;
      add_fan_out(p, graph.shape(source), c.shape, &fan_out_[neurons_of[source.index]]);
    }
  }
}

void ActivityCounter::count(int neurons, const uint8_t* bits, int64_t images,
                            Activity* activity) const {
  const Neurons& n = plan_.neurons[neurons];
  const std::vector<int64_t>& fan_out = fan_out_[neurons];
  for (int64_t row = 0; row < images * n.rows; ++row, bits += n.row_bytes) {
    if (!n.by_channel) {
      const int64_t spikes = count_bits(bits, n.row_bytes);
      activity->spikes += spikes;
      activity->synops += spikes * fan_out[row % n.rows];
      continue;
    }
    for (int pixel = 0; pixel < n.columns; ++pixel) {
      if (!(bits[pixel / 8] >> (pixel % 8) & 1)) continue;
      ++activity->spikes;
      activity->synops += fan_out[pixel];
    }
  }
}

}  // namespace stmixer::engine
