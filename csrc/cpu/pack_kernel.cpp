#include "cpu/rows.h"
#include "cpu/tables.h"

namespace stmixer {
namespace {

constexpr int kChunk = 512;  // spikes converted at a time

void pack(const PackRows& p, int64_t begin, int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using In = Pointee<decltype(in)>;
    using R = Pointee<decltype(state)>;
    const int64_t words = (p.length + 31) / 32;
    R buffer[kChunk];
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t at = 0; at < p.length; at += kChunk) {
        const In* s = static_cast<const In*>(p.s) + row * p.length + at;
        uint32_t* bits = p.bits + row * words + at / 32;
        const int n = static_cast<int>(p.length - at < kChunk ? p.length - at : kChunk);
        const R* values = read_row(s, buffer, n);
        pack_row(values, bits, n / 32 * 32);
        if (n % 32 != 0) {
          R tail[32] = {};
          for (int i = 0; i < n % 32; ++i) tail[i] = values[n / 32 * 32 + i];
          pack_row(tail, bits + n / 32, 32);
        }
      }
    }
  });
}

void unpack(const UnpackRows& p, int64_t begin, int64_t end) noexcept {
  with_types(p.dtype, [&](auto* in, auto* state) {
    using In = Pointee<decltype(in)>;
    using R = Pointee<decltype(state)>;
    const int64_t words = (p.length + 31) / 32;
    R buffer[32];
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t w = 0; w < words; ++w) {
        In* s = static_cast<In*>(p.s) + row * p.length + 32 * w;
        const uint32_t word = p.bits[row * words + w];
        const int n = static_cast<int>(p.length - 32 * w < 32 ? p.length - 32 * w : 32);
        R* out = result_row(s, buffer);
        for (int i = 0; i < n; ++i) out[i] = static_cast<R>((word >> i) & 1u);
        finish_row(out, s, n);
      }
    }
  });
}

}  // namespace

STMIXER_DEFINE_TABLE(PackKernels, pack_kernels) = {pack, unpack};

}  // namespace stmixer
