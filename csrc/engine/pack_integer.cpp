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

struct Weights {
  const std::vector<int16_t>& values;  // [group, out, in, taps]
  int out_channels, in_channels, taps;

  int16_t at(int group, int out, int in, int tap) const {
    return values[((size_t(group) * out_channels + out) * in_channels + in) * taps + tap];
  }
};

// The largest sum, positive or negative, of a subset of the weights of one output over the input
// channels [begin, end).
int64_t largest_sum(const Weights& w, int group, int out, int begin, int end) {
  int64_t positive = 0, negative = 0;
  for (int c = begin; c < end; ++c) {
    for (int tap = 0; tap < w.taps; ++tap) {
      const int value = w.at(group, out, c, tap);
      (value > 0 ? positive : negative) += value;
    }
  }
  return std::max(positive, -negative);
}

// How many blocks of channels in a row fit into 16 bits, whichever of their spikes come.
int safe_blocks(const Weights& w, int groups, int block) {
  const int blocks = (w.in_channels + block - 1) / block;
  for (int safe = blocks; safe > 0; --safe) {
    bool fits = true;
    for (int g = 0; g < groups && fits; ++g)
      for (int o = 0; o < w.out_channels && fits; ++o)
        for (int begin = 0; begin < w.in_channels && fits; begin += safe * block)
          fits = largest_sum(w, g, o, begin, std::min(begin + safe * block, w.in_channels)) <=
                 kNarrowLimit;
    if (fits) return safe;
  }
  return 0;
}

std::vector<Tile> split_tiles(int channels, size_t rows) {
  std::vector<Tile> tiles;
  for (int first = 0; first < channels; first += kIntegerTile)
    tiles.push_back({first, kIntegerTile / kUnit, tiles.size() * rows * kIntegerTile});
  return tiles;
}

// [group][tile][block][ky][kx][c in block][channel in tile]
template <class T, class Position>
void pack_rows(const Weights& w, const ProjectStep& s, T* to, const Position& position) {
  const int block = s.block_channels;
  for (int g = 0; g < s.groups; ++g) {
    for (const Tile& tile : s.tiles) {
      const int channels = std::min(kIntegerTile, w.out_channels - tile.first_channel);
      for (int begin = 0; begin < w.in_channels; begin += block)
        for (int tap = 0; tap < w.taps; ++tap)
          for (int c = begin; c < begin + block; ++c, to += kIntegerTile)
            for (int i = 0; i < channels && c < w.in_channels; ++i)
              to[position(i)] = static_cast<T>(w.at(g, tile.first_channel + i, c, tap));
    }
  }
}

// [tile][ky][kx][pair][channel in tile][2]
void pack_pairs(const Weights& w, const ProjectStep& s, int16_t* to) {
  for (const Tile& tile : s.tiles) {
    const int channels = std::min(kIntegerTile, w.out_channels - tile.first_channel);
    for (int tap = 0; tap < w.taps; ++tap)
      for (int c = 0; c < w.in_channels; c += 2, to += 2 * kIntegerTile)
        for (int i = 0; i < channels; ++i)
          for (int k = 0; k < 2 && c + k < w.in_channels; ++k)
            to[2 * i + k] = w.at(0, tile.first_channel + i, c + k, tap);
  }
}

void pack_gather(ProjectStep& s, const Weights& w, const Projection& p, int vector_bytes) {
  s.weight_bytes = p.wide ? 2 : 1;
  s.seven_bits = std::all_of(w.values.begin(), w.values.end(),
                             [](int16_t v) { return std::abs(v) <= kSevenBits; });
  s.block_channels = channel_block(s.in_channels, s.geometry, chunk_rows(s.geometry));
  while (!p.wide && (s.safe_blocks = safe_blocks(w, s.groups, s.block_channels)) == 0) {
    if (s.block_channels == 8) {  // a huge kernel: then all in 32 bits
      s.weight_bytes = 2;
      break;
    }
    s.block_channels = static_cast<int>(round_up(s.block_channels / 2, 8));
  }
  const size_t blocks = (s.in_channels + s.block_channels - 1) / s.block_channels;
  const size_t rows = blocks * s.block_channels * w.taps;
  s.tiles = split_tiles(w.out_channels, rows);
  s.group_weights = static_cast<int64_t>(s.tiles.size() * rows * kIntegerTile);
  s.weights = Memory(size_t(s.weight_bytes) * s.groups * s.group_weights);
  if (s.weight_bytes == 1) {
    pack_rows(w, s, s.weights.as<int8_t>(),
              [&](int channel) { return byte_position(channel, vector_bytes); });
  } else {
    pack_rows(w, s, s.weights.as<int16_t>(), [](int channel) { return channel; });
  }
}

}  // namespace

ProjectStep integer_step(const Projection& p, const Shape& in, const Shape& out, bool spikes,
                         bool from_mean, int vector_bytes) {
  ProjectStep s;
  set_geometry(s, p, in, out);
  s.target.multiplier = p.multiplier;
  s.target.shift = p.shift;
  const int taps = s.geometry.kernel_h * s.geometry.kernel_w;
  const Weights w{p.integer_weight, s.target.channels, s.in_channels, taps};
  if (p.kind == Kind::mean) {
    s.kind = ProjectStep::Kind::mean;
    s.tiles = split_tiles(s.target.channels, 0);
  } else if (from_mean) {
    s.kind = ProjectStep::Kind::head;
    s.tiles = split_tiles(s.target.channels, 0);
    s.weight_bytes = 2;
    s.weights = Memory(2 * w.values.size());
    std::copy(w.values.begin(), w.values.end(), s.weights.as<int16_t>());
  } else if (spikes) {
    pack_gather(s, w, p, vector_bytes);
  } else {
    s.kind = ProjectStep::Kind::dense;
    s.weight_bytes = 2;
    const size_t rows = round_up(s.in_channels, 2) * taps;
    s.tiles = split_tiles(s.target.channels, rows);
    s.weights = Memory(2 * s.tiles.size() * rows * kIntegerTile);
    pack_pairs(w, s, s.weights.as<int16_t>());
  }
  return s;
}

int64_t integer_bound(const Projection& p, const Shape& in, const Shape& out, bool spikes) {
  ProjectStep s;
  set_geometry(s, p, in, out);
  const Weights w{p.integer_weight, s.target.channels, s.in_channels,
                  s.geometry.kernel_h * s.geometry.kernel_w};
  int64_t bound = 0;
  for (int g = 0; g < s.groups; ++g) {
    for (int o = 0; o < w.out_channels; ++o) {
      int64_t sum = largest_sum(w, g, o, 0, w.in_channels);
      if (!spikes) sum = 2 * sum * (1 << 15);  // inputs of both signs
      if (sum > std::numeric_limits<int32_t>::max()) return sum;
      bound = std::max(bound, p.multiplier.empty()
                                  ? sum << p.shift
                                  : ((sum * std::abs(int64_t{p.multiplier[o]})) >> p.shift) + 1);
    }
  }
  return bound;
}

}  // namespace stmixer::engine
