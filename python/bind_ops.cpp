#include "bindings.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <string>

#include "common/cpu_features.h"
#include "stmixer/token_mix.h"

namespace stmixer {

namespace py = pybind11;

namespace {

Neuron make_neuron(double threshold, double decay, bool hard, bool detach, int surrogate,
                   double scale) {
  const auto kind = static_cast<SurrogateKind>(surrogate);
  return {threshold, decay, hard, detach, kind, scale, surrogate_constant(kind, scale)};
}

// Distances between the elements of neighbouring indices, one per dimension.
template <size_t kCount>
void copy_strides(const std::array<int64_t, kCount>& from, int64_t (&to)[kCount]) {
  std::copy(from.begin(), from.end(), to);
}

void bind_token_mix(py::module_& m) {
  m.attr("MAX_MIX_TOKENS") = kMaxMixTokens;
  m.def("token_mix_scratch_bytes",
        [](int64_t pitch, int dtype) { return token_mix_scratch_bytes(pitch, Dtype(dtype)); });
  m.def(
      "token_mix",
      [](int dtype, const std::array<int64_t, 4>& sizes, int64_t heads,
         const std::array<int64_t, 4>& s_strides, const std::array<int64_t, 4>& out_strides,
         Address s, Address weight, int64_t pitch, Address out, const Neuron* neuron,
         Address v_init, Address v_out, const std::array<int64_t, 3>& v_strides, Address bits,
         Address scratch, int threads) {
        TokenMix p{};
        p.dtype = Dtype(dtype);
        p.steps = sizes[0];
        p.batch = sizes[1];
        p.channels = sizes[2];
        p.tokens = sizes[3];
        p.heads = heads;
        copy_strides(s_strides, p.s_strides);
        copy_strides(out_strides, p.out_strides);
        p.s = pointer(s);
        p.weight = pointer(weight);
        p.pitch = pitch;
        p.out = pointer(out);
        p.lif = neuron != nullptr;
        if (neuron) p.neuron = *neuron;
        p.v_init = pointer(v_init);
        p.v_out = pointer(v_out);
        copy_strides(v_strides, p.v_strides);
        p.bits = pointer<uint32_t>(bits);
        p.scratch = pointer(scratch);
        token_mix(p, threads);
      },
      Unlocked());
}

}  // namespace

void bind_ops(py::module_& m) {
  py::class_<Neuron>(m, "Neuron")
      .def(py::init(&make_neuron), py::arg("threshold"), py::arg("decay"), py::arg("hard"),
           py::arg("detach"), py::arg("surrogate"), py::arg("scale"));
  m.def("cpu_isa", [] { return std::string(isa_name(current_isa())); });
  m.def("cpu_isas", [] {
    py::list names;
    for (Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512})
      if (isa_supported(isa)) names.append(isa_name(isa));
    return names;
  });
  bind_token_mix(m);
}

}  // namespace stmixer
