#pragma once
// The per-channel arithmetic around the kernels of bn_lif: a few numbers per channel, for which a
// call into PyTorch each would cost more than the work. For channels [begin, end); sums are
// [2, channels].
#include "cpu/tables.h"

namespace stmixer {

// Mean and variance from the sums of x - pivot and of its square.
void channel_moments(const BnStatistics& p, int64_t begin, int64_t end, const void* pivots,
                     const double* sums);

// invstd, scale and shift.
void channel_affine(Dtype dtype, int64_t begin, int64_t end, const BnParameters& bn,
                    const BnChannels& channels);

// Gradients of weight and bias, slope and offset, from the sums of g and of g * (x - mean).
void channel_gradients(const BnLifBackward& p, int64_t begin, int64_t end, const double* sums,
                       const BnChannels& channels);

}  // namespace stmixer
