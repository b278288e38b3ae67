#pragma once
// One function per file of bindings; each takes addresses and sizes, fills a parameter struct and
// calls. Nothing here knows PyTorch: the Python launchers own every tensor.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "stmixer/neuron.h"

namespace stmixer {

using Address = std::uintptr_t;

template <class T = void>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

using Unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;

void bind_ops(pybind11::module_& m);
void bind_kernels(pybind11::module_& m);  // after bind_ops, which brings Neuron
void bind_engine(pybind11::module_& m);
void bind_ceiling(pybind11::module_& m);
void bind_events(pybind11::module_& m);

}  // namespace stmixer
