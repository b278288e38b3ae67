// What becomes of finished sums: earlier currents are added, the result is stored and drives
// neurons. A few units of channels at a time stay in registers, their spikes are written together.
#include "common/simd.h"
#include "engine/integer_kernels.h"
#include "stmixer/lif_step.h"

namespace stmixer::engine {
namespace {

constexpr int kI32 = kLanes<int32_t>;

// Some units of channels. Not whole: the last of them are missing, read as zeros, and nothing
// behind those that exist is touched, it may belong to another projection.
template <class R, int kUnits, bool kWhole>
struct Channels {
  static constexpr int kWidth = kUnits * kUnit;
  static constexpr int kCount = kWidth / kLanes<R>;
  Vec<R> v[kCount];

  void fill(R x) {
    for (int i = 0; i < kCount; ++i) v[i] = Vec<R>{} + x;
  }
  void read(const R* p, int count) {
    R some[kWidth] = {};
    if (!kWhole) {
      for (int k = 0; k < count; ++k) some[k] = p[k];
      p = some;
    }
    for (int i = 0; i < kCount; ++i) v[i] = load(p + i * kLanes<R>);
  }
  void write(R* p, int count) const {
    R some[kWidth];
    R* to = kWhole ? p : some;
    for (int i = 0; i < kCount; ++i) store(to + i * kLanes<R>, v[i]);
    if (!kWhole)
      for (int k = 0; k < count; ++k) p[k] = some[k];
  }
  void add(const Channels& o) {
    for (int i = 0; i < kCount; ++i) v[i] += o.v[i];
  }
};

// The spikes of some units as bytes; none where there is no channel.
template <class R, int kUnits, bool kWhole>
inline void write_spikes(const Channels<R, kUnits, kWhole>& h,
                         const Channels<R, kUnits, kWhole>& threshold, uint8_t* bits, int count) {
  static_assert(kUnits * kUnit <= 64, "one word holds them");
  uint64_t word = 0;
  for (int i = 0; i < h.kCount; ++i)
    word |= uint64_t{bits_at_least(h.v[i], threshold.v[i])} << (i * kLanes<R>);
  if (!kWhole) word &= (uint64_t{1} << count) - 1;
  for (int byte = 0; byte < 2 * kUnits; ++byte)
    bits[byte] = static_cast<uint8_t>(word >> (8 * byte));
}

template <int kUnits, bool kWhole, bool kPerChannel>
void finish_real(const FinishTask& task, const LifSpec& lif, int c, int count) {
  typedef Channels<float, kUnits, kWhole> Values;
  Values bias, threshold, decay, v_init;
  bias.fill(0.0f);
  if (task.bias) bias.read(task.bias + c, count);
  threshold.fill(lif.threshold);
  decay.fill(lif.decay);
  v_init.fill(lif.v_init);
  const float *thresholds = task.per_channel, *decays = nullptr, *v_inits = nullptr;
  if (kPerChannel) {
    decays = thresholds + task.per_channel_stride;
    v_inits = decays + task.per_channel_stride;
    if (!task.pixels_are_channels) {
      threshold.read(thresholds + c, count);
      decay.read(decays + c, count);
      v_init.read(v_inits + c, count);
    }
  }
  for (int p = 0; p < task.pixels; ++p) {
    if (kPerChannel && task.pixels_are_channels) {
      threshold.fill(thresholds[p]);
      decay.fill(decays[p]);
      v_init.fill(v_inits[p]);
    }
    const float* sums = task.sums + p * task.sums_pixel + c;
    int64_t at = p * task.store_pixel + c;
    uint8_t* bits = task.bits + p * task.bits_pixel + c / 8;
    Values v = v_init;
    for (int t = 0; t < task.steps; ++t) {
      Values x;
      x.read(sums, count);
      x.add(bias);
      if (task.base) {
        Values base;
        base.read(task.base + at, count);
        x.add(base);
      }
      if (task.store) x.write(task.store + at, count);
      if (task.lif) {
        for (int i = 0; i < Values::kCount; ++i)
          v.v[i] = lif_charge(v.v[i], lif.input_scale * x.v[i], decay.v[i]);
        write_spikes(v, threshold, bits, count);
        for (int i = 0; i < Values::kCount; ++i) {
          const VecF32 h = v.v[i], th = threshold.v[i];
          v.v[i] = h >= th ? (lif.soft ? h - th : VecF32{}) : h;
        }
      }
      sums += task.sums_step;
      at += task.store_step;
      bits += task.bits_step;
    }
  }
}

// (v * multiplier + half) >> shift from products of 64 bits. The result has 32 and shift is at most
// 32, so a logical shift gives the same bits as an arithmetic one.
inline VecI32 scale(VecI32 v, VecI32 multiplier, int shift) {
  const int64_t half = shift > 0 ? int64_t{1} << (shift - 1) : 0;
#if defined(__AVX512F__)
  const __m512i a = (__m512i)v, b = (__m512i)multiplier, add = _mm512_set1_epi64(half);
  const __m128i count = _mm_cvtsi32_si128(shift);
  const __m512i even = _mm512_srl_epi64(_mm512_add_epi64(_mm512_mul_epi32(a, b), add), count);
  const __m512i odd = _mm512_srl_epi64(
      _mm512_add_epi64(_mm512_mul_epi32(_mm512_srli_epi64(a, 32), _mm512_srli_epi64(b, 32)), add),
      count);
  return (VecI32)_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
#elif defined(__AVX2__)
  const __m256i a = (__m256i)v, b = (__m256i)multiplier, add = _mm256_set1_epi64x(half);
  const __m128i count = _mm_cvtsi32_si128(shift);
  const __m256i even = _mm256_srl_epi64(_mm256_add_epi64(_mm256_mul_epi32(a, b), add), count);
  const __m256i odd = _mm256_srl_epi64(
      _mm256_add_epi64(_mm256_mul_epi32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32)), add),
      count);
  return (VecI32)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
#elif defined(__SSE2__)
  // Products are unsigned here: what a negative factor adds to their upper halves is taken off.
  const __m128i a = (__m128i)v, b = (__m128i)multiplier, add = _mm_set1_epi64x(half);
  const __m128i excess = (__m128i)((v >> 31 & multiplier) + (multiplier >> 31 & v));
  const __m128i count = _mm_cvtsi32_si128(shift), upper = _mm_set1_epi64x(~int64_t{0xffffffff});
  const auto round = [&](__m128i product, __m128i too_much) {
    return _mm_srl_epi64(_mm_add_epi64(_mm_sub_epi64(product, too_much), add), count);
  };
  const __m128i even = round(_mm_mul_epu32(a, b), _mm_slli_epi64(excess, 32));
  const __m128i odd = round(_mm_mul_epu32(_mm_srli_epi64(a, 32), _mm_srli_epi64(b, 32)),
                            _mm_and_si128(excess, upper));
  return (VecI32)_mm_or_si128(_mm_andnot_si128(upper, even), _mm_slli_epi64(odd, 32));
#elif defined(__aarch64__)
  const int32x4_t a = (int32x4_t)v, b = (int32x4_t)multiplier;
  const int64x2_t add = vdupq_n_s64(half), count = vdupq_n_s64(-shift);
  const int64x2_t low = vmull_s32(vget_low_s32(a), vget_low_s32(b)), high = vmull_high_s32(a, b);
  return (VecI32)vuzp1q_s32(vreinterpretq_s32_s64(vshlq_s64(vaddq_s64(low, add), count)),
                            vreinterpretq_s32_s64(vshlq_s64(vaddq_s64(high, add), count)));
#else
  for (int i = 0; i < kI32; ++i)
    v[i] = static_cast<int32_t>((int64_t{v[i]} * multiplier[i] + half) >> shift);
  return v;
#endif
}

// (v * decay + 2^14) >> 15 without products of more than 32 bits: v = 2^15 high + low.
inline VecI32 leak(VecI32 v, int32_t decay) {
  constexpr int32_t kOne = 1 << kDecayBits;
  const VecI32 limit = VecI32{} + kMembraneLimit;
  v = v > limit ? limit : v;
  v = v < -limit ? -limit : v;
  const VecI32 high = v >> kDecayBits, low = v & (kOne - 1);
  return high * decay + ((low * decay + kOne / 2) >> kDecayBits);
}

// Constants of the channels are read once for all pixels and steps. Sums of 16 bits fill whole
// tiles; those of 32 may be a current, behind whose last channel lies anything.
template <int kUnits, bool kWhole, bool kNarrow, bool kScaled>
void finish_integer(const IntegerFinishTask& task, const IntegerLif& lif, int c, int count) {
  typedef Channels<int32_t, kUnits, kWhole> Values;
  Values multiplier{}, bias{}, threshold{}, reset{};
  if (kScaled) multiplier.read(task.multiplier + c, count);
  if (task.bias) bias.read(task.bias + c, count);
  if (task.lif) threshold.read(lif.threshold + c, count);
  if (lif.reset) reset.read(lif.reset + c, count);
  for (int p = 0; p < task.pixels; ++p) {
    int64_t sums = p * task.sums_pixel + c, at = p * task.store_pixel + c;
    uint8_t* bits = task.bits + p * task.bits_pixel + c / 8;
    Values v;
    for (int t = 0; t < task.steps; ++t) {
      Values x;
      if constexpr (kNarrow)
        load_wide(task.narrow + sums, x.v);
      else
        x.read(task.wide + sums, count);
      for (int i = 0; i < Values::kCount; ++i)
        x.v[i] = kScaled ? scale(x.v[i], multiplier.v[i], task.shift) : x.v[i] << task.shift;
      x.add(bias);
      if (task.base) {
        Values base;
        base.read(task.base + at, count);
        x.add(base);
      }
      if (task.store) x.write(task.store + at, count);
      if (task.lif) {
        if (t > 0)
          for (int i = 0; i < Values::kCount; ++i) x.v[i] += leak(v.v[i], lif.decay);
        write_spikes(x, threshold, bits, count);
        for (int i = 0; i < Values::kCount; ++i) {
          const VecI32 h = x.v[i];
          v.v[i] = h >= threshold.v[i] ? (lif.reset ? h - reset.v[i] : VecI32{}) : h;
        }
      }
      sums += task.sums_step;
      at += task.store_step;
      bits += task.bits_step;
    }
  }
}

template <int kUnits, bool kWhole>
struct FinishReal {
  static void run(const FinishTask& task, int c, int count) {
    const LifSpec lif = task.lif ? *task.lif : LifSpec{};
    task.per_channel ? finish_real<kUnits, kWhole, true>(task, lif, c, count)
                     : finish_real<kUnits, kWhole, false>(task, lif, c, count);
  }
};

template <int kUnits, bool kWhole>
struct FinishInteger {
  static void run(const IntegerFinishTask& task, int c, int count) {
    const IntegerLif lif = task.lif ? *task.lif : IntegerLif{};
    if (task.narrow)
      task.multiplier ? finish_integer<kUnits, kWhole, true, true>(task, lif, c, count)
                      : finish_integer<kUnits, kWhole, true, false>(task, lif, c, count);
    else
      task.multiplier ? finish_integer<kUnits, kWhole, false, true>(task, lif, c, count)
                      : finish_integer<kUnits, kWhole, false, false>(task, lif, c, count);
  }
};

// All channels of a task, in runs of units that registers hold.
template <template <int, bool> class Finish, class Task>
void finish(const Task& given) {
  const Task task = given;
  constexpr int kMost = 4;
  for (int c = 0; c < task.channels;) {
    const int left = task.channels - c, units = left / kUnit < kMost ? left / kUnit : kMost;
    switch (units) {
      case 0:
        Finish<1, false>::run(task, c, left);
        return;
      case 1:
        Finish<1, true>::run(task, c, left);
        break;
      case 2:
        Finish<2, true>::run(task, c, left);
        break;
      case 3:
        Finish<3, true>::run(task, c, left);
        break;
      default:
        Finish<kMost, true>::run(task, c, left);
        break;
    }
    c += units * kUnit;
  }
}

void real(const FinishTask& task) noexcept { finish<FinishReal>(task); }
void integer(const IntegerFinishTask& task) noexcept { finish<FinishInteger>(task); }

}  // namespace

STMIXER_DEFINE_TABLE(FinishKernels, finish_kernels) = {real, integer};

}  // namespace stmixer::engine
