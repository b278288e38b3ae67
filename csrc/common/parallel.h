#pragma once
#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace stmixer {

// body(begin, end, thread) over [0, tasks), cut into one contiguous range per thread. The thread
// count is the caller's; one thread runs in place, without waking a pool.
template <class Body>
void parallel_ranges(int64_t tasks, int threads, const Body& body) {
  [[maybe_unused]] const int parts =
      static_cast<int>(std::max<int64_t>(std::min<int64_t>(threads, tasks), 1));
#ifdef _OPENMP
  if (parts > 1) {
#pragma omp parallel for num_threads(parts) schedule(static, 1)
    for (int part = 0; part < parts; ++part)
      body(tasks * part / parts, tasks * (part + 1) / parts, part);
    return;
  }
#endif
  body(0, tasks, 0);
}

}  // namespace stmixer
