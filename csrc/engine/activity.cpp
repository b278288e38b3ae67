#include "engine/activity.h"

#include <bitset>
#include <numeric>
#include <utility>

namespace stmixer::engine {
namespace {

// For each position along one axis, how many outputs of a convolution it reaches.
std::vector<int64_t> reach(int in, int out, int kernel, int stride, int padding) {
  std::vector<int64_t> count(in, 0);
  for (int o = 0; o < out; ++o)
    for (int k = 0; k < kernel; ++k) {
      const int i = o * stride + k - padding;
      if (i >= 0 && i < in) ++count[i];
    }
  return count;
}

// Per pixel of the population, how many weights a spike adds.
std::vector<int64_t> fan_out(const ProjectStep& step, const ListLayout& lists) {
  const Geometry& g = step.geometry;
  if (lists.by_channel)  // token mixing: pixels are what channels are elsewhere
    return std::vector<int64_t>(step.in_channels, step.target.channels);
  const int out_height = step.group_pixels / g.out_width;
  const auto rows = reach(g.in_height, out_height, g.kernel_h, g.stride, g.padding);
  const auto columns = reach(g.in_width, g.out_width, g.kernel_w, g.stride, g.padding);
  std::vector<int64_t> count;
  for (int64_t row : rows)
    for (int64_t column : columns) count.push_back(row * column * step.target.channels);
  return count;
}

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
      const size_t pixels = plan.neurons[project->rates_of].rows;
      std::vector<int64_t> fan_out(pixels, project->target.channels);
      readers_[project->rates_of].push_back({i, std::move(fan_out), 0, 0});
      continue;
    }
    const int index = list != nullptr ? list->lists : project != nullptr ? project->lists : -1;
    if (index < 0) continue;
    const Lists& lists = plan.lists[index];
    Reader reader{i,
                  {},
                  sizeof(uint16_t),
                  lists.layout.rows * lists.layout.row_starts() * int64_t{sizeof(uint32_t)}};
    if (project != nullptr) reader.fan_out = fan_out(*project, lists.layout);
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
    const int64_t synops = std::inner_product(reader.fan_out.begin(), reader.fan_out.end(),
                                              spikes.begin(), int64_t{0});
    if (activity != nullptr) activity->synops += synops;
    if (work == nullptr) continue;
    (*work)[reader.step].synops += synops;
    (*work)[reader.step].list_bytes += sum * reader.key_bytes + images * reader.starts_bytes;
  }
}

}  // namespace stmixer::engine
