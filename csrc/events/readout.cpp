#include "events/readout.h"

#include <algorithm>
#include <cmath>

#include "graph/kinds.h"

namespace stmixer::events {
namespace {

using Kind = Projection::Kind;
using graph::NodeRef;

// Of a float32 network or of integers.
double weight_at(const Projection& p, size_t i) {
  if (!p.weight.empty()) return p.weight.data()[i];
  return integer_weight(p, i);
}

// Weights in units of the current: of an int8 network multiplied and shifted, but not rounded.
std::vector<double> values_of(const Wire& wire, bool integer, double unit) {
  const Projection& p = *wire.projection;
  if (!integer) {
    const std::vector<float> weights = weights_of(wire);
    return {weights.begin(), weights.end()};
  }
  std::vector<double> values(graph::weight_count(p));
  const size_t per_output = values.size() / std::max(p.weight_shape[0], 1);
  for (size_t i = 0; i < values.size(); ++i) {
    const double factor = p.multiplier.empty() ? std::ldexp(1.0, p.shift)
                                               : std::ldexp(p.multiplier[i / per_output], -p.shift);
    values[i] = weight_at(p, i) * unit * factor;
  }
  return values;
}

}  // namespace

ReadoutSums::ReadoutSums(const Layout& layout) : layout_(&layout) {
  const graph::Graph& g = layout.graph();
  before_.assign(g.currents.size(), false);
  behind_.assign(g.currents.size(), false);
  of_source_.resize(layout.sources());
  // Readers come after what they read: by the time a current is met, all that read it have been.
  behind_[layout.checked->find(layout.readout->current).index] = true;
  for (auto node = layout.checked->order.rbegin(); node != layout.checked->order.rend(); ++node) {
    if (!node->is(NodeRef::Kind::current)) continue;
    const int index = node->index;
    if (!before_[index] && !behind_[index]) continue;
    const Current& c = g.currents[index];
    if (before_[index] && behind_[index])
      events_error(c.name, "is read before and behind the mean over time");
    for (const std::string& name : c.currents)
      (behind_[index] ? behind_ : before_)[layout.checked->find(name).index] = true;
    for (const Projection& p : c.projections) {
      const NodeRef& source = layout.checked->find(p.source);
      if (source.is(NodeRef::Kind::population)) {
        if (p.kind == Kind::mean) events_error(p.name, "averages spikes; average a current");
        if (behind_[index]) events_error(p.name, "reads spikes behind the mean over time");
        continue;
      }
      if (p.kind == Kind::mean) {
        if (before_[index]) events_error(p.name, "is one of two means over time");
        before_[source.index] = true;
      } else if (p.kind == Kind::linear) {
        (behind_[index] ? behind_ : before_)[source.index] = true;
      } else {
        events_error(p.name, "reads values of '" + p.source + "', which only a linear layer may");
      }
    }
  }
  for (const Wire& wire : layout.wires) {
    if (!before_[wire.current]) continue;
    const Projection& p = *wire.projection;
    // Its rows are of one channel, that of the spike.
    const bool own = p.kind == Kind::token_mix || !graph::has_weight(p.kind);
    const Lanes lanes = p.kind == Kind::token_mix ? Lanes::tokens : Lanes::channels;
    const double unit =
        g.integer && wire.source == kInputSource ? static_cast<double>(layout.event_unit()) : 1.0;
    of_source_[wire.source].push_back(static_cast<int>(wires_.size()));
    wires_.push_back({wire.source, wire.current, size_, own ? wire.in.channels : p.weight_shape[0],
                      wire.offset, own, make_rows(wire, lanes, values_of(wire, g.integer, unit))});
    size_ += wires_.back().channels;
  }
}

void ReadoutSums::add(int source, int channel, int pixel, int64_t count, double* sums) const {
  for (int w : of_source_[source]) {
    const Wired& wire = wires_[w];
    const Rows<double>& rows = wire.rows;
    double* to = sums + wire.begin;
    for (int t = rows.first[pixel]; t < rows.first[pixel + 1]; ++t) {
      const Touch& touch = rows.touches[t];
      const double* weights =
          rows.weights.data() + (channel / rows.group) * rows.group_weights + touch.weights;
      for (int b = 0; b < touch.blocks; ++b, weights += rows.length)
        for (int i = 0; i < rows.length; ++i)
          to[wire.own_channel ? channel : i] += weights[i] * static_cast<double>(count);
    }
  }
}

// A current before the mean: sums over positions and time.
std::vector<double> ReadoutSums::sum(int current, const Table& table,
                                     const std::vector<double>& sums, double biases) const {
  const Current& c = layout_->graph().currents[current];
  std::vector<double> v(c.shape.channels, 0.0);
  for (const Wired& wire : wires_)
    if (wire.current == current)
      for (int i = 0; i < wire.channels; ++i) v[wire.offset + i] += sums[wire.begin + i];
  add_all(c, table, biases * c.shape.pixels(), &v);
  return v;
}

// Its bias and what it reads of other currents; a mean is not among it.
void ReadoutSums::add_all(const Current& c, const Table& table, double biases,
                          std::vector<double>* v) const {
  for (size_t i = 0; i < c.bias.size(); ++i) (*v)[i] += c.bias[i] * biases;
  for (size_t i = 0; i < c.integer_bias.size(); ++i) (*v)[i] += c.integer_bias[i] * biases;
  for (const std::string& name : c.currents) {
    const std::vector<double>& other = table[layout_->checked->find(name).index];
    for (size_t i = 0; i < other.size(); ++i) (*v)[i] += other[i];
  }
  for (const Projection& p : c.projections) {
    const NodeRef& source = layout_->checked->find(p.source);
    if (!source.is(NodeRef::Kind::current) || p.kind == Kind::mean) continue;
    const std::vector<double>& in = table[source.index];
    for (int o = 0; o < p.weight_shape[0]; ++o)
      for (size_t i = 0; i < in.size(); ++i)
        (*v)[p.channel_offset + o] +=
            weight_at(p, o * in.size() + i) * std::ldexp(1.0, p.shift) * in[i];
  }
}

std::vector<float> ReadoutSums::logits(const std::vector<double>& sums, double steps,
                                       double biases) const {
  Table table(layout_->graph().currents.size());
  for (const NodeRef& node : layout_->checked->order)
    if (node.is(NodeRef::Kind::current) && before_[node.index])
      table[node.index] = sum(node.index, table, sums, biases);
  return read(std::move(table), steps, false);
}

std::vector<float> ReadoutSums::logits_of(Table sums, double steps) const {
  return read(std::move(sums), steps, layout_->graph().integer);
}

std::vector<float> ReadoutSums::read(Table table, double steps, bool rounded) const {
  const graph::Graph& g = layout_->graph();
  for (const NodeRef& node : layout_->checked->order) {
    if (!node.is(NodeRef::Kind::current) || !behind_[node.index]) continue;
    const Current& c = g.currents[node.index];
    std::vector<double>& v = table[node.index];
    v.assign(c.shape.channels, 0.0);
    for (const Projection& p : c.projections) {
      if (p.kind != Kind::mean) continue;
      const NodeRef& source = layout_->checked->find(p.source);
      const double count = steps * layout_->checked->shape(source).pixels();
      for (size_t i = 0; i < table[source.index].size() && count > 0; ++i) {
        const double mean = table[source.index][i] / count;
        v[p.channel_offset + i] += rounded ? std::floor(mean + 0.5) : mean;
      }
    }
    add_all(c, table, 1.0, &v);
  }
  const Population& readout = *layout_->readout;
  const std::vector<double>& v = table[layout_->checked->find(readout.current).index];
  std::vector<float> logits;
  for (size_t i = 0; i < v.size(); ++i)
    logits.push_back(g.integer ? readout.scale[i] * static_cast<float>(v[i]) + readout.bias[i]
                               : static_cast<float>(v[i]));
  return logits;
}

}  // namespace stmixer::events
