#pragma once
// What the integers of an int8 network mean, whoever computes with them. Included by kernels: it
// may define nothing that the linker would have to merge.
#include <cstdint>

namespace stmixer::graph {

// Fraction bits of a membrane's decay.
constexpr int kDecayBits = 15;

// Beyond this a membrane saturates; what a neuron integrates in one step is smaller.
constexpr int32_t kMembraneLimit = 1 << 30;

}  // namespace stmixer::graph
