#pragma once
// Rows taken a few vectors at a time, for kernels bound by arithmetic and by stores, not by memory:
// what such a kernel keeps or uses over the steps stays in registers. Plain loops over short rows
// would not do: the compiler unrolls them before it gets to vectorise.
#include "common/simd.h"

namespace stmixer {
namespace {

// A few vectors of a row: four where there are 32 registers for them, two where there are 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTile = 4;
#else
constexpr int kTile = 2;
#endif

template <class R>
constexpr int kTileSize = kTile * kLanes<R>;

template <class R>
struct Tile {
  Vec<R> lanes[kTile];

  static Tile at(const R* row) {
    Tile tile;
    for (int k = 0; k < kTile; ++k) tile.lanes[k] = load(row + k * kLanes<R>);
    return tile;
  }
  void store_at(R* row) const {
    for (int k = 0; k < kTile; ++k) store(row + k * kLanes<R>, lanes[k]);
  }
};

}  // namespace
}  // namespace stmixer
