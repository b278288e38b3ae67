#include "events/rows.h"

#include <algorithm>
#include <cstdint>

#include "graph/kinds.h"

namespace stmixer::events {
namespace {

using Kind = Projection::Kind;

// The outputs that an input at one position of an axis reaches, which are neighbours: the kernel's
// elements of the same phase, last first.
struct Reach {
  int phase, first_output, count, skipped;  // of the elements of the phase, before the first
};

int elements(int kernel, int stride, int phase) { return (kernel - phase + stride - 1) / stride; }

Reach reach(int position, int outputs, int kernel, int stride, int padding) {
  const int shifted = position + padding, phase = shifted % stride;
  const int count = phase < kernel ? elements(kernel, stride, phase) : 0;
  // The last element of the phase reaches the first output.
  const int first = shifted / stride - (count - 1);
  const int begin = std::max(first, 0), end = std::min(first + count, outputs);
  return {phase, begin, std::max(end - begin, 0), begin - first};
}

template <class T>
void make_conv(const Projection& p, const Shape& in, const Shape& out, const std::vector<T>& values,
               Rows<T>* rows) {
  const int channels = p.weight_shape[0], kh = p.weight_shape[2], kw = p.weight_shape[3];
  rows->group_weights = int64_t{kh} * kw * channels;
  rows->weights.resize(values.size());
  // Per source channel, row of the kernel and phase: its elements, last first.
  std::vector<int> phase_begin;
  for (int phase = 0, begin = 0; phase < std::min(p.stride, kw); ++phase) {
    phase_begin.push_back(begin);
    begin += elements(kw, p.stride, phase);
  }
  T* to = rows->weights.data();
  for (int c = 0; c < in.channels; ++c)
    for (int y = 0; y < kh; ++y)
      for (int phase = 0; phase < std::min(p.stride, kw); ++phase)
        for (int e = elements(kw, p.stride, phase) - 1; e >= 0; --e)
          for (int o = 0; o < channels; ++o)
            *to++ = values[((int64_t{o} * in.channels + c) * kh + y) * kw + phase + e * p.stride];
  for (int y = 0; y < in.height; ++y) {
    const Reach down = reach(y, out.height, kh, p.stride, p.padding);
    for (int x = 0; x < in.width; ++x) {
      const Reach across = reach(x, out.width, kw, p.stride, p.padding);
      for (int i = 0; i < down.count && across.count > 0; ++i) {
        const int element = elements(kh, p.stride, down.phase) - 1 - (down.skipped + i);
        const int64_t row = int64_t{down.phase + element * p.stride} * kw;
        rows->touches.push_back({(down.first_output + i) * out.width + across.first_output,
                                 across.count,
                                 (row + phase_begin[across.phase] + across.skipped) * channels});
      }
      rows->first.push_back(static_cast<int32_t>(rows->touches.size()));
    }
  }
}

template <class T>
void make_linear(const Projection& p, const Shape& in, const std::vector<T>& values,
                 Rows<T>* rows) {
  const int channels = p.weight_shape[0];
  rows->group_weights = channels;
  for (int c = 0; c < in.channels; ++c)
    for (int o = 0; o < channels; ++o)
      rows->weights.push_back(values[int64_t{o} * in.channels + c]);
  for (int pixel = 0; pixel < in.pixels(); ++pixel) {
    rows->touches.push_back({pixel, 1, 0});
    rows->first.push_back(pixel + 1);
  }
}

template <class T>
void make_token_mix(const Projection& p, const Shape& in, Lanes lanes, const std::vector<T>& values,
                    Rows<T>* rows) {
  const int heads = p.weight_shape[0], to = p.weight_shape[1], from = p.weight_shape[2];
  rows->group_weights = int64_t{to} * from;
  rows->group = in.channels / heads;
  for (int head = 0; head < heads; ++head)
    for (int i = 0; i < from; ++i)
      for (int o = 0; o < to; ++o)
        rows->weights.push_back(values[(int64_t{head} * to + o) * from + i]);
  const bool whole = lanes == Lanes::tokens;
  rows->length = whole ? to : 1;
  rows->lane = whole ? 0 : p.channel_offset;
  rows->block_step = whole;
  rows->lane_step = !whole;
  for (int i = 0; i < from; ++i) {
    rows->touches.push_back({whole ? p.channel_offset : 0, whole ? 1 : to, int64_t{i} * to});
    rows->first.push_back(i + 1);
  }
}

// One number for all spikes, each in its own channel and at its own position.
template <class T>
void make_plain(const Wire& wire, const std::vector<T>& values, Rows<T>* rows) {
  rows->weights = values;
  rows->length = rows->lane_step = 1;
  rows->lane = wire.offset;
  for (int pixel = 0; pixel < wire.in.pixels(); ++pixel) {
    rows->touches.push_back({pixel, 1, 0});
    rows->first.push_back(pixel + 1);
  }
}

template <class T>
void mark_zeros(Rows<T>* rows) {
  const auto& w = rows->weights;
  if (std::find(w.begin(), w.end(), T(0)) == w.end()) return;
  rows->nonzero.assign(w.size() / 64 + 2, 0);
  for (size_t i = 0; i < w.size(); ++i)
    rows->nonzero[i / 64] |= static_cast<uint64_t>(w[i] != T(0)) << (i % 64);
}

}  // namespace

template <class T>
Rows<T> make_rows(const Wire& wire, Lanes lanes, const std::vector<T>& values) {
  const Projection& p = *wire.projection;
  Rows<T> rows;
  rows.first.push_back(0);
  rows.lanes = lanes == Lanes::tokens ? wire.out.pixels() : wire.out.channels;
  if (!graph::has_weight(p.kind)) {
    make_plain(wire, values, &rows);
  } else if (p.kind == Kind::token_mix) {
    make_token_mix(p, wire.in, lanes, values, &rows);
  } else {
    rows.lane = p.channel_offset;
    rows.length = p.weight_shape[0];
    p.kind == Kind::conv ? make_conv(p, wire.in, wire.out, values, &rows)
                         : make_linear(p, wire.in, values, &rows);
  }
  mark_zeros(&rows);
  return rows;
}

template Rows<float> make_rows(const Wire&, Lanes, const std::vector<float>&);
template Rows<double> make_rows(const Wire&, Lanes, const std::vector<double>&);
template Rows<int32_t> make_rows(const Wire&, Lanes, const std::vector<int32_t>&);
template Rows<int64_t> make_rows(const Wire&, Lanes, const std::vector<int64_t>&);

}  // namespace stmixer::events
