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

// Notes that a block is reached; returns by what its lanes are still to be multiplied, if `fused`.
template <class T>
inline float arrive(Cells<T>& cells, int32_t block, bool fused) {
  Block& b = cells.blocks[block];
  if (b.round == cells.round) return 1.0f;
  b.round = cells.round;
  b.hot = 0;
  cells.touched[cells.touched_count++] = block;
  if (cells.visited != nullptr)
    for (int i = 0; i < cells.words; ++i) cells.visited[int64_t{block} * cells.words + i] = 0;
  const int64_t dt = cells.now - b.time;
  b.time = cells.now;
  if (dt == 0) return 1.0f;
  if (fused)
    return static_cast<float>(leak_factor(*(cells.leaks + block * cells.leak_of_block), dt));
  bring_forward(cells, block, dt);
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
        arrive(cells, block, false);
        if (cells.visited != nullptr) visit(cells, rows, block, lane, at);
        const T* thresholds = thresholds_of(cells, block) + lane * step;
        cells.blocks[block].hot |=
            add_times(cells.v + int64_t{block} * cells.lanes + lane, rows.weights + at, rows.length,
                      static_cast<T>(arrival.count), thresholds, step);
      }
    }
  }
}

// Rows of whole blocks, single spikes.
template <class T, bool kLeak, bool kUniform>
void deliver_whole(Cells<T>& cells, const RowsView<T>& rows, const Arrival* arrivals,
                   int32_t count) {
  const int lanes = cells.lanes;
  for (int32_t a = 0; a < count; ++a) {
    const Arrival& arrival = arrivals[a];
    const T* group = rows.weights + (arrival.channel / rows.group) * rows.group_weights;
    for (int32_t t = rows.first[arrival.pixel]; t < rows.first[arrival.pixel + 1]; ++t) {
      const Touch& touch = rows.touches[t];
      const T* w = group + touch.weights;
      const int32_t begin = touch.block + arrival.channel * rows.block_step;
      const int32_t end = begin + touch.blocks;
      T* v = cells.v + int64_t{begin} * lanes;
      if constexpr (!kLeak && kUniform) {
        // The blocks are neighbours: one long row.
        for (int32_t b = begin; b < end; ++b) arrive(cells, b, false);
        if (add<false, true>(v, w, lanes * touch.blocks, 1.0f, cells.thresholds))
          for (int32_t b = begin; b < end; ++b) cells.blocks[b].hot = 1;
      } else {
        for (int32_t b = begin; b < end; ++b, v += lanes, w += lanes) {
          const float factor = arrive(cells, b, kLeak);
          const T* thresholds = thresholds_of(cells, b);
          const bool hot = kLeak && factor != 1.0f
                               ? add<true, kUniform>(v, w, lanes, factor, thresholds)
                               : add<false, kUniform>(v, w, lanes, 1.0f, thresholds);
          cells.blocks[b].hot |= hot;
        }
      }
    }
  }
}

template <class T>
void deliver(Cells<T>& cells, const RowsView<T>& rows, const Arrival* arrivals,
             int32_t count) noexcept {
  bool single = cells.visited == nullptr && rows.length == cells.lanes;
  for (int32_t a = 0; a < count; ++a) single &= arrivals[a].count == 1;
  const bool drifts = cells.drift.limit != nullptr || cells.drift.slope != nullptr;
  if (!single || drifts || (cells.leaks != nullptr && cells.leak_of_lane != 0))
    return deliver_any(cells, rows, arrivals, count);
  if (cells.leaks != nullptr)
    return cells.uniform ? deliver_whole<T, true, true>(cells, rows, arrivals, count)
                         : deliver_whole<T, true, false>(cells, rows, arrivals, count);
  return cells.uniform ? deliver_whole<T, false, true>(cells, rows, arrivals, count)
                       : deliver_whole<T, false, false>(cells, rows, arrivals, count);
}

template <class T>
void bias(Cells<T>& cells, const T* values) noexcept {
  const int step = cells.uniform ? 0 : 1;
  for (int32_t block = 0; block < cells.block_count; ++block) {
    arrive(cells, block, false);
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
  arrive(cells, block, false);
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

template <class T>
int32_t find(const Cells<T>& cells, int32_t block, int32_t* lanes) noexcept {
  const T* v = cells.v + int64_t{block} * cells.lanes;
  const T* thresholds = thresholds_of(cells, block);
  const int step = cells.uniform ? 0 : 1;
  const uint64_t* visited = cells.visited ? cells.visited + int64_t{block} * cells.words : nullptr;
  int32_t count = 0;
  for (int lane = 0; lane < cells.lanes; ++lane) {
    if (!(v[lane] >= thresholds[lane * step])) continue;
    if (visited != nullptr && !(visited[lane / 64] >> (lane & 63) & 1)) continue;
    lanes[count++] = lane;
  }
  return count;
}

}  // namespace

STMIXER_DEFINE_TABLE(Kernels, event_kernels) = {
    {deliver<float>, bias<float>, touch<float>, clamp<float>, find<float>},
    {deliver<int64_t>, bias<int64_t>, touch<int64_t>, clamp<int64_t>, find<int64_t>}};

}  // namespace stmixer::events
