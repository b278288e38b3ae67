// Sums of weight rows, and what becomes of them. In a gather a spike adds the row of weights that
// leaves it; nothing is multiplied. Every output sums its addends in the order (channel block, ky,
// kx, c), alone and from zero, so no tile width, batch, thread or vector length changes a bit.
#include <cstdint>

#include "common/simd.h"
#include "engine/kernels.h"
#include "engine/window.h"

namespace stmixer::engine {
namespace {

constexpr int kF32 = kLanes<float>;
constexpr int kUnitVectors = kUnit / kF32;

// How many units of sums fit into the registers beside what the loop needs: 6 of 32 (AVX-512),
// 12 of 16 (AVX2, scalar).
constexpr int kMaxUnits = kF32 >= 8 ? 6 : 3;

inline Vec<float> splat(float x) { return Vec<float>{} + x; }

template <int kVectors>
struct Sums {
  Vec<float> v[kVectors];

  void clear() {
    for (int i = 0; i < kVectors; ++i) v[i] = Vec<float>{};
  }
  void read(const float* p) {
    for (int i = 0; i < kVectors; ++i) v[i] = load(p + i * kF32);
  }
  void write(float* p) const {
    for (int i = 0; i < kVectors; ++i) store(p + i * kF32, v[i]);
  }
  void add(const float* row) {
    for (int i = 0; i < kVectors; ++i) v[i] += load(row + i * kF32);
  }
};

// Kernels work on a copy of their task: what they store could otherwise, for all the compiler
// knows, change it.
template <int kUnits>
void gather_tile(const GatherTask task) {
  constexpr int kVectors = kUnits * kUnitVectors;
  constexpr int64_t kWidth = kUnits * kUnit;
  const Geometry& g = task.geometry;
  const int64_t list_starts = g.in_width + 1;
  const int64_t chunk = g.kernel_w * task.block_channels * kWidth;
  const float* weights = task.weights;
  for (int block = 0; block < task.blocks; ++block) {
    for (int ky = 0; ky < g.kernel_h; ++ky, weights += chunk) {
      const bool first = block == 0 && ky == 0;
      const bool last = block + 1 == task.blocks && ky + 1 == g.kernel_h;
      Prefetcher prefetcher(last ? task.next : weights + chunk, chunk * 4,
                            int64_t{task.pixels} * task.steps);
      float* sums = task.sums;
      Cursor cursor(g, task.first_pixel);
      for (int p = 0; p < task.pixels; ++p, cursor.next()) {
        const int y = cursor.top() + ky, x = cursor.left();
        const int begin = max_int(x, 0), end = min_int(x + g.kernel_w, g.in_width);
        const bool inside = y >= 0 && y < g.in_height && begin < end;
        // Keys count from the left edge of the image, weight rows from the left tap.
        const int64_t shift = int64_t{x} * task.block_channels;
        for (int t = 0; t < task.steps; ++t, sums += kWidth) {
          prefetcher.step();
          if (!inside && !first) continue;
          Sums<kVectors> sum;
          if (first) {
            sum.clear();
          } else {
            sum.read(sums);
          }
          if (inside) {
            const int64_t list = (t * task.step_rows + y) * task.blocks + block;
            const uint32_t* starts = task.starts + list * list_starts;
            const uint16_t* keys = task.keys + t * task.step_keys;
            const uint16_t* key = keys + starts[begin];
            const uint16_t* stop = keys + starts[end];
            for (; key != stop; ++key) sum.add(weights + (*key - shift) * kWidth);
          }
          sum.write(sums);
        }
      }
    }
  }
}

// Pixels in a row that share each weight that is read, as many as registers hold.
constexpr int kDensePixels = kF32 == 16 ? 4 : kF32 == 8 ? 2 : 1;

// Some pixels at one time step, from the one whose window begins at `top` and `left`.
template <int kUnits, int kPixels>
void dense_pixels(const DenseTask& task, int t, int top, int left, float* sums) {
  constexpr int kVectors = kUnits * kUnitVectors;
  constexpr int64_t kWidth = kUnits * kUnit;
  const Geometry& g = task.geometry;
  const int64_t next = g.stride * task.in_pixel;
  const int first = max_int(left, 0), taps = min_int(left + g.kernel_w, g.in_width) - first;
  // Taps in a row whose channels lie one behind the other are as many channels.
  const bool joined = task.in_pixel == task.channels;
  const int runs = joined ? 1 : taps, channels = joined ? taps * task.channels : task.channels;
  Vec<float> sum[kPixels][kVectors];
  for (auto& of_pixel : sum)
    for (Vec<float>& s : of_pixel) s = Vec<float>{};
  for (int y = max_int(top, 0); y < min_int(top + g.kernel_h, g.in_height); ++y) {
    const float* in =
        task.in + t * task.in_step + (int64_t{y} * g.in_width + first) * task.in_pixel;
    const int64_t tap = int64_t{y - top} * g.kernel_w + (first - left);
    const float* row = task.weights + tap * task.channels * kWidth;
    for (int run = 0; run < runs; ++run, in += task.in_pixel) {
      for (int c = 0; c < channels; ++c, row += kWidth) {
        for (int i = 0; i < kVectors; ++i) {
          const Vec<float> weight = load(row + i * kF32);
          for (int p = 0; p < kPixels; ++p) sum[p][i] += weight * in[p * next + c];
        }
      }
    }
  }
  for (int p = 0; p < kPixels; ++p)
    for (int i = 0; i < kVectors; ++i) store(sums + p * task.steps * kWidth + i * kF32, sum[p][i]);
}

template <int kUnits>
void dense_tile(const DenseTask task) {
  for_each_pixels<kDensePixels>(
      task.geometry, task.first_pixel, task.pixels, [&](int p, const Cursor& at, auto pixels) {
        for (int t = 0; t < task.steps; ++t)
          dense_pixels<kUnits, pixels>(task, t, at.top(), at.left(),
                                       task.sums + (int64_t{p} * task.steps + t) * kUnits * kUnit);
      });
}

template <template <int> class Tile, class Task>
void by_units(const Task& task) {
  switch (task.units) {
    case 1:
      return Tile<1>::run(task);
    case 2:
      return Tile<2>::run(task);
    case 3:
      return Tile<3>::run(task);
    default:
      break;
  }
  if constexpr (kMaxUnits > 3) {
    switch (task.units) {
      case 4:
        return Tile<4>::run(task);
      case 5:
        return Tile<5>::run(task);
      default:
        return Tile<6>::run(task);
    }
  }
}

template <int kUnits>
struct GatherTile {
  static void run(const GatherTask& task) { gather_tile<kUnits>(task); }
};

template <int kUnits>
struct DenseTile {
  static void run(const DenseTask& task) { dense_tile<kUnits>(task); }
};

void gather(const GatherTask& task) noexcept { by_units<GatherTile>(task); }
void dense(const DenseTask& task) noexcept { by_units<DenseTile>(task); }

void mean(const MeanTask& task) noexcept {
  const Vec<float> count = splat(static_cast<float>(task.steps) * static_cast<float>(task.pixels));
  for (int c = 0; c < task.units * kUnit; c += kF32) {
    Vec<float> sum{};
    for (int t = 0; t < task.steps; ++t)
      for (int p = 0; p < task.pixels; ++p)
        sum += load(task.in + t * task.in_step + p * task.in_pixel + c);
    store(task.sums + c, sum / count);
  }
}

void rate(const RateTask& task) noexcept {
  constexpr int kI32 = kLanes<int32_t>;
  const float count = static_cast<float>(task.steps) * static_cast<float>(task.pixels);
  Vec<int32_t> bit[kUnit / kI32];
  for (int i = 0; i < kUnit; ++i) bit[i / kI32][i % kI32] = 1 << i;
  for (int unit = 0; unit < task.units; ++unit) {
    Vec<int32_t> spikes[kUnit / kI32] = {};
    for (int t = 0; t < task.steps; ++t) {
      const uint8_t* bits = task.bits + t * task.bits_step + unit * (kUnit / 8);
      for (int p = 0; p < task.pixels; ++p, bits += task.bits_pixel) {
        const int32_t word = bits[0] | bits[1] << 8;
        // True is -1 in every lane.
        for (int i = 0; i < kUnit / kI32; ++i) spikes[i] -= (bit[i] & word) != 0;
      }
    }
    for (int i = 0; i < kUnit; ++i)
      task.rates[unit * kUnit + i] = static_cast<float>(spikes[i / kI32][i % kI32]) / count;
  }
}

}  // namespace

STMIXER_DEFINE_TABLE(ProjectKernels, project_kernels) = {kMaxUnits, gather, dense, mean, rate};

}  // namespace stmixer::engine
