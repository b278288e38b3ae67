#include "graph/check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>

#include "graph/kinds.h"

namespace stmixer::graph {
namespace {

using Kind = Projection::Kind;

constexpr auto fail = graph_error;

std::string text(const std::vector<int>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + "]";
}

void check_shape(const std::string& node, const Shape& s) {
  if (s.channels < 1 || s.height < 1 || s.width < 1)
    fail(node, "shape " + text(s) + " must be positive");
  constexpr int64_t most = std::numeric_limits<int>::max();
  if (s.height > kMaxExtent || s.width > kMaxExtent ||
      int64_t{s.height} * s.width > most / s.channels)
    fail(node, "shape " + text(s) + " is larger than a graph takes");
}

void check_weight(const Projection& p, const std::vector<int>& expected) {
  if (p.weight_shape != expected)
    fail(p.name, "weight must be " + text(expected) + ", got " + text(p.weight_shape));
}

// The extent of a convolution's output, or 0 if the kernel does not fit.
int conv_extent(int in, int kernel, int stride, int padding) {
  const int span = in + 2 * padding - kernel;  // at most 3 * kMaxExtent
  return span < 0 ? 0 : span / stride + 1;
}

// Of a convolution or a pool.
void check_window(const Projection& p, int kh, int kw, const Shape& in, const Shape& out) {
  if (kh < 1 || kw < 1 || kh > kMaxExtent || kw > kMaxExtent)
    fail(p.name, "kernel size must lie in [1, " + std::to_string(kMaxExtent) + "]");
  if (p.stride < 1 || p.stride > kMaxExtent) fail(p.name, "stride must be at least 1");
  if (p.padding < 0 || p.padding > kMaxExtent) fail(p.name, "padding must not be negative");
  const int height = conv_extent(in.height, kh, p.stride, p.padding);
  const int width = conv_extent(in.width, kw, p.stride, p.padding);
  if (height != out.height || width != out.width)
    fail(p.name, "gives " + std::to_string(height) + "x" + std::to_string(width) +
                     " positions from " + text(in) + ", but its current is " + text(out));
}

void check_conv(const Projection& p, const Shape& in, const Shape& out) {
  if (p.weight_shape.size() != 4)
    fail(p.name, "weight must be [out, in, kh, kw], got " + text(p.weight_shape));
  const int kh = p.weight_shape[2], kw = p.weight_shape[3];
  check_window(p, kh, kw, in, out);
  check_weight(p, {p.weight_shape[0], in.channels, kh, kw});
}

void check_pool(const Projection& p, const Shape& in, const Shape& out) {
  // Every window then holds a position of the source.
  if (p.kernel > 0 && p.padding > p.kernel / 2)
    fail(p.name, "padding must be at most half the kernel of " + std::to_string(p.kernel) +
                     ", got " + std::to_string(p.padding));
  check_window(p, p.kernel, p.kernel, in, out);
}

void check_heads(const Projection& p, int heads, int channels) {
  if (heads < 1 || channels % heads != 0)
    fail(p.name,
         std::to_string(heads) + " heads do not divide " + std::to_string(channels) + " channels");
}

void check_product(const Projection& p, const Shape& query, const Shape& key, const Shape& value,
                   const Shape& out) {
  if (key.channels != query.channels || value.pixels() != key.pixels() ||
      out.pixels() != query.pixels())
    fail(p.name, "multiplies a query " + text(query) + ", a key " + text(key) + " and a value " +
                     text(value) + " into " + text(out));
  check_heads(p, p.heads, query.channels);
  check_heads(p, p.heads, value.channels);
  if (!std::isfinite(p.scale)) fail(p.name, "scale must be finite");
}

void check_positions(const Projection& p, const Shape& in, const Shape& out) {
  if (in.pixels() != out.pixels())
    fail(p.name, "joins " + text(in) + " to " + text(out) + ": positions differ");
}

// Checks a projection against the shapes at both ends; returns its number of output channels.
int check_projection(const Projection& p, const Shape& in, const Shape& out) {
  switch (p.kind) {
    case Kind::conv:
      check_conv(p, in, out);
      return p.weight_shape[0];
    case Kind::linear:
      if (p.weight_shape.size() != 2)
        fail(p.name, "weight must be [out, in], got " + text(p.weight_shape));
      check_weight(p, {p.weight_shape[0], in.channels});
      check_positions(p, in, out);
      return p.weight_shape[0];
    case Kind::token_mix:
      if (p.weight_shape.size() != 3)
        fail(p.name, "weight must be [heads, tokens, tokens], got " + text(p.weight_shape));
      check_heads(p, p.weight_shape[0], in.channels);
      check_weight(p, {p.weight_shape[0], out.pixels(), in.pixels()});
      return in.channels;
    case Kind::mean:
      if (out.pixels() != 1) fail(p.name, "a mean over positions needs a current of one position");
      return in.channels;
    case Kind::identity:
      check_positions(p, in, out);
      return in.channels;
    case Kind::max_pool:
    case Kind::avg_pool:
      check_pool(p, in, out);
      return in.channels;
    case Kind::spike_product:
      break;  // has three sources
  }
  fail(p.name, "unknown kind of projection");
}

class Checker {
 public:
  explicit Checker(const Graph& graph) : graph_(graph) { checked_.graph = &graph; }

  CheckedGraph check() {
    if (graph_.steps < 1)
      throw std::invalid_argument("graph: 'steps' must be at least 1, got " +
                                  std::to_string(graph_.steps));
    collect_names();
    check_shapes();
    for (const Current& c : graph_.currents) check_current(c);
    check_ends();
    sort();
    return std::move(checked_);
  }

 private:
  void add_name(const std::string& name, NodeRef node) {
    if (name.empty()) throw std::invalid_argument("graph: a node has no name");
    if (!checked_.nodes.emplace(name, node).second) fail(name, "this name is used twice");
  }

  void collect_names() {
    for (size_t i = 0; i < graph_.populations.size(); ++i)
      add_name(graph_.populations[i].name, {NodeRef::Kind::population, static_cast<int>(i)});
    for (size_t i = 0; i < graph_.currents.size(); ++i)
      add_name(graph_.currents[i].name, {NodeRef::Kind::current, static_cast<int>(i)});
  }

  const NodeRef& resolve(const std::string& reader, const std::string& name) const {
    const auto found = checked_.nodes.find(name);
    if (found == checked_.nodes.end()) fail(reader, "reads '" + name + "', which does not exist");
    return found->second;
  }

  const NodeRef& resolve_current(const std::string& reader, const std::string& name) const {
    const NodeRef& node = resolve(reader, name);
    if (!node.is(NodeRef::Kind::current)) fail(reader, "reads '" + name + "', which is no current");
    return node;
  }

  void check_shapes() const {
    for (const Population& p : graph_.populations) {
      check_shape(p.name, p.shape);
      if (p.tokens && p.shape.height != 1)
        fail(p.name, "shape " + text(p.shape) + " must be [channels, 1, tokens]");
    }
    for (const Current& c : graph_.currents) check_shape(c.name, c.shape);
  }

  void check_current(const Current& c) const {
    if (c.projections.empty() && c.currents.empty()) fail(c.name, "sums nothing");
    for (const std::string& name : c.currents) {
      const Shape& other = checked_.shape(resolve_current(c.name, name));
      if (other.channels != c.shape.channels || other.pixels() != c.shape.pixels())
        fail(c.name,
             "adds '" + name + "' of another shape, " + text(other) + " to " + text(c.shape));
    }
    for (const Projection& p : c.projections) {
      if (!has_weight(p.kind) && !p.weight_shape.empty())
        fail(p.name, std::string(kind_name(p.kind)) + " has no weight");
      if (needs_clock(p.kind) && !p.clocked_only)
        fail(p.name, std::string(kind_name(p.kind)) + " must be marked clocked_only");
      const int channels = p.kind == Kind::spike_product
                               ? check_spike_product(p, c.shape)
                               : check_projection(p, shape_of_source(p, p.source), c.shape);
      if (p.channel_offset < 0 || channels < 1 ||
          int64_t{p.channel_offset} + channels > c.shape.channels)
        fail(p.name, "writes channels " + std::to_string(p.channel_offset) + " to " +
                         std::to_string(int64_t{p.channel_offset} + channels) + " of " +
                         std::to_string(c.shape.channels));
    }
  }

  const Shape& shape_of_source(const Projection& p, const std::string& name) const {
    const NodeRef& source = resolve(p.name, name);
    if (source.is(NodeRef::Kind::population) &&
        graph_.populations[source.index].kind == Population::Kind::readout)
      fail(p.name, "reads '" + name + "', the readout");
    return checked_.shape(source);
  }

  int check_spike_product(const Projection& p, const Shape& out) const {
    for (const std::string& name : sources(p))
      if (!resolve(p.name, name).is(NodeRef::Kind::population))
        fail(p.name, "reads '" + name + "', which is no population");
    const Shape& value = shape_of_source(p, p.value);
    check_product(p, shape_of_source(p, p.source), shape_of_source(p, p.key), value, out);
    return value.channels;
  }

  // One input, one readout, and every other population is fed by a current of its shape.
  void check_ends() const {
    int inputs = 0, readouts = 0;
    for (const Population& p : graph_.populations) {
      if (p.kind == Population::Kind::input) {
        ++inputs;
        if (!p.current.empty()) fail(p.name, "the input must not integrate a current");
        continue;
      }
      if (p.kind == Population::Kind::readout) ++readouts;
      const Shape& s = checked_.shape(resolve_current(p.name, p.current));
      if (s.channels != p.shape.channels || s.pixels() != p.shape.pixels())
        fail(p.name, "has shape " + text(p.shape) + ", its current " + text(s));
      if (p.kind == Population::Kind::readout && p.shape.pixels() != 1)
        fail(p.name, "the readout must have one position, got " + text(p.shape));
    }
    if (inputs != 1 || readouts != 1)
      throw std::invalid_argument("graph: needs one input and one readout, got " +
                                  std::to_string(inputs) + " and " + std::to_string(readouts));
  }

  std::vector<NodeRef> reads(const NodeRef& node) const {
    std::vector<NodeRef> found;
    if (node.is(NodeRef::Kind::population)) {
      const Population& p = graph_.populations[node.index];
      if (!p.current.empty()) found.push_back(checked_.find(p.current));
      return found;
    }
    const Current& c = graph_.currents[node.index];
    for (const std::string& name : c.currents) found.push_back(checked_.find(name));
    for (const Projection& p : c.projections)
      for (const std::string& name : sources(p)) found.push_back(checked_.find(name));
    return found;
  }

  // Depth first in the order of the description, on an explicit stack: a file may nest deeply.
  void sort() {
    enum Mark : char { fresh, open, done };
    std::vector<Mark> marks[2] = {std::vector<Mark>(graph_.populations.size(), fresh),
                                  std::vector<Mark>(graph_.currents.size(), fresh)};
    const auto mark = [&](const NodeRef& n) -> Mark& {
      return marks[static_cast<int>(n.kind)][n.index];
    };
    const auto visit = [&](const NodeRef& root) {
      std::vector<NodeRef> stack{root};
      while (!stack.empty()) {
        const NodeRef node = stack.back();
        if (mark(node) != fresh) {
          stack.pop_back();
          if (mark(node) == open) checked_.order.push_back(node);
          mark(node) = done;
          continue;
        }
        mark(node) = open;
        const std::vector<NodeRef> before = reads(node);
        for (auto it = before.rbegin(); it != before.rend(); ++it) {
          if (mark(*it) == open) fail(name_of(*it), "is part of a cycle");
          if (mark(*it) == fresh) stack.push_back(*it);
        }
      }
    };
    for (size_t i = 0; i < graph_.populations.size(); ++i)
      visit({NodeRef::Kind::population, static_cast<int>(i)});
    for (size_t i = 0; i < graph_.currents.size(); ++i)
      visit({NodeRef::Kind::current, static_cast<int>(i)});
  }

  const std::string& name_of(const NodeRef& node) const {
    return node.is(NodeRef::Kind::population) ? graph_.populations[node.index].name
                                              : graph_.currents[node.index].name;
  }

  const Graph& graph_;
  CheckedGraph checked_;
};

}  // namespace

const Shape& CheckedGraph::shape(const NodeRef& node) const {
  return node.is(NodeRef::Kind::population) ? graph->populations[node.index].shape
                                            : graph->currents[node.index].shape;
}

int CheckedGraph::written_by(const Projection& p) const {
  if (p.kind == Kind::conv || p.kind == Kind::linear) return p.weight_shape[0];
  return shape(find(p.kind == Kind::spike_product ? p.value : p.source)).channels;
}

bool CheckedGraph::side_by_side(const Current& c) const {
  if (!c.currents.empty()) return false;
  std::vector<int> writers(c.shape.channels, 0);
  for (const Projection& p : c.projections)
    for (int i = 0; i < written_by(p); ++i) ++writers[p.channel_offset + i];
  return std::all_of(writers.begin(), writers.end(), [](int n) { return n == 1; });
}

std::vector<std::string> sources(const Projection& p) {
  if (p.kind == Kind::spike_product) return {p.source, p.key, p.value};
  return {p.source};
}

CheckedGraph check_graph(const Graph& graph) {
  CheckedGraph checked = Checker(graph).check();
  check_numbers(checked);
  return checked;
}

std::string text(const Shape& s) { return text(std::vector<int>{s.channels, s.height, s.width}); }

void graph_error(const std::string& node, const std::string& what) {
  throw std::invalid_argument("graph: '" + node + "': " + what);
}

}  // namespace stmixer::graph
