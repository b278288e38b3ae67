#pragma once
#include "common/isa_table.h"

namespace stmixer {

// Best instruction set of this machine, or the one that STMIXER_CPU_ISA forces.
// Throws std::runtime_error if the forced one is unknown or not supported here.
Isa current_isa();

bool isa_supported(Isa isa);
const char* isa_name(Isa isa);

}  // namespace stmixer
