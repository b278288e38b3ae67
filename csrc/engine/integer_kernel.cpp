// The projections of an int8 network. A spike adds a row of int8 weights, two rows at a time to
// sums of 16 bits. Where weights have 7 bits, two rows are added as bytes before that.
#include "common/simd.h"
#include "engine/integer_kernels.h"
#include "engine/row_pairs.h"
#include "engine/window.h"

namespace stmixer::engine {
namespace {

constexpr int kI32 = kLanes<int32_t>;
constexpr int kI16 = kLanes<int16_t>;

// The sums of a tile, 16 bits each.
class NarrowSums {
 public:
  void clear() {
    for (VecI16& v : v_) v = VecI16{};
  }
  void read(const int16_t* p) {
    for (int i = 0; i < kCount; ++i) v_[i] = load(p + i * kI16);
  }
  void write(int16_t* p) const {
    for (int i = 0; i < kCount; ++i) store(p + i * kI16, v_[i]);
  }

  void add(const int8_t* a, const int8_t* b) {
    for (int i = 0; i < kRegisters; ++i) add(i, read(a, i), read(b, i));
  }
  // Of four rows of 7 bits, a + b and c + d fit into a byte.
  void add(const int8_t* a, const int8_t* b, const int8_t* c, const int8_t* d) {
    for (int i = 0; i < kRegisters; ++i) add(i, read(a, i) + read(b, i), read(c, i) + read(d, i));
  }

 private:
  static constexpr int kRegisters = kIntegerTile / kVectorBytes;
  static constexpr int kCount = kIntegerTile / kI16;

  static VecI8 read(const int8_t* row, int i) { return load(row + i * kVectorBytes); }
  void add(int i, VecI8 a, VecI8 b) { add_pair(a, b, v_[2 * i], v_[2 * i + 1]); }

  VecI16 v_[kCount];
};

// The sums of a tile, 32 bits each.
class WideSums {
 public:
  void clear() {
    for (VecI32& v : v_) v = VecI32{};
  }
  void read(const int32_t* p) {
    for (int i = 0; i < kCount; ++i) v_[i] = load(p + i * kI32);
  }
  void write(int32_t* p) const {
    for (int i = 0; i < kCount; ++i) store(p + i * kI32, v_[i]);
  }
  void add(const int16_t* row) {
    for (int i = 0; i < kCount; i += 2) {
      VecI32 wide[2];
      load_wide(row + i * kI32, wide);
      v_[i] += wide[0];
      v_[i + 1] += wide[1];
    }
  }
  void add(const int16_t* a, const int16_t* b) {
    add(a);
    add(b);
  }

 private:
  static constexpr int kCount = kIntegerTile / kI32;
  VecI32 v_[kCount];
};

// A row of weights that adds nothing.
template <class Weight>
alignas(64) constexpr Weight kZeros[kIntegerTile] = {};

// Adds the rows that one chunk of weights, a block of channels and one ky, holds for each output,
// two or four at a time. `fresh`: the sums begin here.
template <class Sums, int kRows, class Weight, class Sum>
void gather_chunk(const IntegerGatherTask& task, int block, int ky, const Weight* weights,
                  Prefetcher prefetcher, bool fresh, Sum* sums) {
  const Geometry& g = task.geometry;
  const int64_t list_starts = g.in_width + 1;
  Cursor cursor(g, task.first_pixel);
  for (int p = 0; p < task.pixels; ++p, cursor.next()) {
    const int y = cursor.top() + ky, x = cursor.left();
    const int begin = max_int(x, 0), end = min_int(x + g.kernel_w, g.in_width);
    const bool inside = y >= 0 && y < g.in_height && begin < end;
    // Keys count from the left edge of the image, weight rows from the left tap.
    const int64_t shift = int64_t{x} * task.block_channels;
    for (int t = 0; t < task.steps; ++t, sums += kIntegerTile) {
      prefetcher.step();
      if (!inside && !fresh) continue;
      Sums sum;
      if (fresh) {
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
        const auto row = [&](uint16_t k) { return weights + (k - shift) * kIntegerTile; };
        for (; key + kRows <= stop; key += kRows) {
          if constexpr (kRows == 4)
            sum.add(row(key[0]), row(key[1]), row(key[2]), row(key[3]));
          else
            sum.add(row(key[0]), row(key[1]));
        }
        // How many spikes are left over cannot be predicted, so there must be no branch: where
        // there is none, whatever its key is, a mask turns the address of its row into that of
        // zeros.
        const Weight* none = kZeros<Weight>;
        const auto rest = [&](int i) {
          const intptr_t mask = -static_cast<intptr_t>(key + i < stop);
          const intptr_t from = reinterpret_cast<intptr_t>(none);
          return reinterpret_cast<const Weight*>(
              from + ((reinterpret_cast<intptr_t>(row(key[i])) - from) & mask));
        };
        if constexpr (kRows == 4)
          sum.add(rest(0), rest(1), rest(2), none);
        else
          sum.add(rest(0), none);
      }
      sum.write(sums);
    }
  }
}

void widen_sums(const IntegerGatherTask& task, bool fresh) {
  const int64_t count = int64_t{task.pixels} * task.steps * kIntegerTile;
  constexpr int kVectors = 2;
  for (int64_t i = 0; i < count; i += kVectors * kI32) {
    VecI32 sum[kVectors];
    load_wide(task.narrow + i, sum);
    for (int k = 0; k < kVectors; ++k) {
      int32_t* wide = task.wide + i + k * kI32;
      store(wide, fresh ? sum[k] : sum[k] + load(wide));
    }
  }
}

template <class Sums, class Weight, int kRows, class Sum>
void gather(const IntegerGatherTask task, Sum* sums, int safe_blocks) {
  const Geometry& g = task.geometry;
  const int64_t chunk = int64_t{g.kernel_w} * task.block_channels * kIntegerTile;
  const Weight* weights = static_cast<const Weight*>(task.weights);
  for (int block = 0; block < task.blocks; ++block) {
    for (int ky = 0; ky < g.kernel_h; ++ky, weights += chunk) {
      const bool last = block + 1 == task.blocks && ky + 1 == g.kernel_h;
      const Prefetcher prefetcher(last ? task.next : weights + chunk, chunk * sizeof(Weight),
                                  int64_t{task.pixels} * task.steps);
      const bool fresh = block % safe_blocks == 0 && ky == 0;
      gather_chunk<Sums, kRows>(task, block, ky, weights, prefetcher, fresh, sums);
    }
    const bool full = (block + 1) % safe_blocks == 0 || block + 1 == task.blocks;
    if (full && safe_blocks < task.blocks) widen_sums(task, block < safe_blocks);
  }
}

void gather8(const IntegerGatherTask& task) noexcept {
  gather<NarrowSums, int8_t, 2>(task, task.narrow, task.safe_blocks);
}

void gather7(const IntegerGatherTask& task) noexcept {
  gather<NarrowSums, int8_t, 4>(task, task.narrow, task.safe_blocks);
}

void gather16(const IntegerGatherTask& task) noexcept {
  gather<WideSums, int16_t, 2>(task, task.wide, task.blocks);
}

// Pairs of 16-bit products, added to 32 bits.
inline VecI32 multiply_pairs(VecI32 a, VecI32 b) {
#if defined(__AVX512F__)
  return (VecI32)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (VecI32)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (VecI32)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

// Pixels in a row that share each weight that is read, as many as registers hold.
constexpr int kDensePixels = kI32 == 16 ? 4 : 1;

// Some pixels at one time step, from the one whose window begins at `top` and `left`.
template <int kPixels>
void dense_pixels(const IntegerDenseTask& task, int t, int top, int left, int32_t* sums) {
  constexpr int kCount = kIntegerTile / kI32;
  const Geometry& g = task.geometry;
  const int64_t in_pixel = 2 * task.pairs, next = g.stride * in_pixel;
  const int first = max_int(left, 0), taps = min_int(left + g.kernel_w, g.in_width) - first;
  VecI32 sum[kPixels][kCount];
  for (auto& of_pixel : sum)
    for (VecI32& s : of_pixel) s = VecI32{};
  for (int y = max_int(top, 0); y < min_int(top + g.kernel_h, g.in_height); ++y) {
    const int16_t* in = task.in + t * task.in_step + (int64_t{y} * g.in_width + first) * in_pixel;
    const int64_t tap = int64_t{y - top} * g.kernel_w + (first - left);
    const int16_t* weights = task.weights + tap * task.pairs * 2 * kIntegerTile;
    // Taps in a row lie one behind the other.
    for (int pair = 0; pair < taps * task.pairs; ++pair, in += 2, weights += 2 * kIntegerTile) {
      VecI32 input[kPixels];
      for (int p = 0; p < kPixels; ++p) {
        int32_t both;
        __builtin_memcpy(&both, in + p * next, sizeof both);
        input[p] = VecI32{} + both;
      }
      for (int i = 0; i < kCount; ++i) {
        VecI32 w;
        __builtin_memcpy(&w, weights + 2 * kI32 * i, sizeof w);
        for (int p = 0; p < kPixels; ++p) sum[p][i] += multiply_pairs(input[p], w);
      }
    }
  }
  for (int p = 0; p < kPixels; ++p)
    for (int i = 0; i < kCount; ++i)
      store(sums + p * task.steps * kIntegerTile + i * kI32, sum[p][i]);
}

void dense(const IntegerDenseTask& given) noexcept {
  const IntegerDenseTask task = given;
  for_each_pixels<kDensePixels>(
      task.geometry, task.first_pixel, task.pixels, [&](int p, const Cursor& at, auto pixels) {
        for (int t = 0; t < task.steps; ++t)
          dense_pixels<pixels>(task, t, at.top(), at.left(),
                               task.sums + (int64_t{p} * task.steps + t) * kIntegerTile);
      });
}

void mean(const IntegerMeanTask& given) noexcept {
  const IntegerMeanTask task = given;
  const int64_t count = int64_t{task.pixels} * task.steps;
  constexpr int kBlock = 16;
  for (int c = 0; c < task.channels; c += kBlock) {
    const int channels = min_int(kBlock, task.channels - c);
    int64_t sum[kBlock] = {};
    for (int t = 0; t < task.steps; ++t) {
      const int32_t* in = task.in + t * task.in_step + c;
      for (int p = 0; p < task.pixels; ++p, in += task.in_pixel)
        for (int i = 0; i < channels; ++i) sum[i] += in[i];
    }
    for (int i = 0; i < channels; ++i) {
      const int64_t twice = 2 * sum[i] + count;  // floor(sum / count + 1/2)
      const int64_t quotient = twice / (2 * count);
      task.out[c + i] = static_cast<int32_t>(quotient - (twice % (2 * count) < 0));
    }
  }
}

}  // namespace

STMIXER_DEFINE_TABLE(IntegerKernels, integer_kernels) = {
    kVectorBytes > 16 ? kVectorBytes : kIntegerTile * 2,  // without AVX2 rows are read in order
    gather7,
    gather8,
    gather16,
    dense,
    mean};

}  // namespace stmixer::engine
