#pragma once
// What spikes and the values of currents reach.
#include <cstdint>
#include <vector>

#include "graph/check.h"

namespace stmixer::graph {

// Who reads a current.
struct Readers {
  std::vector<int> neurons;  // LIF populations, by their place in the graph
  int others = 0;            // currents, projections, graded populations, the readout
  bool averaged = false;     // by a current that is nothing but its mean
};

// By the place of the current in the graph.
std::vector<Readers> find_readers(const CheckedGraph& graph);

// For each position of its source, how many weights a spike there adds: fewer near the border of a
// convolution, which part of its kernel crosses. Identity and max-pool have no weights to add.
// Throws std::invalid_argument for a spike product, of which no spike adds a fixed number.
std::vector<int64_t> fan_out(const Projection& projection, const Shape& in, const Shape& out);

}  // namespace stmixer::graph
