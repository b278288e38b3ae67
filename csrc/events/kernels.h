#pragma once
// What the kernels of the simulator are told. Plain numbers and addresses: this header is compiled
// once per instruction set and may define nothing that the linker would have to merge.
#include <cstdint>

#include "common/isa_table.h"

namespace stmixer::events {

// Neurons lie in blocks of lanes, which spikes reach together: the channels of a position or, where
// tokens are mixed, the tokens of a channel.
struct Block {
  int64_t time;       // of its membranes
  uint32_t round;     // the latest in which it was reached
  uint16_t segments;  // which of them were reached then, a bit each
  uint16_t hot;       // whether a lane was at its threshold when something was added to it then
};

// Projections that write beside each other write segments of the lanes of a block, whole.
constexpr int kMostSegments = 16;

// What a membrane keeps after dt microseconds: coarse[dt / 256] * fine[dt % 256].
constexpr int kFineBits = 8;
struct LeakTable {
  const double* coarse;
  const double* fine;
  int64_t entries;  // of coarse
  double rate;      // beyond the table: exp(rate * dt)
};

// A constant current, per lane: v tends to `limit` with the leak or, without one, grows by `slope`
// a microsecond.
template <class T>
struct Drift {
  const T* limit;
  const double* slope;
};

// The neurons of a population, and what a round has reached. v is [blocks][lanes].
template <class T>
struct Cells {
  T* v;
  Block* blocks;
  uint64_t* visited;  // [blocks][words], bits of the lanes reached in this round; null: all
  int32_t* touched;   // blocks reached in this round, in order of arrival
  int64_t now;
  int32_t touched_count, block_count, lanes, words;
  uint32_t round;
  uint16_t all_segments;
  // Of lane l in block b: thresholds[(b / blocks_per_row) * lanes + l].
  const T* thresholds;
  int32_t blocks_per_row;
  bool uniform;  // thresholds are one number
  // Leaks of lanes [lanes], of blocks [blocks] or one; none: null.
  const LeakTable* leaks;
  int32_t leak_of_block, leak_of_lane;
  Drift<T> drift;  // of lanes; limit or slope is null without a current
};

struct Arrival {
  int32_t channel, pixel;
  int32_t count;
};

// A run of blocks that a spike reaches, and where the weights for it begin.
struct Touch {
  int32_t block, blocks;
  int64_t weights;
};

// The weights of a projection as rows; see rows.h.
template <class T>
struct RowsView {
  const T* weights;
  const int32_t* first;  // per pixel of the source, into touches
  const Touch* touches;
  int64_t group_weights;          // weights of a source channel, or of a head
  int32_t group;                  // source channels that share them
  int32_t lane, length;           // lanes of a block that are written
  int32_t block_step, lane_step;  // what the source channel adds to block and lane
  uint16_t segments;              // bits: which parts of the lanes
  const uint64_t* nonzero;        // per weight a bit, if visits need it
};

template <class T>
struct DeliverKernels {
  // Adds the rows of the arrivals; may reach blocks.
  void (*deliver)(Cells<T>&, const RowsView<T>&, const Arrival*, int32_t count) noexcept;
  // Adds a value per lane to all neurons: those that are not 0 are visits.
  void (*bias)(Cells<T>&, const T* values) noexcept;
  // Reaches a block for its neurons to be tested.
  void (*touch)(Cells<T>&, int32_t block) noexcept;
  // Limits the visited lanes of a block.
  void (*clamp)(Cells<T>&, int32_t block, T low, T high) noexcept;
  // Visited lanes at or above their threshold; returns how many.
  int32_t (*find)(const Cells<T>&, int32_t block, int32_t* lanes) noexcept;
};

struct Kernels {
  DeliverKernels<float> real;
  DeliverKernels<int64_t> integer;
};

}  // namespace stmixer::events
