#include "graph/fan_out.h"

#include "graph/kinds.h"

namespace stmixer::graph {
namespace {

using Kind = Projection::Kind;

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

// Whether the current is one projection and nothing else.
bool is_plain(const CheckedGraph& graph, const Current& c) {
  return graph.has_one(c) && c.currents.empty() && c.bias.empty();
}

}  // namespace

std::vector<Readers> find_readers(const CheckedGraph& graph) {
  const Graph& g = *graph.graph;
  std::vector<Readers> found(g.currents.size());
  for (size_t i = 0; i < g.populations.size(); ++i) {
    const Population& p = g.populations[i];
    if (p.kind == Population::Kind::input) continue;
    Readers& readers = found[graph.find(p.current).index];
    if (p.kind == Population::Kind::lif) {
      readers.neurons.push_back(static_cast<int>(i));
    } else {
      ++readers.others;
    }
  }
  for (const Current& c : g.currents) {
    for (const std::string& name : c.currents) ++found[graph.find(name).index].others;
    for (const Projection& p : c.projections) {
      const NodeRef& source = graph.find(p.source);
      if (!source.is(NodeRef::Kind::current)) continue;
      ++found[source.index].others;
      found[source.index].averaged |= p.kind == Kind::mean && is_plain(graph, c);
    }
  }
  return found;
}

std::vector<int64_t> fan_out(const Projection& p, const Shape& in, const Shape& out) {
  if (p.kind == Kind::token_mix) return std::vector<int64_t>(in.pixels(), out.pixels());
  if (p.kind == Kind::mean) return std::vector<int64_t>(in.pixels(), 1);
  if (p.kind == Kind::identity || p.kind == Kind::max_pool)
    return std::vector<int64_t>(in.pixels(), 0);
  if (p.kind == Kind::spike_product)
    graph_error(p.name, "what a spike adds through a spike product depends on other spikes");
  const int64_t channels = p.kind == Kind::avg_pool ? 1 : p.weight_shape[0];
  if (p.kind == Kind::linear) return std::vector<int64_t>(in.pixels(), channels);
  const bool pools = is_pool(p.kind);
  const int kh = pools ? p.kernel : p.weight_shape[2], kw = pools ? p.kernel : p.weight_shape[3];
  const auto rows = reach(in.height, out.height, kh, p.stride, p.padding);
  const auto columns = reach(in.width, out.width, kw, p.stride, p.padding);
  std::vector<int64_t> count;
  for (int64_t row : rows)
    for (int64_t column : columns) count.push_back(row * column * channels);
  return count;
}

}  // namespace stmixer::graph
