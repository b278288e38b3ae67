#include <algorithm>
#include <cstdlib>
#include <limits>

#include "engine/pack.h"

namespace stmixer::engine {
namespace {

using Kind = Projection::Kind;

// Weight rows of a chunk of int8 weights, one block and one ky: 24 KB for pointwise layers, up to
// 36 KB for convolutions (measured: 12 KB -20 %, 48 KB pointwise -10 %, 18 KB conv -15 %).
int chunk_rows(const Geometry& g) { return g.kernel_w == 1 ? 384 : 576; }

constexpr int64_t kNarrowLimit = std::numeric_limits<int16_t>::max();

// Where in a row of int8 weights the kernel looks for a channel, see IntegerKernels: in each
// register the first halves of all 16-byte lanes, then the second halves.
int byte_position(int channel, int vector_bytes) {
  if (vector_bytes > kIntegerTile) return channel;
  const int half = vector_bytes / 2;
  const int first = channel / vector_bytes * vector_bytes, at = channel % vector_bytes;
  return first + at % half / 8 * 16 + at / half * 8 + at % 8;
}

// [output][in][taps], the outputs of all groups in a row.
template <class T>
struct Weights {
  const T* values;
  int outputs, in_channels, taps;

  const T* of(size_t output, int channel) const {
    return values + (output * in_channels + channel) * taps;
  }
};

// The sums of the positive and of the negative ones among some weights: what spikes can make of
// them lies between the two.
struct Range {
  int64_t positive = 0, negative = 0;

  void add(const Range& o) {
    positive += o.positive;
    negative += o.negative;
  }
  int64_t largest() const { return std::max(positive, -negative); }
};

template <class T>
Range range_of(const T* weights, size_t count) {
  constexpr size_t kRun = 1 << 15;  // whose sums 32 bits hold
  Range range;
  for (; count > 0;) {
    const size_t run = std::min(count, kRun);
    int32_t positive = 0, sum = 0;
    for (size_t i = 0; i < run; ++i) {
      const int32_t w = weights[i];
      positive += w > 0 ? w : 0;
      sum += w;
    }
    range.add({positive, sum - positive});
    weights += run;
    count -= run;
  }
  return range;
}

// How many blocks of channels in a row fit into 16 bits, whichever of their spikes come.
template <class T>
int safe_blocks(const Weights<T>& w, int block) {
  const int blocks = ceil_div(w.in_channels, block);
  std::vector<Range> ranges;  // [output][block]
  ranges.reserve(size_t(w.outputs) * blocks);
  for (int o = 0; o < w.outputs; ++o)
    for (int begin = 0; begin < w.in_channels; begin += block)
      ranges.push_back(
          range_of(w.of(o, begin), size_t(std::min(block, w.in_channels - begin)) * w.taps));
  const auto fits = [&](int safe) {
    Range sum;
    for (size_t i = 0; i < ranges.size(); ++i) {
      if (i % blocks % safe == 0) sum = {};
      sum.add(ranges[i]);
      if (sum.largest() > kNarrowLimit) return false;
    }
    return true;
  };
  int safe = blocks;
  while (safe > 0 && !fits(safe)) --safe;
  return safe;
}

std::vector<Tile> split_tiles(int channels, size_t rows) {
  std::vector<Tile> tiles;
  for (int first = 0; first < channels; first += kIntegerTile)
    tiles.push_back({first, kIntegerTile / kUnit, tiles.size() * rows * kIntegerTile});
  return tiles;
}

// [group][tile][block][ky][kx][c in block][channel in tile]. A block is small enough for the cache,
// so it is written column by column and the weights are read in order.
template <class T, class To, class Position>
void pack_rows(const Weights<T>& w, const ProjectStep& s, To* to, const Position& position) {
  const int block = s.block_channels;
  for (int g = 0; g < s.groups; ++g) {
    for (const Tile& tile : s.tiles) {
      const int outputs = std::min(kIntegerTile, s.target.channels - tile.first_channel);
      for (int begin = 0; begin < w.in_channels; begin += block) {
        const int channels = std::min(block, w.in_channels - begin);
        for (int i = 0; i < outputs; ++i) {
          const T* from = w.of(size_t(g) * s.target.channels + tile.first_channel + i, begin);
          To* column = to + position(i);
          for (int c = 0; c < channels; ++c)
            for (int tap = 0; tap < w.taps; ++tap)
              column[(size_t(tap) * block + c) * kIntegerTile] = *from++;
        }
        to += size_t(w.taps) * block * kIntegerTile;
      }
    }
  }
}

// [tile][ky][kx][pair][channel in tile][2]
template <class T>
void pack_pairs(const Weights<T>& w, const ProjectStep& s, int16_t* to) {
  for (const Tile& tile : s.tiles) {
    const int outputs = std::min(kIntegerTile, w.outputs - tile.first_channel);
    for (int tap = 0; tap < w.taps; ++tap)
      for (int c = 0; c < w.in_channels; c += 2, to += 2 * kIntegerTile)
        for (int i = 0; i < outputs; ++i)
          for (int k = 0; k < 2 && c + k < w.in_channels; ++k)
            to[2 * i + k] = w.of(tile.first_channel + i, c + k)[tap];
  }
}

template <class T>
void pack_gather(ProjectStep& s, const Weights<T>& w, int vector_bytes) {
  s.weight_bytes = sizeof(T);
  s.seven_bits =
      std::all_of(w.values, w.of(w.outputs, 0), [](int v) { return std::abs(v) <= kSevenBits; });
  s.block_channels = channel_block(s.in_channels, s.geometry, chunk_rows(s.geometry));
  while (s.weight_bytes == 1 && (s.safe_blocks = safe_blocks(w, s.block_channels)) == 0) {
    if (s.block_channels == 8) {  // a huge kernel: then all in 32 bits
      s.weight_bytes = 2;
      break;
    }
    s.block_channels = static_cast<int>(round_up(s.block_channels / 2, 8));
  }
  const size_t blocks = ceil_div(s.in_channels, s.block_channels);
  const size_t rows = blocks * s.block_channels * w.taps;
  s.tiles = split_tiles(s.target.channels, rows);
  s.group_weights = static_cast<int64_t>(s.tiles.size() * rows * kIntegerTile);
  s.weights = Memory(size_t(s.weight_bytes) * s.groups * s.group_weights);
  if (s.weight_bytes == 1) {
    pack_rows(w, s, s.weights.as<int8_t>(),
              [&](int channel) { return byte_position(channel, vector_bytes); });
  } else {
    pack_rows(w, s, s.weights.as<int16_t>(), [](int channel) { return channel; });
  }
}

template <class T>
Weights<T> weights_of(const ProjectStep& s, const Array<T>& weight) {
  return {weight.data(), s.groups * s.target.channels, s.in_channels,
          s.geometry.kernel_h * s.geometry.kernel_w};
}

template <class T>
void pack(ProjectStep& s, const Array<T>& weight, int vector_bytes) {
  const Weights<T> w = weights_of(s, weight);
  if (s.kind == ProjectStep::Kind::gather) return pack_gather(s, w, vector_bytes);
  s.weight_bytes = 2;
  if (s.kind == ProjectStep::Kind::head) {
    s.tiles = split_tiles(s.target.channels, 0);
    s.group_weights = static_cast<int64_t>(weight.size());
    s.weights = Memory(2 * s.group_weights);
    std::copy(weight.begin(), weight.end(), s.weights.as<int16_t>());
    return;
  }
  const size_t rows = round_up(s.in_channels, 2) * w.taps;
  s.tiles = split_tiles(s.target.channels, rows);
  s.group_weights = static_cast<int64_t>(s.tiles.size() * rows * kIntegerTile);
  s.weights = Memory(2 * s.group_weights);
  pack_pairs(w, s, s.weights.as<int16_t>());
}

// The largest sums of the weights of each output.
template <class T>
std::vector<int64_t> largest_sums(const Weights<T>& w) {
  std::vector<int64_t> sums(w.outputs);
  for (int o = 0; o < w.outputs; ++o)
    sums[o] = range_of(w.of(o, 0), size_t(w.in_channels) * w.taps).largest();
  return sums;
}

}  // namespace

ProjectStep integer_step(const Projection& p, const Shape& in, const Shape& out, bool spikes,
                         bool from_mean, int vector_bytes) {
  ProjectStep s;
  set_geometry(s, p, in, out);
  s.target.multiplier = p.multiplier;
  s.target.shift = p.shift;
  s.kind = p.kind == Kind::mean ? ProjectStep::Kind::mean
           : from_mean          ? ProjectStep::Kind::head
           : spikes             ? ProjectStep::Kind::gather
                                : ProjectStep::Kind::dense;
  if (p.kind == Kind::mean) {
    s.tiles = split_tiles(s.target.channels, 0);
  } else if (p.weight16.empty()) {
    pack(s, p.weight8, vector_bytes);
  } else {
    pack(s, p.weight16, vector_bytes);
  }
  return s;
}

int64_t integer_bound(const Projection& p, const Shape& in, const Shape& out, bool spikes) {
  ProjectStep s;
  set_geometry(s, p, in, out);
  const std::vector<int64_t> sums = p.weight16.empty() ? largest_sums(weights_of(s, p.weight8))
                                                       : largest_sums(weights_of(s, p.weight16));
  int64_t bound = 0;
  for (size_t o = 0; o < sums.size(); ++o) {
    const int64_t sum = spikes ? sums[o] : 2 * sums[o] * (1 << 15);  // inputs of both signs
    if (sum > std::numeric_limits<int32_t>::max()) return sum;
    bound = std::max(bound, p.multiplier.empty()
                                ? sum << p.shift
                                : ((sum * std::abs(int64_t{p.multiplier[o]})) >> p.shift) + 1);
  }
  return bound;
}

}  // namespace stmixer::engine
