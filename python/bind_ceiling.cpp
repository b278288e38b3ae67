#include "bindings.h"
#include "engine/ceiling.h"

namespace stmixer {

namespace py = pybind11;

void bind_ceiling(py::module_& m) {
  m.def("row_adds_per_second", &engine::row_adds_per_second, py::arg("bits"), py::arg("seconds"),
        Unlocked());
}

}  // namespace stmixer
