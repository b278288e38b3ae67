#pragma once
#include <cstddef>
#include <cstring>
#include <new>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common/rounding.h"

namespace stmixer {

constexpr size_t kAlign = 64;

// Zeroed memory on cache lines. Large ones ask for huge pages: spikes select weight rows at random,
// and small pages would miss the TLB.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) {
    if (bytes == 0) return;
    align_ = bytes >= kHugePage ? kHugePage : kAlign;
    const size_t size = round_up(bytes, align_);
    data_ = ::operator new(size, std::align_val_t{align_});
#if defined(__linux__)
    if (align_ == kHugePage) madvise(data_, size, MADV_HUGEPAGE);
#endif
    std::memset(data_, 0, size);
  }
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), align_(other.align_) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(align_, other.align_);
    return *this;
  }
  ~Memory() { ::operator delete(data_, std::align_val_t{align_}); }

  char* data() const { return static_cast<char*>(data_); }
  template <class T>
  T* as(size_t byte_offset = 0) const {
    return reinterpret_cast<T*>(data() + byte_offset);
  }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;
  void* data_ = nullptr;
  size_t align_ = kAlign;
};

}  // namespace stmixer
