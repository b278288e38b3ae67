#include "stmixer/pack.h"

#include "cpu/dispatch.h"

namespace stmixer {

void pack_rows(const PackRows& p, int threads) {
  const auto& kernels = STMIXER_TABLE(pack_kernels);
  parallel_ranges(p.rows, useful_threads(p.rows * p.length, threads),
                  [&](int64_t begin, int64_t end, int) { kernels.pack(p, begin, end); });
}

void unpack_rows(const UnpackRows& p, int threads) {
  const auto& kernels = STMIXER_TABLE(pack_kernels);
  parallel_ranges(p.rows, useful_threads(p.rows * p.length, threads),
                  [&](int64_t begin, int64_t end, int) { kernels.unpack(p, begin, end); });
}

}  // namespace stmixer
