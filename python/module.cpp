#include "bindings.h"

PYBIND11_MODULE(_C, m) {
  m.doc() =
      "C++ kernels and engine of stmixer_ops; addresses in, nothing allocated for the caller.";
  stmixer::bind_ops(m);
  stmixer::bind_kernels(m);
  stmixer::bind_engine(m);
  stmixer::bind_ceiling(m);
  stmixer::bind_events(m);
}
