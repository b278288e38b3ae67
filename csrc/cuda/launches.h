#pragma once
// The launches that make up a call of an op: which kernel, how many blocks, which parameters. Plain
// host code without a toolkit: a launcher in this library (launch.h) or one in Python, by CuPy,
// only carries a plan out.
#include <vector>

#include "cuda/parameters.h"

namespace stmixer {
namespace cuda {

struct KernelLaunch {
  const char *file, *kernel;
  uint32_t blocks;  // of kThreads threads
  uint32_t shared;  // bytes of dynamic shared memory
  std::vector<unsigned char> parameters;
};

using Plan = std::vector<KernelLaunch>;

// Bytes of device memory that a call needs for itself, 16-byte aligned, and the plan that uses it.
// Throws std::invalid_argument where there would be more blocks than a launch can have.
int64_t scratch_bytes(const LifForward& p);
int64_t scratch_bytes(const LifBackward& p);
int64_t scratch_bytes(const BnLifForward& p);
int64_t scratch_bytes(const BnLifBackward& p);
int64_t scratch_bytes(const PackRows& p);
int64_t scratch_bytes(const UnpackRows& p);
Plan make_plan(const LifForward& p, void* scratch);
Plan make_plan(const LifBackward& p, void* scratch);
Plan make_plan(const BnLifForward& p, void* scratch);
Plan make_plan(const BnLifBackward& p, void* scratch);
Plan make_plan(const PackRows& p, void* scratch);
Plan make_plan(const UnpackRows& p, void* scratch);

}  // namespace cuda
}  // namespace stmixer
