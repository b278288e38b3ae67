#include "engine/ceiling.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/cpu_features.h"

namespace stmixer::engine {

STMIXER_DECLARE_TABLE(CeilingKernels, ceiling_kernels);

namespace {

constexpr int64_t kTableBytes = 16384;  // with the order below, well within 32 KiB of L1
constexpr int64_t kOrder = 4096;

double median_rate(const CeilingKernel& kernel, double seconds) {
  using Clock = std::chrono::steady_clock;
  const int64_t rows = kTableBytes / kernel.row_bytes;
  std::vector<char> storage(kTableBytes + 2 * 64), sums(kTableBytes);
  void* aligned = storage.data();
  size_t space = storage.size();
  std::align(64, kTableBytes, aligned, space);
  std::vector<uint16_t> order(kOrder);
  uint32_t state = 1;
  for (uint16_t& key : order) {
    state = state * 1664525u + 1013904223u;
    key = static_cast<uint16_t>((state >> 8) % static_cast<uint32_t>(rows));
  }
  const CeilingTask task{aligned, order.data(), kOrder, sums.data()};
  std::vector<double> rates;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  constexpr int kCalls = 16;  // about half a millisecond
  do {
    const auto start = Clock::now();
    for (int i = 0; i < kCalls; ++i) kernel.run(task);
    const std::chrono::duration<double> took = Clock::now() - start;
    rates.push_back(kCalls * kOrder * kernel.width / took.count());
  } while (Clock::now() < end);
  std::nth_element(rates.begin(), rates.begin() + rates.size() / 2, rates.end());
  return rates[rates.size() / 2];
}

}  // namespace

double row_adds_per_second(int bits, double seconds) {
  if (bits != 32 && bits != 16 && bits != 8 && bits != 7)
    throw std::invalid_argument("bits must be 32, 16, 8 or 7, got " + std::to_string(bits));
  double best = 0;
  for (const CeilingKernel& kernel : STMIXER_PICK_TABLE(ceiling_kernels, current_isa()).variants)
    if (kernel.run != nullptr && (kernel.bits == bits || (bits == 7 && kernel.bits == 8)))
      best = std::max(best, median_rate(kernel, seconds));
  return best;
}

}  // namespace stmixer::engine
