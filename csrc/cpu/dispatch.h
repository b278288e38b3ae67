#pragma once
// Host side of the kernels: the table for this machine, and how work is cut into blocks.
#include <algorithm>
#include <cstdint>

#include "common/cpu_features.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "cpu/tables.h"

#ifdef STMIXER_X86
#define STMIXER_TABLE(name) ::stmixer::pick_table(&name##_scalar, &name##_avx2, &name##_avx512)
#else
#define STMIXER_TABLE(name) ::stmixer::pick_table(&name##_scalar, &name##_scalar, &name##_scalar)
#endif

namespace stmixer {

template <class Table>
const Table& pick_table(const Table* scalar, const Table* avx2, const Table* avx512) {
  const Isa isa = current_isa();
  return *(isa == Isa::avx512 ? avx512 : isa == Isa::avx2 ? avx2 : scalar);
}

// Below this many elements a call is served by one thread: waking others costs more.
constexpr int64_t kSerialElements = 1 << 15;

inline int useful_threads(int64_t elements, int threads) {
  return elements < kSerialElements ? 1 : std::max(threads, 1);
}

}  // namespace stmixer
