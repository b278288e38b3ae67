// Spikes to bits and back; a thread takes a byte of bits.
#include "cuda/lanes.h"

namespace stmixer {
namespace cuda {

template <class T>
STMIXER_DEVICE void pack_rows(const PackLaunch& launch) {
  typedef State<T> R;
  const Span span = packed_span(launch.rows, launch.vector, blockIdx.x, threadIdx.x);
  if (span.count < 0) return;
  const Lanes<R> spikes = widen_row(load_row(static_cast<const T*>(launch.p.s), span));
  unsigned byte = 0;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) byte |= static_cast<unsigned>(spikes.at[k] > R(0)) << k;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  reinterpret_cast<uint8_t*>(launch.p.bits)[index] = static_cast<uint8_t>(byte);
}

template <class T>
STMIXER_DEVICE void unpack_rows(const UnpackLaunch& launch) {
  typedef State<T> R;
  const Span span = packed_span(launch.rows, launch.vector, blockIdx.x, threadIdx.x);
  if (span.count <= 0) return;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const unsigned byte = reinterpret_cast<const uint8_t*>(launch.p.bits)[index];
  Lanes<R> spikes;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) spikes.at[k] = static_cast<R>((byte >> k) & 1u);
  store_row(narrow_row<T>(spikes), static_cast<T*>(launch.p.s), span);
}

}  // namespace cuda
}  // namespace stmixer

#define STMIXER_PACK(name, T)                                \
  STMIXER_KERNEL(pack_rows_##name, PackLaunch, pack_rows<T>) \
  STMIXER_KERNEL(unpack_rows_##name, UnpackLaunch, unpack_rows<T>)

STMIXER_PACK(f32, float)
STMIXER_PACK(f64, double)
STMIXER_PACK(bf16, stmixer::Bf16)
STMIXER_PACK(f16, stmixer::F16)
