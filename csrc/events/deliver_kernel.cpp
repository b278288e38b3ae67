// Rows of weights are added to membranes. A block is brought to the present by the first row that
// reaches it in a round, and marked hot if a lane reached its threshold: a superset of the blocks
// in which a neuron fires, so that quiet blocks are never looked at.
#include <cmath>
#include <cstdint>

#include "common/simd.h"
#include "events/kernels.h"
#include "events/leak_factor.h"

namespace stmixer::events {
namespace {

constexpr int kLeakBits = 15;

// What is left of a membrane; integers keep 15 bits of the factor and are rounded to the nearest.
inline void scale(float* v, int n, float factor) {
  for (int i = 0; i < n; ++i) v[i] *= factor;
}
inline void scale(int64_t* v, int n, float factor) {
  const auto decay = static_cast<int64_t>(std::lrint(double{factor} * (1 << kLeakBits)));
  for (int i = 0; i < n; ++i)
    v[i] = static_cast<int64_t>((static_cast<__int128>(v[i]) * decay + (1 << (kLeakBits - 1))) >>
                                kLeakBits);
}

// v += w, after v was multiplied with a factor; whether a lane is at its threshold.
template <bool kLeak, bool kUniform>
inline bool add(float* v, const float* w, int n, float factor, const float* thresholds) {
  constexpr int kF = kLanes<float>;
  const VecF32 first = VecF32{} + thresholds[0];
  VecF32 most = VecF32{} - INFINITY;
  uint32_t any = 0;
  int i = 0;
  for (; i + kF <= n; i += kF) {
    VecF32 x = load(v + i);
    if constexpr (kLeak) x = x * factor;
    x = x + load(w + i);
    store(v + i, x);
    if constexpr (kUniform)
      most = x > most ? x : most;
    else
      any |= bits_at_least(x, load(thresholds + i));
  }
  if constexpr (kUniform) any = bits_at_least(most, first);
  for (; i < n; ++i) {
    float x = v[i];
    if constexpr (kLeak) x = x * factor;
    x = x + w[i];
    v[i] = x;
    any |= x >= thresholds[kUniform ? 0 : i];
  }
  return any != 0;
}

template <bool kLeak, bool kUniform>
inline bool add(int64_t* v, const int64_t* w, int n, float factor, const int64_t* thresholds) {
  if constexpr (kLeak) scale(v, n, factor);
  int64_t any = 0;
  for (int i = 0; i < n; ++i) {
    v[i] += w[i];
    any |= v[i] >= thresholds[kUniform ? 0 : i];
  }
  return any != 0;
}

template <class T>
inline bool add_times(T* v, const T* w, int n, T times, const T* thresholds, int step) {
  bool any = false;
  for (int i = 0; i < n; ++i) {
    v[i] += times * w[i];
    any |= v[i] >= thresholds[i * step];
  }
  return any;
}

template <class T>
inline const T* thresholds_of(const Cells<T>& cells, int32_t block) {
  return cells.uniform ? cells.thresholds
                       : cells.thresholds + int64_t{block / cells.blocks_per_row} * cells.lanes;
}

// A block that was behind, lane by lane where they differ.
template <class T>
void bring_forward(Cells<T>& cells, int32_t block, int64_t dt) {
  T* v = cells.v + int64_t{block} * cells.lanes;
  const LeakTable* leaks = cells.leaks ? cells.leaks + block * cells.leak_of_block : nullptr;
  const bool drifts = cells.drift.limit != nullptr || cells.drift.slope != nullptr;
  if (leaks == nullptr && !drifts) return;
  if (!drifts && cells.leak_of_lane == 0)
    return scale(v, cells.lanes, static_cast<float>(leak_factor(*leaks, dt)));
  for (int lane = 0; lane < cells.lanes; ++lane) {
    const float factor =
        leaks ? static_cast<float>(leak_factor(leaks[lane * cells.leak_of_lane], dt)) : 1.0f;
    if constexpr (sizeof(T) == sizeof(float)) {
      if (drifts) {
        v[lane] = drifted(v[lane], cells.drift.limit ? cells.drift.limit[lane] : 0.0f,
                          cells.drift.slope ? cells.drift.slope[lane] : 0.0, leaks != nullptr,
                          factor, dt);
        continue;
      }
    }
    scale(v + lane, 1, factor);
  }
}

// What an arrival has to look after: nothing but the round, a leak that the first row of a round is
// multiplied with, or anything.
enum class Care { round, leak, any };

// Notes that a block is reached. With Care::leak, returns by what its lanes are still to be
// multiplied.
template <Care kCare, class T>
inline float arrive(Cells<T>& cells, int32_t block) {
  Block& b = cells.blocks[block];
  if (b.round == cells.round) return 1.0f;
  b.round = cells.round;
  b.segments = b.hot = 0;
  cells.touched[cells.touched_count++] = block;
  if constexpr (kCare == Care::round) return 1.0f;
  const int64_t dt = cells.now - b.time;
  b.time = cells.now;
  if constexpr (kCare == Care::leak)
    return dt == 0 ? 1.0f
                   : static_cast<float>(leak_factor(cells.leaks[block * cells.leak_of_block], dt));
  if (cells.visited != nullptr)
    for (int i = 0; i < cells.words; ++i) cells.visited[int64_t{block} * cells.words + i] = 0;
  if (dt != 0) bring_forward(cells, block, dt);
  return 1.0f;
}

inline uint64_t read_bits(const uint64_t* bits, int64_t at, int count) {
  const int shift = static_cast<int>(at & 63);
  uint64_t word = bits[at >> 6] >> shift;
  if (shift + count > 64) word |= bits[(at >> 6) + 1] << (64 - shift);
  return count == 64 ? word : word & ((uint64_t{1} << count) - 1);
}

// Marks as visited the lanes from `lane` on whose weights are not 0.
template <class T>
inline void visit(Cells<T>& cells, const RowsView<T>& rows, int32_t block, int lane, int64_t at) {
  uint64_t* visited = cells.visited + int64_t{block} * cells.words;
  for (int done = 0; done < rows.length;) {
    const int bit = (lane + done) & 63;
    const int count = rows.length - done < 64 - bit ? rows.length - done : 64 - bit;
    const uint64_t mask = rows.nonzero != nullptr ? read_bits(rows.nonzero, at + done, count)
                          : count == 64           ? ~uint64_t{0}
                                                  : (uint64_t{1} << count) - 1;
    visited[(lane + done) >> 6] |= mask << bit;
    done += count;
  }
}

// Any row: parts of blocks, several spikes at once, visits lane by lane.
template <class T>
void deliver_any(Cells<T>& cells, const RowsView<T>& rows, const Arrival* arrivals, int32_t count) {
  const int step = cells.uniform ? 0 : 1;
  for (int32_t a = 0; a < count; ++a) {
    const Arrival& arrival = arrivals[a];
    const int64_t group = (arrival.channel / rows.group) * rows.group_weights;
    const int lane = rows.lane + arrival.channel * rows.lane_step;
    for (int32_t t = rows.first[arrival.pixel]; t < rows.first[arrival.pixel + 1]; ++t) {
      const Touch& touch = rows.touches[t];
      int64_t at = group + touch.weights;
      int32_t block = touch.block + arrival.channel * rows.block_step;
      for (const int32_t end = block + touch.blocks; block < end; ++block, at += rows.length) {
        arrive<Care::any>(cells, block);
        if (cells.visited != nullptr) visit(cells, rows, block, lane, at);
        cells.blocks[block].segments |= rows.segments;
        const T* thresholds = thresholds_of(cells, block) + lane * step;
        cells.blocks[block].hot |=
            add_times(cells.v + int64_t{block} * cells.lanes + lane, rows.weights + at, rows.length,
                      static_cast<T>(arrival.count), thresholds, step);
      }
    }
  }
}

// Rows lie anywhere: a row and the membranes that it is added to are asked for while the one before
// is added. Behind the first lines the hardware follows by itself.
template <class T>
inline void prefetch(const T* p, int count) {
  constexpr int kLines = 24;
  const char* line = reinterpret_cast<const char*>(p);
  const char* end = line + sizeof(T) * count;
  for (int i = 0; i < kLines && line < end; ++i, line += 64) __builtin_prefetch(line);
}

template <class T>
inline bool has_touch(const RowsView<T>& rows, const Arrival& arrival) {
  return rows.first[arrival.pixel] < rows.first[arrival.pixel + 1];
}

// Single spikes, of which no visits need telling apart within a segment.
template <class T, Care kCare, bool kUniform>
void deliver_plain(Cells<T>& given, const RowsView<T>& rows, const Arrival* arrivals,
                   int32_t count) {
  // A copy that the stores below cannot alias.
  Cells<T> cells;
  cells.blocks = given.blocks;
  cells.touched = given.touched;
  cells.touched_count = given.touched_count;
  cells.round = given.round;
  cells.now = given.now;
  cells.leaks = given.leaks;
  cells.leak_of_block = given.leak_of_block;
  const T* const all_thresholds = given.thresholds;
  const int lanes = given.lanes, length = rows.length, blocks_per_row = given.blocks_per_row;
  const bool whole = length == lanes;
  for (int32_t a = 0; a < count; ++a) {
    const Arrival arrival = arrivals[a];
    const T* group = rows.weights + (arrival.channel / rows.group) * rows.group_weights;
    const Touch* touch = rows.touches + rows.first[arrival.pixel];
    const Touch* const last = rows.touches + rows.first[arrival.pixel + 1];
    for (; touch < last; ++touch) {
      const T* w = group + touch->weights;
      if (touch + 1 < last) {
        prefetch(group + touch[1].weights, length * touch[1].blocks);
      } else if (a + 1 < count && has_touch(rows, arrivals[a + 1])) {
        const Arrival next = arrivals[a + 1];
        const Touch& t = rows.touches[rows.first[next.pixel]];
        prefetch(rows.weights + (next.channel / rows.group) * rows.group_weights + t.weights,
                 length * t.blocks);
        prefetch(given.v + int64_t{t.block + next.channel * rows.block_step} * lanes + rows.lane,
                 length);
      }
      const int32_t begin = touch->block + arrival.channel * rows.block_step;
      const int32_t end = begin + touch->blocks;
      T* v = given.v + int64_t{begin} * lanes + rows.lane;
      if (kCare == Care::round && kUniform && whole) {
        // The blocks are neighbours: one long row.
        for (int32_t b = begin; b < end; ++b) {
          arrive<kCare>(cells, b);
          cells.blocks[b].segments |= rows.segments;
        }
        if (add<false, true>(v, w, lanes * touch->blocks, 1.0f, all_thresholds))
          for (int32_t b = begin; b < end; ++b) cells.blocks[b].hot = 1;
        continue;
      }
      for (int32_t b = begin; b < end; ++b, v += lanes, w += length) {
        float factor = arrive<kCare>(cells, b);
        if (kCare == Care::leak && factor != 1.0f && !whole) {
          scale(v - rows.lane, lanes, factor);
          factor = 1.0f;
        }
        const T* thresholds =
            kUniform ? all_thresholds
                     : all_thresholds + int64_t{b / blocks_per_row} * lanes + rows.lane;
        const bool hot = kCare == Care::leak && factor != 1.0f
                             ? add<true, kUniform>(v, w, length, factor, thresholds)
                             : add<false, kUniform>(v, w, length, 1.0f, thresholds);
        cells.blocks[b].segments |= rows.segments;
        cells.blocks[b].hot |= hot;
      }
    }
  }
  given.touched_count = cells.touched_count;
}

template <class T>
void deliver(Cells<T>& cells, const RowsView<T>& rows, const Arrival* arrivals,
             int32_t count) noexcept {
  bool single = cells.visited == nullptr && rows.lane_step == 0;
  for (int32_t a = 0; a < count; ++a) single &= arrivals[a].count == 1;
  const bool drifts = cells.drift.limit != nullptr || cells.drift.slope != nullptr;
  if (!single || drifts || (cells.leaks != nullptr && cells.leak_of_lane != 0))
    return deliver_any(cells, rows, arrivals, count);
  if (cells.leaks != nullptr)
    return cells.uniform ? deliver_plain<T, Care::leak, true>(cells, rows, arrivals, count)
                         : deliver_plain<T, Care::leak, false>(cells, rows, arrivals, count);
  return cells.uniform ? deliver_plain<T, Care::round, true>(cells, rows, arrivals, count)
                       : deliver_plain<T, Care::round, false>(cells, rows, arrivals, count);
}

template <class T>
void bias(Cells<T>& cells, const T* values) noexcept {
  const int step = cells.uniform ? 0 : 1;
  for (int32_t block = 0; block < cells.block_count; ++block) {
    arrive<Care::any>(cells, block);
    cells.blocks[block].segments = cells.all_segments;
    T* v = cells.v + int64_t{block} * cells.lanes;
    const T* thresholds = thresholds_of(cells, block);
    for (int lane = 0; lane < cells.lanes; ++lane) {
      const T b = values[lane];
      v[lane] += b;
      cells.blocks[block].hot |= v[lane] >= thresholds[lane * step];
      if (cells.visited != nullptr && b != 0)
        cells.visited[int64_t{block} * cells.words + lane / 64] |= uint64_t{1} << (lane & 63);
    }
  }
}

template <class T>
void touch(Cells<T>& cells, int32_t block) noexcept {
  arrive<Care::any>(cells, block);
  cells.blocks[block].segments = cells.all_segments;
  cells.blocks[block].hot = 1;
}

template <class T>
void clamp(Cells<T>& cells, int32_t block, T low, T high) noexcept {
  T* v = cells.v + int64_t{block} * cells.lanes;
  const uint64_t* visited = cells.visited ? cells.visited + int64_t{block} * cells.words : nullptr;
  for (int lane = 0; lane < cells.lanes; ++lane) {
    if (visited != nullptr && !(visited[lane / 64] >> (lane & 63) & 1)) continue;
    v[lane] = v[lane] < low ? low : v[lane];
    v[lane] = v[lane] > high ? high : v[lane];
  }
}

// Bit i is whether lane i of a few is at its threshold.
template <bool kUniform>
inline uint32_t at_threshold(const float* v, const float* thresholds) {
  return bits_at_least(load(v), kUniform ? VecF32{} + thresholds[0] : load(thresholds));
}
template <bool kUniform>
inline uint32_t at_threshold(const int64_t* v, const int64_t* thresholds) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes<float>; ++i)
    bits |= static_cast<uint32_t>(v[i] >= thresholds[kUniform ? 0 : i]) << i;
  return bits;
}

template <class T, bool kUniform>
int32_t find_lanes(const Cells<T>& cells, int32_t block, int32_t* lanes) {
  constexpr int kStep = kLanes<float>;
  const T* v = cells.v + int64_t{block} * cells.lanes;
  const T* thresholds = thresholds_of(cells, block);
  const uint64_t* visited = cells.visited ? cells.visited + int64_t{block} * cells.words : nullptr;
  int32_t count = 0;
  const auto take = [&](int lane) {
    if (visited == nullptr || (visited[lane / 64] >> (lane & 63) & 1)) lanes[count++] = lane;
  };
  int lane = 0;
  for (; lane + kStep <= cells.lanes; lane += kStep)
    for (uint32_t bits = at_threshold<kUniform>(v + lane, thresholds + (kUniform ? 0 : lane));
         bits != 0; bits &= bits - 1)
      take(lane + __builtin_ctz(bits));
  for (; lane < cells.lanes; ++lane)
    if (v[lane] >= thresholds[kUniform ? 0 : lane]) take(lane);
  return count;
}

template <class T>
int32_t find(const Cells<T>& cells, int32_t block, int32_t* lanes) noexcept {
  return cells.uniform ? find_lanes<T, true>(cells, block, lanes)
                       : find_lanes<T, false>(cells, block, lanes);
}

}  // namespace

STMIXER_DEFINE_TABLE(Kernels, event_kernels) = {
    {deliver<float>, bias<float>, touch<float>, clamp<float>, find<float>},
    {deliver<int64_t>, bias<int64_t>, touch<int64_t>, clamp<int64_t>, find<int64_t>}};

}  // namespace stmixer::events
