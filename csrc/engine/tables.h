#pragma once
#include "common/cpu_features.h"
#include "engine/kernels.h"

namespace stmixer::engine {

const ListKernels& list_kernels(Isa isa);
const ProjectKernels& project_kernels(Isa isa);

}  // namespace stmixer::engine
