#pragma once
#include <algorithm>
#include <vector>

#include "events/kernels.h"

namespace stmixer::events {

inline bool by_index(const Arrival& a, const Arrival& b) {
  return a.channel != b.channel ? a.channel < b.channel : a.pixel < b.pixel;
}

// By index, several spikes of a neuron as one arrival.
inline void sort_and_merge(std::vector<Arrival>* arrivals) {
  if (arrivals->size() < 2) return;
  std::sort(arrivals->begin(), arrivals->end(), by_index);
  size_t last = 0;
  for (size_t i = 1; i < arrivals->size(); ++i) {
    Arrival& kept = (*arrivals)[last];
    const Arrival& a = (*arrivals)[i];
    if (a.channel == kept.channel && a.pixel == kept.pixel)
      kept.count += a.count;
    else
      (*arrivals)[++last] = a;
  }
  arrivals->resize(last + 1);
}

}  // namespace stmixer::events
