#pragma once
#include "graph/check.h"
#include "stmixer/engine.h"

namespace stmixer::engine {

// What the time-stepped engine takes of a checked graph: sizes that its spike lists can address and
// that keep a small file from asking for any amount of memory. Throws std::invalid_argument naming
// the node.
void check_limits(const graph::CheckedGraph& graph);

[[noreturn]] void engine_error(const std::string& node, const std::string& what);

}  // namespace stmixer::engine
