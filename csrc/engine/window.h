#pragma once
// What all projections share: how windows move over the input, and what to fetch meanwhile.
// Included only by *_kernel.cpp; everything has internal linkage, see simd.h.
#include <cstdint>
#include <type_traits>

#include "engine/kernels.h"

namespace stmixer::engine {
namespace {

inline int max_int(int a, int b) { return a > b ? a : b; }
inline int min_int(int a, int b) { return a < b ? a : b; }

// Brings the chunk of weights that comes next from L3 to L2 while this one is being summed, a few
// lines per output.
class Prefetcher {
 public:
  Prefetcher(const void* next, int64_t bytes, int64_t outputs)
      : line_(static_cast<const char*>(next)),
        lines_per_output_(static_cast<int>((bytes / 64 + outputs - 1) / outputs)) {}

  void step() {
    for (int i = 0; i < lines_per_output_; ++i, line_ += 64) __builtin_prefetch(line_, 0, 2);
  }

 private:
  const char* line_;
  int lines_per_output_;
};

// Output pixels in order, and where the window of each begins in the input.
struct Cursor {
  Cursor(const Geometry& g, int pixel) : g_(g), y_(pixel / g.out_width), x_(pixel % g.out_width) {}

  void next() {
    if (++x_ == g_.out_width) x_ = 0, ++y_;
  }
  // Whether this and the next pixels lie in one row and their windows inside of it.
  bool inside(int pixels) const {
    return x_ + pixels <= g_.out_width && left() >= 0 &&
           left() + (pixels - 1) * g_.stride + g_.kernel_w <= g_.in_width;
  }
  int top() const { return y_ * g_.stride - g_.padding; }
  int left() const { return x_ * g_.stride - g_.padding; }

 private:
  const Geometry& g_;
  int y_, x_;
};

// f(p, cursor, n) for pixels p on in order: n, a constant of the type, of them at once where they
// lie in one row and their windows inside of it, else one.
template <int kPixels, class F>
inline void for_each_pixels(const Geometry& g, int first_pixel, int pixels, const F& f) {
  Cursor cursor(g, first_pixel);
  for (int p = 0; p < pixels;) {
    const bool some = p + kPixels <= pixels && cursor.inside(kPixels);
    some ? f(p, cursor, std::integral_constant<int, kPixels>())
         : f(p, cursor, std::integral_constant<int, 1>());
    for (const int end = p + (some ? kPixels : 1); p < end; ++p) cursor.next();
  }
}

}  // namespace
}  // namespace stmixer::engine
