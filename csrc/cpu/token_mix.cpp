#include "stmixer/token_mix.h"

#include "cpu/blocks.h"
#include "cpu/dispatch.h"

namespace stmixer {

// Spikes, currents and membranes of one group of channels.
int64_t token_mix_scratch_bytes(int64_t pitch, Dtype dtype) {
  return 3 * kMixChannels * pitch * (dtype == Dtype::f64 ? 8 : 4);
}

void token_mix(const TokenMix& p, int threads) {
  const auto& kernels = STMIXER_TABLE(token_mix_kernels);
  const int64_t groups = ceil_div(p.channels / p.heads, kMixChannels);
  const int64_t scratch = token_mix_scratch_bytes(p.pitch, p.dtype);
  parallel_ranges(p.batch * p.heads * groups,
                  useful_threads(p.steps * p.batch * p.channels * p.tokens, threads),
                  [&](int64_t begin, int64_t end, int thread) {
                    kernels.run(p, begin, end, static_cast<char*>(p.scratch) + thread * scratch);
                  });
}

}  // namespace stmixer
