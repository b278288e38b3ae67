#pragma once
#include <cstddef>
#include <type_traits>

namespace stmixer {

// In the type of `a`, which must not be negative.
template <class T>
constexpr T ceil_div(T a, std::common_type_t<T> b) {
  return (a + b - 1) / b;
}

constexpr size_t round_up(size_t n, size_t to) { return ceil_div(n, to) * to; }

}  // namespace stmixer
