#pragma once
// The ceiling that the engine's kernels are measured against: additions of weight rows per second
// on one core when the rows lie in the L1 cache and nothing else is done.
#include <cstdint>

#include "engine/kernels.h"

namespace stmixer::engine {

struct CeilingTask {
  const void* rows;
  const uint16_t* order;  // rows to add, one after the other
  int64_t count;
  void* sums;
};

// `bits` per weight: 32 (float), 16 (summed in 32), 8 (summed in 16), or 7 (int8 of which two add
// up in a byte). `width` values in a row of `row_bytes` bytes. A table has unused entries (run ==
// null) at its end.
struct CeilingKernel {
  int32_t bits, width, row_bytes;
  void (*run)(const CeilingTask&) noexcept;
};

struct CeilingKernels {
  CeilingKernel variants[24];
};

// Additions per second of the fastest variant on the calling thread, for the instruction set that
// current_isa() names: the median over slices of `seconds` per variant.
// What adds rows of 8 bits adds rows of 7. Throws std::invalid_argument for other bits.
double row_adds_per_second(int bits, double seconds);

}  // namespace stmixer::engine
