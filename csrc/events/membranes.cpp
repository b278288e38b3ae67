#include "events/membranes.h"

#include <bitset>

#include "common/rounding.h"

namespace stmixer::events {

template <class T>
Membranes<T>::Membranes(const Neurons<T>& n, int64_t t0)
    : neurons(n),
      cells{},
      v_(n.size(), T(0)),
      blocks_(n.blocks, Block{t0, 0, 0, 0}),
      touched_(n.blocks) {
  cells.block_count = n.blocks;
  cells.lanes = n.lanes;
  cells.words = ceil_div(n.lanes, 64);
  cells.blocks_per_row = n.blocks_per_row;
  cells.uniform = n.uniform;
  cells.all_segments = static_cast<uint16_t>((1u << n.segments.size()) - 1);
  cells.now = t0;
  if (n.masked) visited_.assign(int64_t{n.blocks} * cells.words, 0);
  for (const Leak& leak : n.leaks) leaks_.push_back(leak.view());
  const bool by_channel = n.leaks.size() > 1;
  cells.leak_of_block = by_channel && n.lanes_are == Lanes::tokens;
  cells.leak_of_lane = by_channel && n.lanes_are == Lanes::channels;
  for (int b = 0; b < n.blocks && !n.start.empty(); ++b)
    for (int l = 0; l < n.lanes; ++l)
      v_[int64_t{b} * n.lanes + l] =
          n.start[n.start_by_token ? int64_t{b / n.blocks_per_row} * n.lanes + l : n.channel(b, l)];
  bind();
}

template <class T>
Membranes<T>::Membranes(const Membranes& other)
    : neurons(other.neurons),
      cells(other.cells),
      v_(other.v_),
      blocks_(other.blocks_),
      visited_(other.visited_),
      touched_(other.touched_),
      leaks_(other.leaks_) {
  bind();
}

template <class T>
void Membranes<T>::bind() {
  cells.v = v_.data();
  cells.blocks = blocks_.data();
  cells.visited = visited_.empty() ? nullptr : visited_.data();
  cells.touched = touched_.data();
  cells.thresholds = neurons.thresholds.data();
  cells.leaks = leaks_.empty() ? nullptr : leaks_.data();
  if constexpr (sizeof(T) == sizeof(float)) {
    if (neurons.drift_limit.empty()) return;
    cells.drift = {leaks_.empty() ? nullptr : neurons.drift_limit.data(),
                   leaks_.empty() ? neurons.drift_slope.data() : nullptr};
  }
}

template <class T>
void Membranes<T>::open(int64_t now) {
  cells.now = now;
  cells.touched_count = 0;
  if (++cells.round != 0) return;
  for (Block& b : blocks_) b.round = 0;  // after 2^32 rounds
  cells.round = 1;
}

template <class T>
void Membranes<T>::visit(const DeliverKernels<T>& kernels, int block, int lane) {
  kernels.touch(cells, block);
  if (cells.visited != nullptr)
    visited_[int64_t{block} * cells.words + lane / 64] |= uint64_t{1} << (lane & 63);
}

template <class T>
void Membranes<T>::visit_all(const DeliverKernels<T>& kernels) {
  for (int b = 0; b < neurons.blocks; ++b)
    for (int l = 0; l < (cells.visited != nullptr ? neurons.lanes : 1); ++l) visit(kernels, b, l);
}

template <class T>
int64_t Membranes<T>::visits() const {
  int64_t count = 0;
  if (cells.visited == nullptr) {
    for (int i = 0; i < cells.touched_count; ++i)
      for (uint32_t bits = cells.blocks[cells.touched[i]].segments; bits != 0; bits &= bits - 1)
        count += neurons.segments[__builtin_ctz(bits)];
    return count;
  }
  for (int i = 0; i < cells.touched_count; ++i)
    for (int w = 0; w < cells.words; ++w)
      count += std::bitset<64>(cells.visited[int64_t{cells.touched[i]} * cells.words + w]).count();
  return count;
}

template class Membranes<float>;
template class Membranes<int64_t>;

}  // namespace stmixer::events
