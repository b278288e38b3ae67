#pragma once
#include <cstdint>
#include <map>
#include <vector>

namespace stmixer::events {

// Counts of many neurons, of which few are large.
class Counter {
 public:
  explicit Counter(int64_t size) : low_(size, 0) {}

  void add(int64_t i, int64_t n) {
    const int64_t sum = low_[i] + n;
    if (sum > kMost) high_[i] += sum & ~kMost;
    low_[i] = static_cast<uint16_t>(sum & kMost);
  }
  int64_t operator[](int64_t i) const {
    if (high_.empty()) return low_[i];
    const auto found = high_.find(i);
    return low_[i] + (found == high_.end() ? 0 : found->second);
  }
  int64_t size() const { return static_cast<int64_t>(low_.size()); }

 private:
  static constexpr int64_t kMost = 0xffff;
  std::vector<uint16_t> low_;
  std::map<int64_t, int64_t> high_;
};

}  // namespace stmixer::events
