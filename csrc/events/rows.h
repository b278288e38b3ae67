#pragma once
// Projections as rows of weights: what a spike at a position of the source adds, and where.
#include <vector>

#include "events/kernels.h"
#include "events/layout.h"

namespace stmixer::events {

// What the lanes of a block are: the channels of a position, or the tokens of a channel.
enum class Lanes { channels, tokens };

// A convolution adds one row of weights per row of its kernel, to the positions that this row
// covers inside the border; a linear layer one row at the position of the spike; token mixing one
// row of tokens in the spike's own channel; a wire without weights one number there.
template <class T>
struct Rows {
  std::vector<T> weights;
  std::vector<int32_t> first;
  std::vector<Touch> touches;
  std::vector<uint64_t> nonzero;  // empty if no weight is 0
  int64_t group_weights = 0;
  int32_t group = 1, lane = 0, length = 0, block_step = 0, lane_step = 0;
  int32_t lanes = 0;  // of a block of the target

  // `segments`: bits for the parts of the target's lanes that they write.
  RowsView<T> view(uint16_t segments) const {
    return {weights.data(),
            first.data(),
            touches.data(),
            group_weights,
            group,
            lane,
            length,
            block_step,
            lane_step,
            segments,
            nonzero.empty() ? nullptr : nonzero.data()};
  }
};

// Of a wire whose weights are `values`, in the order of weights_of. Only token mixing can have
// tokens as lanes.
template <class T>
Rows<T> make_rows(const Wire& wire, Lanes lanes, const std::vector<T>& values);

}  // namespace stmixer::events
