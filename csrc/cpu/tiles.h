#pragma once
// Rows taken a few vectors at a time, for kernels bound by arithmetic and by stores, not by memory:
// what such a kernel keeps or uses over the steps stays in registers. Plain loops over short rows
// would not do: the compiler unrolls them before it gets to vectorise.
#include "common/simd.h"
#include "cpu/rows.h"

namespace stmixer {
namespace {

// A few vectors of a row.
constexpr int kTile = 4;

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

// A tile of which `count` values are there: narrow ones are converted, missing ones are any.
template <class R, class In>
Tile<R> read_tile(const In* row, int count) {
  if constexpr (std::is_same_v<In, R>) {
    if (count >= kTileSize<R>) return Tile<R>::at(row);
  }
  alignas(64) R values[kTileSize<R>] = {};
  if (count >= kTileSize<R>)
    for (int i = 0; i < kTileSize<R>; ++i) values[i] = widen(row[i]);
  else
    for (int i = 0; i < count; ++i) values[i] = widen(row[i]);
  return Tile<R>::at(values);
}

// Streamed out if that is asked for, converted if narrow, never past `count`. end_streams is due at
// the end.
template <class R, class Out>
void write_tile(const Tile<R>& tile, Out* row, int count, bool stream) {
  if constexpr (std::is_same_v<Out, R>) {
    if (count >= kTileSize<R> && !stream) return tile.store_at(row);
  }
  alignas(64) R values[kTileSize<R>];
  tile.store_at(values);
  finish_row(values, row, count < kTileSize<R> ? count : kTileSize<R>, true);
}

}  // namespace
}  // namespace stmixer
