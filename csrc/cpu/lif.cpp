#include "stmixer/lif.h"

#include "cpu/blocks.h"
#include "cpu/dispatch.h"

namespace stmixer {

int64_t lif_scratch_bytes(int64_t steps, Dtype dtype) {
  return kLifBuffers * steps * kHistoryBlock * state_size(dtype);
}

void lif_forward(const LifForward& p, int threads) {
  const auto& kernels = STMIXER_TABLE(lif_kernels);
  parallel_ranges(ceil_div(p.neurons, kHistoryBlock), useful_threads(p.steps * p.neurons, threads),
                  [&](int64_t begin, int64_t end, int) { kernels.forward(p, begin, end); });
}

void lif_backward(const LifBackward& p, int threads) {
  const auto& kernels = STMIXER_TABLE(lif_kernels);
  const int64_t scratch = lif_scratch_bytes(p.steps, p.dtype);
  parallel_ranges(ceil_div(p.neurons, kHistoryBlock), useful_threads(p.steps * p.neurons, threads),
                  [&](int64_t begin, int64_t end, int thread) {
                    kernels.backward(p, begin, end,
                                     static_cast<char*>(p.scratch) + thread * scratch);
                  });
}

}  // namespace stmixer
