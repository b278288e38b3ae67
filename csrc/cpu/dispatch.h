#pragma once
// Host side of the kernels: the table for this machine, and how work is cut into blocks.
#include <algorithm>
#include <cstdint>

#include "common/cpu_features.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "cpu/tables.h"

// The table of a name for this machine.
#define STMIXER_TABLE(name) STMIXER_PICK_TABLE(name, ::stmixer::current_isa())

namespace stmixer {

// Below this many elements a call is served by one thread: waking others costs more.
constexpr int64_t kSerialElements = 1 << 15;

inline int useful_threads(int64_t elements, int threads) {
  return elements < kSerialElements ? 1 : std::max(threads, 1);
}

}  // namespace stmixer
