#include "bindings.h"

#include "cuda/launches.h"
#include "stmixer/bn_lif.h"
#include "stmixer/lif.h"
#include "stmixer/pack.h"
#ifdef STMIXER_HAS_CUDA
#include "cuda/launch.h"
#endif

// A call of a kernel, once for all devices: an object of plain parameters that Python fills in and
// then runs on the CPU, on a GPU by the kernels built in here, or by the plan of their launches.

namespace stmixer {

namespace py = pybind11;

namespace {

// Scratch in bytes per thread, and the call, for each op on the CPU.
template <class Parameters>
int64_t cpu_scratch_bytes(const Parameters&) {
  return 0;
}
int64_t cpu_scratch_bytes(const LifBackward& p) { return lif_scratch_bytes(p.steps, p.dtype); }
int64_t cpu_scratch_bytes(const BnLifBackward& p) { return bn_lif_scratch_bytes(p.steps, p.dtype); }

void cpu_run(const LifForward& p, void*, int threads) { lif_forward(p, threads); }
void cpu_run(const BnLifForward& p, void*, int threads) { bn_lif_forward(p, threads); }
void cpu_run(const PackRows& p, void*, int threads) { pack_rows(p, threads); }
void cpu_run(const UnpackRows& p, void*, int threads) { unpack_rows(p, threads); }
void cpu_run(LifBackward p, void* scratch, int threads) {
  p.scratch = scratch;
  lif_backward(p, threads);
}
void cpu_run(BnLifBackward p, void* scratch, int threads) {
  p.scratch = scratch;
  bn_lif_backward(p, threads);
}

// [(file, kernel, blocks, threads, bytes of shared memory, parameters)]
py::list as_list(const cuda::Plan& plan) {
  py::list launches;
  for (const cuda::KernelLaunch& k : plan)
    launches.append(py::make_tuple(
        k.file, k.kernel, k.blocks, cuda::kThreads, k.shared,
        py::bytes(reinterpret_cast<const char*>(k.parameters.data()), k.parameters.size())));
  return launches;
}

template <class Parameters, class Make>
void bind_parameters(py::module_& m, const char* name, const Make& make) {
  py::class_<Parameters>(m, name)
      .def(py::init(make))
      .def("cpu_scratch_bytes", [](const Parameters& p) { return cpu_scratch_bytes(p); })
      .def(
          "cpu_run",
          [](const Parameters& p, Address scratch, int threads) {
            cpu_run(p, pointer(scratch), threads);
          },
          Unlocked())
      .def("cuda_scratch_bytes", [](const Parameters& p) { return cuda::scratch_bytes(p); })
      .def("cuda_plan",
           [](const Parameters& p, Address scratch) {
             return as_list(cuda::make_plan(p, pointer(scratch)));
           })
#ifdef STMIXER_HAS_CUDA
      .def(
          "cuda_run",
          [](const Parameters& p, Address scratch, int device, Address stream) {
            cuda::launch(cuda::make_plan(p, pointer(scratch)), device, pointer(stream));
          },
          Unlocked())
#endif
      ;
}

void bind_lif(py::module_& m) {
  bind_parameters<LifForward>(
      m, "LifForward",
      [](int dtype, int64_t steps, int64_t neurons, int64_t x_step, const Neuron& neuron, Address x,
         Address v_init, Address s, Address v_out, Address bits) {
        return LifForward{
            Dtype(dtype), steps,           neurons,    x_step,         neuron,
            pointer(x),   pointer(v_init), pointer(s), pointer(v_out), pointer<uint32_t>(bits)};
      });
  bind_parameters<LifBackward>(
      m, "LifBackward",
      [](int dtype, int64_t steps, int64_t neurons, int64_t x_step, const Neuron& neuron, Address x,
         Address v_init, Address gs, Address gv, Address gx, Address gv_init) {
        return LifBackward{Dtype(dtype), steps,       neurons,          x_step,
                           neuron,       pointer(x),  pointer(v_init),  pointer(gs),
                           pointer(gv),  pointer(gx), pointer(gv_init), nullptr};
      });
}

void bind_bn_lif(py::module_& m) {
  bind_parameters<BnLifForward>(
      m, "BnLifForward",
      [](int dtype, int64_t steps, int64_t neurons, int64_t x_step, int64_t residual_step,
         int64_t channels, int64_t inner, const Neuron& neuron, double eps, Address weight,
         Address bias, Address mean, Address var, bool training, Address x, Address residual,
         Address v_init, Address sum, Address s, Address v_out, Address bits) {
        return BnLifForward{Dtype(dtype),
                            steps,
                            neurons,
                            x_step,
                            residual_step,
                            {channels, inner},
                            neuron,
                            {eps, pointer(weight), pointer(bias), pointer(mean), pointer(var)},
                            training,
                            pointer(x),
                            pointer(residual),
                            pointer(v_init),
                            pointer(sum),
                            pointer(s),
                            pointer(v_out),
                            pointer<uint32_t>(bits)};
      });
  bind_parameters<BnLifBackward>(
      m, "BnLifBackward",
      [](int dtype, int64_t steps, int64_t neurons, int64_t x_step, int64_t channels, int64_t inner,
         const Neuron& neuron, double eps, Address weight, Address bias, Address mean, Address var,
         bool training, Address x, Address sum, Address v_init, Address gs, Address gsum,
         Address gv, Address g, Address gx, Address gweight, Address gbias, Address gv_init) {
        return BnLifBackward{Dtype(dtype),
                             steps,
                             neurons,
                             x_step,
                             {channels, inner},
                             neuron,
                             {eps, pointer(weight), pointer(bias), pointer(mean), pointer(var)},
                             training,
                             pointer(x),
                             pointer(sum),
                             pointer(v_init),
                             pointer(gs),
                             pointer(gsum),
                             pointer(gv),
                             pointer(g),
                             pointer(gx),
                             pointer(gweight),
                             pointer(gbias),
                             pointer(gv_init),
                             nullptr};
      });
}

void bind_pack(py::module_& m) {
  bind_parameters<PackRows>(
      m, "PackRows", [](int dtype, int64_t rows, int64_t length, Address s, Address bits) {
        return PackRows{Dtype(dtype), rows, length, pointer(s), pointer<uint32_t>(bits)};
      });
  bind_parameters<UnpackRows>(
      m, "UnpackRows", [](int dtype, int64_t rows, int64_t length, Address bits, Address s) {
        return UnpackRows{Dtype(dtype), rows, length, pointer<uint32_t>(bits), pointer(s)};
      });
}

}  // namespace

void bind_kernels(py::module_& m) {
#ifdef STMIXER_HAS_CUDA
  m.attr("CUDA_BUILT_IN") = true;
#else
  m.attr("CUDA_BUILT_IN") = false;
#endif
  bind_lif(m);
  bind_bn_lif(m);
  bind_pack(m);
}

}  // namespace stmixer
