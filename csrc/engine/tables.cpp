#include "engine/tables.h"

namespace stmixer::engine {

extern const ListKernels list_kernels_scalar;
extern const ProjectKernels project_kernels_scalar;
extern const IntegerKernels integer_kernels_scalar;
extern const FinishKernels finish_kernels_scalar;
#ifdef STMIXER_X86
extern const ListKernels list_kernels_avx2, list_kernels_avx512;
extern const ProjectKernels project_kernels_avx2, project_kernels_avx512;
extern const IntegerKernels integer_kernels_avx2, integer_kernels_avx512;
extern const FinishKernels finish_kernels_avx2, finish_kernels_avx512;
#endif

Kernels kernels_of(Isa isa) {
#ifdef STMIXER_X86
  if (isa == Isa::avx512)
    return {list_kernels_avx512, project_kernels_avx512, integer_kernels_avx512,
            finish_kernels_avx512};
  if (isa == Isa::avx2)
    return {list_kernels_avx2, project_kernels_avx2, integer_kernels_avx2, finish_kernels_avx2};
#endif
  (void)isa;
  return {list_kernels_scalar, project_kernels_scalar, integer_kernels_scalar,
          finish_kernels_scalar};
}

}  // namespace stmixer::engine
