// The steps of an int8 network that differ from those of run.cpp in more than a type.
#include <algorithm>

#include "engine/run.h"

namespace stmixer::engine {

void Runner::project_integer(const ProjectStep& step, const Part& part, char* scratch) {
  const Tile& tile = step.tiles[part.tile];
  const int first = tile.first_channel;
  const int channels = std::min(kIntegerTile, step.target.channels - first);
  if (step.kind == ProjectStep::Kind::head) return head(step, part);
  if (step.kind == ProjectStep::Kind::mean) {
    const Values& v = plan_.values[step.values];
    const Values& out = plan_.values[step.target.store];
    const int64_t image_values = int64_t{v.pixels} * v.pixel_stride;
    kernels_.integer.mean({values<int32_t>(step.values) + part.image * image_values + first,
                           values<int32_t>(step.target.store) + part.image * out.pixel_stride +
                               step.target.channel_offset + first,
                           images_ * image_values, v.pixel_stride, v.pixels, steps_of(v),
                           channels});
    return;
  }

  IntegerLif lif;
  IntegerFinishTask finish = integer_finish_task(step.target, part, first, channels, &lif);
  const int steps = sum_steps(step, finish.steps);
  int32_t* wide = reinterpret_cast<int32_t*>(scratch);
  const char* weights = step.weights_of(part.group, tile);
  if (step.kind == ProjectStep::Kind::gather) {
    IntegerGatherTask task = integer_gather_task(step, part.image);
    task.weights = weights;
    task.next = part.next;
    task.wide = wide;
    task.narrow = reinterpret_cast<int16_t*>(wide + int64_t{part.pixels} * steps * kIntegerTile);
    task.first_pixel = part.pixel;
    task.pixels = part.pixels;
    task.steps = steps;
    const bool narrow = step.weight_bytes == 1 && step.safe_blocks >= task.blocks;
    const auto gather = step.weight_bytes == 2 ? kernels_.integer.gather16
                        : step.seven_bits      ? kernels_.integer.gather7
                                               : kernels_.integer.gather8;
    gather(task);
    if (narrow) finish.narrow = task.narrow;
    if (!narrow) finish.wide = task.wide;
  } else {
    IntegerDenseTask task = integer_dense_task(step, part.image);
    task.weights = reinterpret_cast<const int16_t*>(weights);
    task.sums = wide;
    task.first_pixel = part.pixel;
    task.pixels = part.pixels;
    task.steps = steps;
    kernels_.integer.dense(task);
    finish.wide = wide;
  }
  finish.sums_pixel = int64_t{steps} * kIntegerTile;
  finish.sums_step = steps == 1 ? 0 : kIntegerTile;
  kernels_.finish.integer(finish);
}

IntegerGatherTask Runner::integer_gather_task(const ProjectStep& step, int image) const {
  const GatherTask lists = gather_task(step, image);
  IntegerGatherTask task{};
  task.geometry = lists.geometry;
  task.keys = lists.keys;
  task.starts = lists.starts;
  task.step_keys = lists.step_keys;
  task.step_rows = lists.step_rows;
  task.blocks = lists.blocks;
  task.block_channels = lists.block_channels;
  task.safe_blocks = std::min(step.safe_blocks, lists.blocks);
  return task;
}

IntegerDenseTask Runner::integer_dense_task(const ProjectStep& step, int image) const {
  IntegerDenseTask task{};
  task.geometry = step.geometry;
  task.pairs = (step.in_channels + 1) / 2;
  const int64_t image_values =
      int64_t{step.geometry.in_height} * step.geometry.in_width * 2 * task.pairs;
  task.in = area_.buffer<int16_t>(plan_.input_buffer) + image * image_values;
  task.in_step = images_ * image_values;
  return task;
}

IntegerFinishTask Runner::integer_finish_task(const Target& target, const Part& part, int first,
                                              int channels, IntegerLif* lif) const {
  // Where things lie does not depend on what kind of numbers they are.
  const FinishTask places = finish_task(target, part.image, part.pixel, part.pixels);
  IntegerFinishTask task{};
  task.pixels = places.pixels;
  task.steps = places.steps;
  task.channels = channels;
  task.shift = target.shift;
  if (!target.multiplier.empty()) task.multiplier = target.multiplier.data() + first;
  if (!target.integer_bias.empty()) task.bias = target.integer_bias.data() + first;
  if (places.base != nullptr) task.base = reinterpret_cast<const int32_t*>(places.base) + first;
  if (places.store != nullptr) task.store = reinterpret_cast<int32_t*>(places.store) + first;
  task.store_pixel = places.store_pixel;
  task.store_step = places.store_step;
  if (target.neurons < 0) return task;
  const Neurons& n = plan_.neurons[target.neurons];
  // After token mixing every head has thresholds of its own.
  const size_t at = n.by_channel ? size_t(part.group) * n.columns + first : first;
  *lif = {n.threshold.data() + at, n.reset.empty() ? nullptr : n.reset.data() + at, n.decay};
  task.lif = lif;
  task.bits = places.bits + first / 8;
  task.bits_pixel = places.bits_pixel;
  task.bits_step = places.bits_step;
  return task;
}

void Runner::fire_integer(const FireStep& step, const Part& part) const {
  const Values& v = plan_.values[step.values];
  Target target;
  target.neurons = step.neurons;
  IntegerLif lif;
  IntegerFinishTask task =
      integer_finish_task(target, part, 0, plan_.neurons[step.neurons].columns, &lif);
  task.wide =
      values<int32_t>(step.values) + (int64_t{part.image} * v.pixels + part.pixel) * v.pixel_stride;
  task.sums_pixel = v.pixel_stride;
  task.sums_step = int64_t{images_} * v.pixels * v.pixel_stride;
  kernels_.finish.integer(task);
}

// Sums of 64 bits; read_out() scales them.
void Runner::head(const ProjectStep& step, const Part& part) const {
  const Tile& tile = step.tiles[part.tile];
  const Values& in = plan_.values[step.values];
  const Values& out = plan_.values[step.target.store];
  const int32_t* mean = values<int32_t>(step.values) + part.image * in.pixel_stride;
  int64_t* sums = values<int64_t>(step.target.store) + part.image * out.pixel_stride;
  const int last = std::min(tile.first_channel + kIntegerTile, step.target.channels);
  for (int o = tile.first_channel; o < last; ++o) {
    const int16_t* weights = step.weights.as<int16_t>() + int64_t{o} * step.in_channels;
    int64_t sum = 0;
    for (int c = 0; c < step.in_channels; ++c) sum += int64_t{weights[c]} * mean[c];
    sums[o] = sum;
  }
}

}  // namespace stmixer::engine
