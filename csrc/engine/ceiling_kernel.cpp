// How fast rows can be added at all: random rows of a small table that stays in the L1 cache, sums
// in registers, nothing else. What the kernels of the engine reach is measured against the best.
#include <cstdint>

#include "common/simd.h"
#include "engine/ceiling.h"
#include "engine/row_pairs.h"

namespace stmixer::engine {
namespace {

template <class V>
inline V read(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// One load and one addition per vector: float32, or int16 that was int8 before it was packed. With
// several sets of sums, consecutive rows do not wait for each other.
template <class V, int kVectors, int kSets>
void plain(const CeilingTask& task) noexcept {
  const CeilingTask t = task;
  V sums[kSets][kVectors] = {};
  const char* rows = static_cast<const char*>(t.rows);
  for (int64_t i = 0; i + kSets <= t.count; i += kSets) {
    for (int s = 0; s < kSets; ++s) {
      const char* row = rows + t.order[i + s] * (kVectors * sizeof(V));
      for (int v = 0; v < kVectors; ++v) sums[s][v] += read<V>(row + v * sizeof(V));
    }
  }
  for (int s = 1; s < kSets; ++s)
    for (int v = 0; v < kVectors; ++v) sums[0][v] += sums[s][v];
  __builtin_memcpy(t.sums, sums[0], sizeof sums[0]);
}

// int8 or int16 rows, each value widened to twice its bits before it is added.
template <class Narrow, class Wide, int kVectors>
void widened(const CeilingTask& task) noexcept {
  const CeilingTask t = task;
  Wide sums[kVectors] = {};
  const char* rows = static_cast<const char*>(t.rows);
  for (int64_t i = 0; i < t.count; ++i) {
    const char* row = rows + t.order[i] * (kVectors * sizeof(Wide) / 2);
    for (int v = 0; v < kVectors; v += 2) {
      Wide wide[2];
      load_wide(reinterpret_cast<const Narrow*>(row + v * sizeof(Wide) / 2), wide);
      sums[v] += wide[0];
      sums[v + 1] += wide[1];
    }
  }
  __builtin_memcpy(t.sums, sums, sizeof sums);
}

// int8 rows two at a time. Of rows of 7 bits (kRows = 4) two add up in a byte before that.
template <int kVectors, int kRows>
void paired(const CeilingTask& task) noexcept {
  const CeilingTask t = task;
  VecI16 sums[2 * kVectors] = {};
  const char* rows = static_cast<const char*>(t.rows);
  for (int64_t i = 0; i + kRows <= t.count; i += kRows) {
    for (int v = 0; v < kVectors; ++v) {
      VecI8 x[kRows];
      for (int r = 0; r < kRows; ++r)
        x[r] = read<VecI8>(rows + (t.order[i + r] * kVectors + v) * sizeof(VecI8));
      if (kRows == 4) x[0] += x[2], x[1] += x[3];
      add_pair(x[0], x[1], sums[2 * v], sums[2 * v + 1]);
    }
  }
  __builtin_memcpy(t.sums, sums, sizeof sums);
}

constexpr int kF32 = kLanes<float>;
constexpr int kI16 = kVectorBytes / 2;

#define STMIXER_PLAIN(bits, Type, lanes, vectors, sets) \
  {bits, vectors * lanes, vectors * kVectorBytes, plain<Type, vectors, sets>}
#define STMIXER_WIDENED(bits, Narrow, Wide, lanes, vectors) \
  {bits, vectors * lanes, vectors * kVectorBytes / 2, widened<Narrow, Wide, vectors>}
#define STMIXER_PAIRED(bits, vectors, rows) \
  {bits, vectors * kVectorBytes, vectors * kVectorBytes, paired<vectors, rows>}

}  // namespace

// Whatever is fastest on a machine counts, so shapes that suit 16 and those that suit 32 registers
// stand side by side.
STMIXER_DEFINE_TABLE(CeilingKernels, ceiling_kernels) = {{
    STMIXER_PLAIN(32, VecF32, kF32, 1, 4),
    STMIXER_PLAIN(32, VecF32, kF32, 2, 2),
    STMIXER_PLAIN(32, VecF32, kF32, 2, 4),
    STMIXER_PLAIN(32, VecF32, kF32, 4, 1),
    STMIXER_PLAIN(32, VecF32, kF32, 4, 2),
    STMIXER_PLAIN(32, VecF32, kF32, 6, 1),
    STMIXER_PLAIN(32, VecF32, kF32, 12, 1),
    STMIXER_PLAIN(8, VecI16, kI16, 2, 2),
    STMIXER_PLAIN(8, VecI16, kI16, 4, 2),
    STMIXER_PLAIN(8, VecI16, kI16, 6, 1),
    STMIXER_WIDENED(8, int8_t, VecI16, kI16, 4),
    STMIXER_WIDENED(8, int8_t, VecI16, kI16, 6),
    STMIXER_WIDENED(16, int16_t, VecI32, kF32, 4),
    STMIXER_WIDENED(16, int16_t, VecI32, kF32, 6),
    STMIXER_WIDENED(16, int16_t, VecI32, kF32, 12),
    STMIXER_PAIRED(8, 1, 2),
    STMIXER_PAIRED(8, 2, 2),
    STMIXER_PAIRED(8, 3, 2),
    STMIXER_PAIRED(8, 4, 2),
    STMIXER_PAIRED(7, 1, 4),
    STMIXER_PAIRED(7, 2, 4),
    STMIXER_PAIRED(7, 3, 4),
    STMIXER_PAIRED(7, 4, 4),
}};

}  // namespace stmixer::engine
