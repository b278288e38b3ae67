#pragma once
// Sums and numbers per channel. A block adds up its threads in a fixed order and leaves one partial
// sum per channel behind; another kernel adds those up, in a fixed order again. No atomics, so the
// same input gives the same bits.
#include "cuda/lanes.h"
#include "stmixer/bn_affine.h"

namespace stmixer {
namespace cuda {

// The partial sums [2, channels] of a block, one row for every block of a channel.
STMIXER_DEVICE double* partial_row(double* partial, const ChannelTiles& t, const ChannelPlace& p) {
  const int64_t channels = t.per_lane ? t.width : t.planes;
  return partial + (t.per_lane ? p.part : p.part * t.tiles + p.tile) * 2 * channels;
}

// Adds up the first `count` lanes of all threads, for each channel that the block holds, into
// sums[channel]. Called by all threads.
template <class R>
STMIXER_DEVICE void sum_block(const ChannelTiles& t, const ChannelPlace& p, const Lanes<R>& lanes,
                              int count, double* sums) {
  constexpr int kGroups = 32;
  __shared__ R values[kThreads * kLanes];
  __shared__ double groups[kGroups];
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // the values of the call before are done with
#pragma unroll
  for (int k = 0; k < kLanes; ++k) values[thread * kLanes + k] = k < count ? lanes.at[k] : R(0);
  __syncthreads();
  if (t.per_lane) {
    const int width = t.columns * kLanes;
    for (int i = thread; i < width; i += kThreads) {
      double sum = 0;
      for (int row = 0; row < t.rows; ++row) sum += values[row * width + i];
      const int64_t channel = p.tile * width + i;
      if (channel < t.width) sums[channel] = sum;
    }
    return;
  }
  if (thread < kGroups) {
    double sum = 0;
    for (int i = thread; i < kThreads * kLanes; i += kGroups) sum += values[i];
    groups[thread] = sum;
  }
  __syncthreads();
  if (thread == 0) {
    double sum = 0;
    for (int i = 0; i < kGroups; ++i) sum += groups[i];
    sums[p.plane] = sum;
  }
}

// The two sums of a channel over all partial rows. A block takes kSumChannels channels; what it
// finds is for the thread that `channel` is not negative for.
struct ChannelSums {
  int64_t channel;
  double first, second;
};

STMIXER_DEVICE ChannelSums add_partials(const double* partial, int64_t rows, int64_t channels) {
  __shared__ double sums[2][kThreads];
  const int thread = static_cast<int>(threadIdx.x), group = thread / kSumChannels;
  const int64_t channel = static_cast<int64_t>(blockIdx.x) * kSumChannels + thread % kSumChannels;
  double first = 0, second = 0;
  if (channel < channels)
    for (int64_t row = group; row < rows; row += kSumParts) {
      first += partial[row * 2 * channels + channel];
      second += partial[(row * 2 + 1) * channels + channel];
    }
  sums[0][thread] = first;
  sums[1][thread] = second;
  __syncthreads();
  if (group > 0 || channel >= channels) return {-1, 0, 0};
  first = second = 0;
  for (int i = thread; i < kThreads; i += kSumChannels) {
    first += sums[0][i];
    second += sums[1][i];
  }
  return {channel, first, second};
}

// y = x * scale + shift per lane.
template <class R>
struct LaneAffine {
  Lanes<R> scale, shift;

  __device__ __forceinline__ LaneAffine(const ChannelTiles& t, const ChannelPlace& p, int count,
                                        const BnParameters& bn) {
#pragma unroll
    for (int k = 0; k < kLanes; ++k) {
      scale.at[k] = shift.at[k] = R(0);
      if (k >= count) continue;
      const BnAffine<R> a = bn_affine(
          channel_of(t, p, k), static_cast<const R*>(bn.weight), static_cast<const R*>(bn.bias),
          static_cast<const R*>(bn.mean), static_cast<const R*>(bn.var), bn.eps);
      scale.at[k] = a.scale;
      shift.at[k] = a.shift;
    }
  }

  __device__ __forceinline__ Lanes<R> operator()(const Lanes<R>& x) const {
    Lanes<R> y;
#pragma unroll
    for (int k = 0; k < kLanes; ++k) y.at[k] = x.at[k] * scale.at[k] + shift.at[k];
    return y;
  }
};

// values[channel] per lane, zeros beyond `count`.
template <class R>
STMIXER_DEVICE Lanes<R> lane_values(const ChannelTiles& t, const ChannelPlace& p, int count,
                                    const R* values) {
  Lanes<R> lanes;
#pragma unroll
  for (int k = 0; k < kLanes; ++k) lanes.at[k] = k < count ? values[channel_of(t, p, k)] : R(0);
  return lanes;
}

}  // namespace cuda
}  // namespace stmixer
