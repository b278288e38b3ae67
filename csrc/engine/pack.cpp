#include "engine/pack.h"

#include <algorithm>

namespace stmixer::engine {
namespace {

using Kind = Projection::Kind;

// Weight rows of a chunk, one block and one ky. They fix the order of summation (block, ky, kx, c),
// so they may depend on the shape only; a change makes other sums of the same file. With the tiles
// below a chunk is about 48 KB: larger ones miss the first-level cache more often, smaller ones
// leave loops too short to predict (measured: 24 KB -15 %, 96 KB -10 %).
int chunk_rows(const Geometry& g) { return g.kernel_w == 1 ? 192 : 144; }

// Units of the widest tile, if registers allow: see above.
int widest_tile(const Geometry& g) { return g.kernel_w == 1 ? 4 : 6; }

// Even tiles: 21 units are 6 + 5 + 5 + 5.
std::vector<Tile> split_tiles(int channels, int max_units, size_t rows) {
  const int units = ceil_div(channels, kUnit);
  const int count = ceil_div(units, max_units);
  std::vector<Tile> tiles;
  size_t weights = 0;
  for (int i = 0, first = 0; i < count; ++i) {
    const int n = units / count + (i < units % count);
    tiles.push_back({first * kUnit, n, weights});
    weights += rows * n * kUnit;
    first += n;
  }
  return tiles;
}

// How many weight rows one output channel has in memory, padding of the last block included.
size_t weight_rows(const ProjectStep& s, int block) {
  const size_t blocks = ceil_div(s.in_channels, block);
  return blocks * block * s.geometry.kernel_h * s.geometry.kernel_w;
}

// A block of channels of a few outputs, `stride` apart: from [output][c][tap] to [tap][c][output].
void pack_unit(const float* from, int outputs, size_t stride, int channels, int taps, float* to,
               int width, int block) {
  for (int tap = 0; tap < taps; ++tap)
    for (int c = 0; c < channels; ++c)
      for (int i = 0; i < outputs; ++i)
        to[(size_t(tap) * block + c) * width + i] = from[i * stride + c * taps + tap];
}

// [group][tile][block][ky][kx][c in block][channel in tile] from [group, out, in, ky, kx].
Memory pack_weights(const float* weight, const ProjectStep& s, int block) {
  const int taps = s.geometry.kernel_h * s.geometry.kernel_w;
  Memory packed(sizeof(float) * s.groups * s.group_weights);
  for (int g = 0; g < s.groups; ++g) {
    for (const Tile& tile : s.tiles) {
      float* to = packed.as<float>() + g * s.group_weights + tile.weights;
      const int width = tile.units * kUnit;
      const int channels = std::min(width, s.target.channels - tile.first_channel);
      const size_t output = size_t(g) * s.target.channels + tile.first_channel;
      for (int begin = 0; begin < s.in_channels; begin += block, to += taps * block * width) {
        // Unit by unit: so few outputs' weights of a block stay in the cache while taps are walked.
        for (int first = 0; first < channels; first += kUnit) {
          const float* from = weight + ((output + first) * s.in_channels + begin) * taps;
          pack_unit(from, std::min(kUnit, channels - first), size_t(s.in_channels) * taps,
                    std::min(block, s.in_channels - begin), taps, to + first, width, block);
        }
      }
    }
  }
  return packed;
}

// Positions of their own are lined up in rows as if they were an image: the lists of a row lie
// close together, and rows are what list tasks are cut into. The largest divisor of n up to 16.
int row_width(int n) {
  int width = std::min(n, 16);
  while (n % width != 0) --width;
  return width;
}

}  // namespace

int channel_block(int channels, const Geometry& g, int rows) {
  const int wanted = std::max(rows / g.kernel_w, 8);
  const int blocks = ceil_div(channels, wanted);
  const int block = static_cast<int>(round_up(ceil_div(channels, blocks), 8));
  return std::min(block, (1 << 16) / g.in_width / 8 * 8);  // keys have 16 bits
}

void set_geometry(ProjectStep& s, const Projection& p, const Shape& in, const Shape& out) {
  Geometry& g = s.geometry;
  if (p.kind == Kind::token_mix) {
    // Channels are what pixels are elsewhere, tokens what channels are.
    g.in_width = g.out_width = row_width(in.channels);
    g.in_height = in.channels / g.in_width;
    s.in_channels = in.pixels();
    s.target.channels = out.pixels();
    s.groups = p.weight_shape[0];
    s.group_pixels = in.channels / s.groups;
    return;
  }
  s.in_channels = in.channels;
  s.target.channels = p.kind == Kind::mean ? in.channels : p.weight_shape[0];
  s.group_pixels = out.pixels();
  if (p.kind == Kind::conv) {
    g.kernel_h = p.weight_shape[2];
    g.kernel_w = p.weight_shape[3];
    g.stride = p.stride;
    g.padding = p.padding;
  }
  const bool pointwise = g.kernel_h == 1 && g.kernel_w == 1 && g.stride == 1 && g.padding == 0;
  g.in_width = pointwise ? row_width(in.pixels()) : in.width;
  g.in_height = in.pixels() / g.in_width;
  g.out_width = pointwise ? g.in_width : out.width;
}

ListLayout list_layout(const ProjectStep& step, bool by_channel) {
  ListLayout layout;
  layout.by_channel = by_channel;
  layout.rows = step.geometry.in_height;
  layout.width = step.geometry.in_width;
  layout.channels = step.in_channels;
  layout.block_channels = step.block_channels;
  layout.blocks = ceil_div(layout.channels, layout.block_channels);
  return layout;
}

ProjectStep project_step(const Projection& p, const Shape& in, const Shape& out, bool spikes,
                         int max_units) {
  ProjectStep s;
  s.kind = p.kind == Kind::mean ? ProjectStep::Kind::mean
           : spikes             ? ProjectStep::Kind::gather
                                : ProjectStep::Kind::dense;
  set_geometry(s, p, in, out);
  if (p.kind == Kind::mean) {
    s.tiles = split_tiles(s.target.channels, max_units, 0);
    return s;
  }
  const int block =
      spikes ? channel_block(s.in_channels, s.geometry, chunk_rows(s.geometry)) : s.in_channels;
  s.block_channels = block;
  const size_t rows = weight_rows(s, block);
  s.tiles = split_tiles(s.target.channels, std::min(max_units, widest_tile(s.geometry)), rows);
  s.group_weights = static_cast<int64_t>(rows * round_up(s.target.channels, kUnit));
  s.weights = pack_weights(p.weight.data(), s, block);
  return s;
}

}  // namespace stmixer::engine
