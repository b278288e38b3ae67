#include "engine/tables.h"

namespace stmixer::engine {

STMIXER_DECLARE_TABLE(ListKernels, list_kernels);
STMIXER_DECLARE_TABLE(ProjectKernels, project_kernels);
STMIXER_DECLARE_TABLE(IntegerKernels, integer_kernels);
STMIXER_DECLARE_TABLE(FinishKernels, finish_kernels);

Kernels kernels_of(Isa isa) {
  return {STMIXER_PICK_TABLE(list_kernels, isa), STMIXER_PICK_TABLE(project_kernels, isa),
          STMIXER_PICK_TABLE(integer_kernels, isa), STMIXER_PICK_TABLE(finish_kernels, isa)};
}

}  // namespace stmixer::engine
