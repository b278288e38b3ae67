#include "cuda/launch.h"

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>
#include <unordered_map>

#include "cuda/table.h"

namespace stmixer {
namespace cuda {

namespace {

std::unordered_map<std::string, const void*>& table() {
  static std::unordered_map<std::string, const void*> kernels;
  return kernels;
}

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": CUDA error " + cudaGetErrorName(error) + ": " +
                           cudaGetErrorString(error));
}

}  // namespace

TableEntry::TableEntry(const char* name, const void* kernel) { table()[name] = kernel; }

void launch(const Plan& plan, int device, void* stream) {
  if (plan.empty()) return;
  check(cudaSetDevice(device), plan.front().kernel);
  for (const KernelLaunch& k : plan) {
    const void* kernel = table().at(k.kernel);
    if (k.shared)  // beyond 48 KiB only where that was asked for
      check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(k.shared)),
            k.kernel);
    void* arguments[] = {const_cast<unsigned char*>(k.parameters.data())};
    check(cudaLaunchKernel(kernel, dim3(k.blocks), dim3(kThreads), arguments, k.shared,
                           static_cast<cudaStream_t>(stream)),
          k.kernel);
  }
}

}  // namespace cuda
}  // namespace stmixer
