#pragma once
#include <cstdint>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace stmixer {

// Large outputs are often fresh from the kernel, and taking them page by page costs more than
// computing them. Asks for huge pages inside [p, p + bytes); a refusal does no harm.
inline void prefer_huge_pages(void* p, int64_t bytes) {
#ifdef __linux__
  constexpr std::uintptr_t kHuge = std::uintptr_t{2} << 20;
  if (p == nullptr || bytes < static_cast<int64_t>(2 * kHuge)) return;
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(p);
  const std::uintptr_t begin = (address + kHuge - 1) / kHuge * kHuge;
  const std::uintptr_t end = (address + static_cast<std::uintptr_t>(bytes)) / kHuge * kHuge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)p;
  (void)bytes;
#endif
}

}  // namespace stmixer
