#pragma once
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "stmixer/graph.h"

namespace stmixer::graph {

// Largest heights, widths, kernels, strides and paddings: what is computed from them fits in 64
// bits. Each executor has limits of its own for what it allocates.
constexpr int kMaxExtent = 1 << 20;

struct NodeRef {
  enum class Kind { population, current };
  Kind kind;
  int index;
  bool is(Kind k) const { return kind == k; }
};

// A checked graph: names resolved, nodes in an order in which each comes after what it reads.
// Among nodes that are ready, the order of the description is kept.
struct CheckedGraph {
  const Graph* graph;
  std::unordered_map<std::string, NodeRef> nodes;
  std::vector<NodeRef> order;

  const NodeRef& find(const std::string& name) const { return nodes.at(name); }
  const Shape& shape(const NodeRef& node) const;

  // How many channels of its current a projection writes, and whether these are all.
  int written_by(const Projection& p) const;
  bool covers(const Projection& p, const Current& c) const {
    return written_by(p) == c.shape.channels;
  }
  // Whether the current has a single projection, which writes all of it.
  bool has_one(const Current& c) const {
    return c.projections.size() == 1 && covers(c.projections[0], c);
  }
  // Whether its projections write each channel of the current once: their outputs concatenated.
  bool side_by_side(const Current& c) const;
};

// The nodes that a projection reads: one, or of a spike product query, key and value.
std::vector<std::string> sources(const Projection& p);

// Throws std::invalid_argument naming the node and what is wrong with it.
CheckedGraph check_graph(const Graph& graph);

// How many numbers the shape of a projection's weight means; the largest size_t if it is larger.
size_t weight_count(const Projection& p);

// Of a graph whose names and shapes have been checked: that weights, biases and parameters of
// neurons are as many as these say, finite, and in an int8 network in range.
void check_numbers(const CheckedGraph& graph);

// [channels, height, width]
std::string text(const Shape& shape);

[[noreturn]] void graph_error(const std::string& node, const std::string& what);

}  // namespace stmixer::graph
