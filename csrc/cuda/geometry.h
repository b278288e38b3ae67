#pragma once
// Who works where. The host counts blocks, the device asks for a thread's place; both compile these
// lines, and the tests do too.
#include "stmixer/bn_lif.h"

namespace stmixer {
namespace cuda {

// Neighbours in memory that a thread takes through all steps: 16 bytes of a narrow type, and one
// byte of bits.
constexpr int kLanes = 8;
constexpr int kThreads = 128;

// Channels and parts a block takes that adds up partial sums.
constexpr int kSumChannels = 8;
constexpr int kSumParts = kThreads / kSumChannels;

STMIXER_STEP int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The lanes of one thread: neurons [at, at + count) of every step. Whole ones are read and written
// 16 bytes at a time.
struct Span {
  int64_t at;
  int count;
  bool whole;
};

STMIXER_STEP Span make_span(int64_t at, int64_t room, bool vector) {
  const int count = static_cast<int>(room < 0 ? 0 : room < kLanes ? room : kLanes);
  return {at, count, vector && count == kLanes};
}

// The span of a thread where channels do not matter.
STMIXER_STEP Span lif_span(int64_t neurons, bool vector, int64_t block, int thread) {
  const int64_t at = (block * kThreads + thread) * kLanes;
  return make_span(at, neurons - at, vector);
}

// A step as rows of channels: [outer, width] with channels innermost, where every lane has its own
// channel, else [outer, planes = channels, width], where all lanes of a thread share one. A thread
// keeps its column, and so its channels, and goes down the rows.
struct ChannelTiles {
  int64_t outer, planes, width;
  int32_t columns, rows;  // threads of a block: columns of kLanes lanes, times rows
  int64_t tiles;          // blocks side by side over the width
  int64_t parts;          // blocks one below the other over `outer`
  bool per_lane;
};

STMIXER_STEP int64_t tile_blocks(const ChannelTiles& t) { return t.planes * t.tiles * t.parts; }

// Sums per channel that the blocks leave behind, one from every block of that channel.
STMIXER_STEP int64_t partial_sums(const ChannelTiles& t) {
  return t.per_lane ? t.parts : t.parts * t.tiles;
}

// `least` rows a thread before there are more blocks: small where threads share nothing, larger
// where every block leaves sums behind. The sums depend on this cut, and it on sizes alone, so
// results are the same on every device.
STMIXER_STEP ChannelTiles channel_tiles(int64_t neurons, ChannelLayout layout, int64_t least) {
  const int64_t most_blocks = 1024;
  ChannelTiles t;
  const int64_t inner = layout.channels == 1 ? neurons : layout.inner;
  t.per_lane = inner == 1;
  t.planes = t.per_lane ? 1 : layout.channels;
  t.width = t.per_lane ? layout.channels : inner;
  t.outer = neurons / (t.planes * t.width);
  const int64_t columns = ceil_divide(t.width, kLanes);
  const int64_t rows = t.outer < 8 ? t.outer : 8;
  t.tiles = ceil_divide(columns, kThreads / rows);
  t.columns = static_cast<int32_t>(ceil_divide(columns, t.tiles));
  t.rows = static_cast<int32_t>(t.outer < kThreads / t.columns ? t.outer : kThreads / t.columns);
  const int64_t useful = ceil_divide(t.outer, t.rows * least);
  const int64_t room = ceil_divide(most_blocks, t.planes * t.tiles);
  t.parts = useful < room ? useful : room;
  return t;
}

// Where a thread stands: its first row and its columns, which every row repeats.
struct ChannelPlace {
  int64_t part, tile, plane;
  int64_t row, column;
  bool active;
};

STMIXER_STEP ChannelPlace channel_place(const ChannelTiles& t, int64_t block, int thread) {
  ChannelPlace p;
  p.part = block % t.parts;
  p.tile = block / t.parts % t.tiles;
  p.plane = block / t.parts / t.tiles;
  p.row = p.part * t.rows + thread / t.columns;
  p.column = (p.tile * t.columns + thread % t.columns) * kLanes;
  p.active = p.column < t.width && thread < t.columns * t.rows;
  return p;
}

STMIXER_STEP Span channel_span(const ChannelTiles& t, const ChannelPlace& p, int64_t row,
                               bool vector) {
  return make_span((row * t.planes + p.plane) * t.width + p.column, t.width - p.column, vector);
}

STMIXER_STEP int64_t channel_of(const ChannelTiles& t, const ChannelPlace& p, int lane) {
  return t.per_lane ? p.column + lane : p.plane;
}

// Rows of bits as bytes: byte `index` is spikes [8 * byte, ...) of a row, padding has none.
struct PackedRows {
  int64_t rows, length, bytes;  // bytes a row, padded to whole words
};

STMIXER_STEP PackedRows packed_rows(int64_t rows, int64_t length) {
  // Rows of whole words lie one after the other, bits like spikes.
  if (length % 32 == 0) return {1, rows * length, rows * length / 8};
  return {rows, length, ceil_divide(length, 32) * 4};
}

STMIXER_STEP Span packed_span(const PackedRows& p, bool vector, int64_t block, int thread) {
  const int64_t index = block * kThreads + thread;
  const int64_t row = p.rows == 1 ? 0 : index / p.bytes;
  const int64_t at = (index - row * p.bytes) * 8;
  if (row >= p.rows || at >= p.bytes * 8) return {0, -1, false};
  return make_span(row * p.length + at, p.length - at, vector);
}

}  // namespace cuda
}  // namespace stmixer
