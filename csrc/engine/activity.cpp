#include "engine/activity.h"

#include <bitset>
#include <numeric>
#include <utility>

namespace stmixer::engine {
namespace {

int64_t count_bits(const uint8_t* bytes, int n) {
  int64_t count = 0;
  for (int i = 0; i < n; ++i) count += std::bitset<8>(bytes[i]).count();
  return count;
}

}  // namespace

void unpack_spikes(const Neurons& n, const uint8_t* bits, uint8_t* spikes) {
  for (int row = 0; row < n.rows; ++row, bits += n.row_bytes) {
    for (int column = 0; column < n.columns; ++column) {
      const int64_t at =
          n.by_channel ? int64_t{row} * n.columns + column : int64_t{column} * n.rows + row;
      spikes[at] = bits[column / 8] >> (column % 8) & 1;
    }
  }
}

ActivityCounter::ActivityCounter(const Plan& plan) : plan_(plan), readers_(plan.neurons.size()) {
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const auto* list = std::get_if<ListStep>(&plan.steps[i].work);
    const auto* project = std::get_if<ProjectStep>(&plan.steps[i].work);
    if (project != nullptr && project->rates_of >= 0) {
      readers_[project->rates_of].push_back({i, project->fan_out, 0, 0});
      continue;
    }
    const int index = list != nullptr ? list->lists : project != nullptr ? project->lists : -1;
    if (index < 0) continue;
    const Lists& lists = plan.lists[index];
    Reader reader{i,
                  {},
                  sizeof(uint16_t),
                  lists.layout.rows * lists.layout.row_starts() * int64_t{sizeof(uint32_t)}};
    if (project != nullptr) reader.fan_out = project->fan_out;
    readers_[lists.neurons].push_back(std::move(reader));
  }
}

void ActivityCounter::count(int neurons, const uint8_t* bits, int64_t images, Activity* activity,
                            std::vector<Work>* work) const {
  const Neurons& n = plan_.neurons[neurons];
  std::vector<int64_t> spikes(n.by_channel ? n.columns : n.rows);  // by pixel
  for (int64_t row = 0; row < images * n.rows; ++row, bits += n.row_bytes) {
    if (!n.by_channel) {
      spikes[row % n.rows] += count_bits(bits, n.row_bytes);
      continue;
    }
    for (int pixel = 0; pixel < n.columns; ++pixel)
      spikes[pixel] += bits[pixel / 8] >> pixel % 8 & 1;
  }
  const int64_t sum = std::accumulate(spikes.begin(), spikes.end(), int64_t{0});
  if (activity != nullptr) activity->spikes += sum;
  for (const Reader& reader : readers_[neurons]) {
    const int64_t sops = std::inner_product(reader.fan_out.begin(), reader.fan_out.end(),
                                            spikes.begin(), int64_t{0});
    if (activity != nullptr) activity->sops += sops;
    if (work == nullptr) continue;
    (*work)[reader.step].sops += sops;
    (*work)[reader.step].list_bytes += sum * reader.key_bytes + images * reader.starts_bytes;
  }
}

}  // namespace stmixer::engine
