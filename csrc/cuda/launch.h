#pragma once
// Carries plans out with the kernels that were built into this library.
#include "cuda/launches.h"

namespace stmixer {
namespace cuda {

// On a stream of that device. Throws std::runtime_error with the kernel's name and the CUDA error.
void launch(const Plan& plan, int device, void* stream);

}  // namespace cuda
}  // namespace stmixer
