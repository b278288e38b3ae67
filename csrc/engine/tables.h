#pragma once
#include "common/cpu_features.h"
#include "engine/integer_kernels.h"
#include "engine/kernels.h"

namespace stmixer::engine {

// The kernels of one instruction set.
struct Kernels {
  const ListKernels& lists;
  const ProjectKernels& project;
  const IntegerKernels& integer;
  const FinishKernels& finish;
};

Kernels kernels_of(Isa isa);

}  // namespace stmixer::engine
