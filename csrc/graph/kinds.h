#pragma once
// Kinds of nodes: what files call them, and what they have in common.
#include <utility>

#include "stmixer/graph.h"

namespace stmixer::graph {

constexpr std::pair<const char*, Population::Kind> kPopulationKinds[] = {
    {"input", Population::Kind::input},
    {"lif", Population::Kind::lif},
    {"readout", Population::Kind::readout},
    {"graded", Population::Kind::graded}};

constexpr std::pair<const char*, Projection::Kind> kProjectionKinds[] = {
    {"conv", Projection::Kind::conv},           {"linear", Projection::Kind::linear},
    {"token_mix", Projection::Kind::token_mix}, {"mean", Projection::Kind::mean},
    {"identity", Projection::Kind::identity},   {"max_pool", Projection::Kind::max_pool},
    {"avg_pool", Projection::Kind::avg_pool},   {"spike_product", Projection::Kind::spike_product}};

inline const char* kind_name(Projection::Kind kind) {
  for (const auto& [name, candidate] : kProjectionKinds)
    if (candidate == kind) return name;
  return "of an unknown kind";
}

constexpr bool is_pool(Projection::Kind kind) {
  return kind == Projection::Kind::max_pool || kind == Projection::Kind::avg_pool;
}

constexpr bool has_weight(Projection::Kind kind) {
  return kind == Projection::Kind::conv || kind == Projection::Kind::linear ||
         kind == Projection::Kind::token_mix;
}

// Whether what it computes depends on which spikes come together, and thus on a clock.
constexpr bool needs_clock(Projection::Kind kind) {
  return kind == Projection::Kind::max_pool || kind == Projection::Kind::spike_product;
}

}  // namespace stmixer::graph
