#include "engine/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace stmixer::engine {
namespace {

// One image, channels innermost; false if a value is not finite.
bool load_floats(const float* in, int channels, int pixels, void* to) {
  float* out = static_cast<float*>(to);
  bool finite = true;
  for (int c = 0; c < channels; ++c) {
    for (int p = 0; p < pixels; ++p) {
      const float x = in[int64_t{c} * pixels + p];
      finite &= std::isfinite(x);
      out[int64_t{p} * channels + c] = x;
    }
  }
  return finite;
}

// The same rounded to 16 bits in units of 2^-shift; what is larger saturates. An odd number of
// channels is followed by zeros.
bool load_fixed(const float* in, int channels, int pixels, int shift, void* to) {
  int16_t* out = static_cast<int16_t*>(to);
  const int stride = channels + channels % 2;
  const float scale = static_cast<float>(1 << shift);
  bool finite = true;
  if (stride != channels) std::fill(out, out + int64_t{pixels} * stride, int16_t{0});
  for (int c = 0; c < channels; ++c) {
    for (int p = 0; p < pixels; ++p) {
      const float x = in[int64_t{c} * pixels + p];
      finite &= std::isfinite(x);
      const float bounded = std::min(std::max(x * scale, -32768.0f), 32767.0f);
      // Adding 1.5 * 2^23 rounds to an integer, half to even, as float arithmetic does.
      const float rounded = (bounded + 12582912.0f) - 12582912.0f;
      out[int64_t{p} * stride + c] = static_cast<int16_t>(rounded);
    }
  }
  return finite;
}

}  // namespace

bool Runner::run(const Input& input, int first, int count, float* logits,
                 const Recording* recording, const ActivityCounter& counter) {
  using Clock = std::chrono::steady_clock;
  input_ = input;
  first_ = first;
  images_ = count;
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const Step& step = plan_.steps[i];
    const bool timed = recording != nullptr && recording->work != nullptr;
    const Clock::time_point begin = timed ? Clock::now() : Clock::time_point();
    if (!std::visit([this](const auto& work) { return do_step(work); }, step.work)) return false;
    if (timed)
      (*recording->work)[i].seconds += std::chrono::duration<double>(Clock::now() - begin).count();
    if (recording != nullptr) record(step, *recording, counter);
  }
  read_out(logits);
  return true;
}

// [T, B, C, H, W] as it came to [T, B, H, W, C], refusing what is not finite.
bool Runner::do_step(const LoadStep&) {
  const int steps = input_.sequence ? input_.steps : 1;
  char* to = area_.buffer<char>(plan_.input_buffer);
  const size_t image_bytes = plan_.buffers[plan_.input_buffer].bytes;
  std::atomic<bool> finite{true};
  parallel(steps * images_, [&](int row, int) {
    const int t = row / images_, image = first_ + row % images_;
    const float* in = input_.data + t * input_.step_stride + image * input_.image_stride;
    const int channels = plan_.input.channels, pixels = plan_.input.pixels();
    char* out = to + row * image_bytes;
    const bool good = plan_.integer ? load_fixed(in, channels, pixels, plan_.input_shift, out)
                                    : load_floats(in, channels, pixels, out);
    if (!good) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

bool Runner::do_step(const ListStep& step) {
  const Lists& lists = plan_.lists[step.lists];
  const ListLayout& layout = lists.layout;
  const Neurons& neurons = plan_.neurons[lists.neurons];
  const uint8_t* bits = area_.buffer<uint8_t>(neurons.bits);
  uint16_t* keys = area_.buffer<uint16_t>(lists.keys);
  uint32_t* starts = area_.buffer<uint32_t>(lists.starts);
  const int rows = rows_per_task(layout);
  const int tasks_per_image = ceil_div(layout.rows, rows);
  parallel(tasks_per_image * input_.steps * images_, [&](int index, int thread) {
    const int64_t image = index / tasks_per_image;  // all steps and images in a row
    const int row = index % tasks_per_image * rows;
    ListTask task;
    task.rows = std::min(rows, layout.rows - row);
    task.width = layout.width;
    task.channels = layout.channels;
    task.blocks = layout.blocks;
    task.block_channels = layout.block_channels;
    task.keys = keys + image * layout.rows * layout.row_keys();
    task.first_key = static_cast<uint32_t>(row * layout.row_keys());
    task.starts = starts + (image * layout.rows + row) * layout.row_starts();
    const uint8_t* in = bits + image * neurons.rows * neurons.row_bytes;
    const int pixel = row * layout.width;
    if (layout.by_channel == neurons.by_channel) {
      task.bits = in + int64_t{pixel} * neurons.row_bytes;
      task.bits_pixel = neurons.row_bytes;
    } else {
      // The bits lie the other way round: turn the columns of this task's pixels into rows.
      TransposeTask turn;
      turn.in = in;
      turn.in_stride = neurons.row_bytes;
      turn.in_rows = neurons.rows;
      turn.first_column_byte = pixel / 8;
      turn.column_bytes = (pixel + task.rows * layout.width + 7) / 8 - pixel / 8;
      turn.out = reinterpret_cast<uint8_t*>(area_.scratch(thread));
      turn.out_stride = (layout.channels + 7) / 8;
      kernels_.lists.transpose_bits(turn);
      task.bits = turn.out + pixel % 8 * turn.out_stride;
      task.bits_pixel = turn.out_stride;
    }
    kernels_.lists.build_lists(task);
  });
  return true;
}

bool Runner::do_step(const SumStep& step) {
  plan_.integer ? sum(step, step.integer_bias) : sum(step, step.bias);
  return true;
}

template <class T>
void Runner::sum(const SumStep& step, const std::vector<T>& bias) {
  const Values& to = plan_.values[step.store];
  const int stride = to.pixel_stride;
  parallel(steps_of(to) * images_, [&](int row, int) {
    for (int p = 0; p < to.pixels; ++p) {
      const int64_t at = (int64_t{row} * to.pixels + p) * stride;
      T* out = values<T>(step.store) + at;
      std::fill(out, out + stride, T{0});
      std::copy(bias.begin(), bias.end(), out);
      for (int term : step.terms)
        for (int c = 0; c < step.channels; ++c) out[c] += values<T>(term)[at + c];
    }
  });
}

bool Runner::do_step(const ProjectStep& step) {
  const bool varying =
      step.kind == ProjectStep::Kind::gather || step.kind == ProjectStep::Kind::dense;
  const int steps = varying ? input_.steps : 1;
  const int pixels = pixels_per_task(step, steps, images_, threads());
  const int blocks = ceil_div(step.group_pixels, pixels) * step.groups;
  // Tiles outermost: a thread that takes the next task mostly has its weights at hand.
  const auto work = [this, &step, pixels, blocks](int task, int thread) {
    const Part part = part_of(step, task, pixels, blocks, thread);
    if (part.pixels <= 0) return;
    char* scratch = area_.scratch(thread);
    plan_.integer ? project_integer(step, part, scratch) : project(step, part, scratch);
  };
  parallel(static_cast<int>(step.tiles.size()) * images_ * blocks, work);
  return true;
}

Runner::Part Runner::part_of(const ProjectStep& step, int task, int pixels_per_task, int blocks,
                             int thread) const {
  const int blocks_per_group = blocks / step.groups;
  const int group = task % blocks / blocks_per_group;
  const int begin = task % blocks % blocks_per_group * pixels_per_task;
  return {task / (images_ * blocks),
          task / blocks % images_,
          group,
          group * step.group_pixels + begin,
          std::min(pixels_per_task, step.group_pixels - begin),
          weights_after(step, task, blocks, thread)};
}

void Runner::project(const ProjectStep& step, const Part& part, char* scratch) {
  const Tile& tile = step.tiles[part.tile];
  const int width = tile.units * kUnit;
  const float* weights = reinterpret_cast<const float*>(step.weights_of(part.group, tile));
  float* sums = reinterpret_cast<float*>(scratch);
  FinishTask finish = finish_task(step.target, part.image, part.pixel, part.pixels);
  const int steps = sum_steps(step, finish.steps);
  switch (step.kind) {
    case ProjectStep::Kind::gather: {
      GatherTask task = gather_task(step, part.image);
      task.weights = weights;
      task.next = static_cast<const float*>(part.next);
      task.sums = sums;
      task.first_pixel = part.pixel;
      task.pixels = part.pixels;
      task.steps = steps;
      task.units = tile.units;
      kernels_.project.gather(task);
      break;
    }
    case ProjectStep::Kind::dense: {
      DenseTask task = dense_task(step, part.image);
      task.weights = weights;
      task.sums = sums;
      task.first_pixel = part.pixel;
      task.pixels = part.pixels;
      task.steps = steps;
      task.units = tile.units;
      kernels_.project.dense(task);
      break;
    }
    case ProjectStep::Kind::head:  // of an int8 network only
      return;
    case ProjectStep::Kind::mean: {
      const Values& v = plan_.values[step.values];
      const int64_t image_floats = int64_t{v.pixels} * v.pixel_stride;
      const float* in = values(step.values) + part.image * image_floats + tile.first_channel;
      kernels_.project.mean(
          {in, sums, images_ * image_floats, v.pixel_stride, v.pixels, steps_of(v), tile.units});
      break;
    }
  }

  const int64_t first = tile.first_channel;
  finish.sums = sums;
  finish.sums_pixel = int64_t{steps} * width;
  finish.sums_step = steps == 1 ? 0 : width;
  finish.channels = static_cast<int32_t>(std::min<int64_t>(width, step.target.channels - first));
  if (finish.bias != nullptr) finish.bias += first;
  if (finish.base != nullptr) finish.base += first;
  if (finish.store != nullptr) finish.store += first;
  if (finish.bits != nullptr) finish.bits += first / 8;
  if (finish.per_channel != nullptr && !finish.pixels_are_channels) finish.per_channel += first;
  kernels_.finish.real(finish);
}

// Probably the task after this one, or at the end of the thread's share the first of the next step.
const void* Runner::weights_after(const ProjectStep& step, int task, int blocks, int thread) const {
  const int per_tile = images_ * blocks, next = task + 1;
  const int tasks = static_cast<int>(step.tiles.size()) * per_tile;
  if (next < Pool::first_task(tasks, thread + 1, threads()))
    return step.weights_of(next % blocks / (blocks / step.groups), step.tiles[next / per_tile]);
  const ProjectStep& following = step.following == nullptr ? step : *step.following;
  const int parts = images_ * following.groups;
  const int all = static_cast<int>(following.tiles.size()) * parts;
  const int first = std::min(Pool::first_task(all, thread, threads()), all - 1);
  return following.weights_of(first % following.groups, following.tiles[first / parts]);
}

GatherTask Runner::gather_task(const ProjectStep& step, int image) const {
  const Lists& lists = plan_.lists[step.lists];
  const ListLayout& layout = lists.layout;
  const int64_t row = int64_t{image} * layout.rows;
  GatherTask task{};
  task.geometry = step.geometry;
  task.keys = area_.buffer<uint16_t>(lists.keys) + row * layout.row_keys();
  task.starts = area_.buffer<uint32_t>(lists.starts) + row * layout.row_starts();
  task.step_rows = int64_t{images_} * layout.rows;
  task.step_keys = task.step_rows * layout.row_keys();
  task.blocks = layout.blocks;
  task.block_channels = layout.block_channels;
  return task;
}

DenseTask Runner::dense_task(const ProjectStep& step, int image) const {
  const bool input = step.values < 0;
  const float* in = input ? area_.buffer<float>(plan_.input_buffer) : values(step.values);
  DenseTask task{};
  task.geometry = step.geometry;
  task.channels = step.in_channels;
  task.in_pixel = input ? step.in_channels : plan_.values[step.values].pixel_stride;
  const int64_t image_floats =
      int64_t{step.geometry.in_height} * step.geometry.in_width * task.in_pixel;
  task.in = in + image * image_floats;
  task.in_step = images_ * image_floats;
  return task;
}

FinishTask Runner::finish_task(const Target& target, int image, int pixel, int pixels) const {
  FinishTask task{};
  task.pixels = pixels;
  task.steps = input_.steps;
  task.channels = target.channels;
  if (!target.bias.empty()) task.bias = target.bias.data();
  if (target.store >= 0 || target.base >= 0) {
    const Values& v = plan_.values[target.store >= 0 ? target.store : target.base];
    const int64_t at = (int64_t{image} * v.pixels + pixel) * v.pixel_stride + target.channel_offset;
    if (target.base >= 0) task.base = values(target.base) + at;
    if (target.store >= 0) task.store = values(target.store) + at;
    task.store_pixel = v.pixel_stride;
    task.store_step = int64_t{images_} * v.pixels * v.pixel_stride;
    task.steps = steps_of(v);
  }
  if (target.neurons >= 0) {
    const Neurons& n = plan_.neurons[target.neurons];
    task.lif = &n.lif;
    if (!n.per_channel.empty()) {
      task.per_channel = n.per_channel.data() + (n.by_channel ? pixel : 0);
      task.per_channel_stride = static_cast<int64_t>(n.per_channel.size()) / 3;
      task.pixels_are_channels = n.by_channel;
    }
    task.bits = area_.buffer<uint8_t>(n.bits) + (int64_t{image} * n.rows + pixel) * n.row_bytes;
    task.bits_pixel = n.row_bytes;
    task.bits_step = int64_t{images_} * n.rows * n.row_bytes;
  }
  return task;
}

bool Runner::do_step(const FireStep& step) {
  const Neurons& n = plan_.neurons[step.neurons];
  // After token mixing the neurons of an int8 network have thresholds head by head.
  const bool heads = plan_.integer && n.by_channel;
  const int groups = heads ? static_cast<int>(n.threshold.size()) / n.columns : 1;
  const int group_pixels = n.rows / groups;
  const int pixels = ceil_div(group_pixels, groups * images_ < threads() ? threads() : 1);
  const int blocks = ceil_div(group_pixels, pixels);
  parallel(images_ * groups * blocks, [&](int task, int) {
    const int group = task / blocks % groups, begin = task % blocks * pixels;
    const Part part{0,
                    task / (groups * blocks),
                    group,
                    group * group_pixels + begin,
                    std::min(pixels, group_pixels - begin),
                    nullptr};
    plan_.integer ? fire_integer(step, part) : fire(step, part);
  });
  return true;
}

bool Runner::do_step(const RateStep& step) {
  const Neurons& n = plan_.neurons[step.neurons];
  const Values& v = plan_.values[step.values];
  const int units = v.pixel_stride / kUnit, parts = std::min(units, threads());
  parallel(images_ * parts, [&](int index, int) {
    const int image = index / parts, part = index % parts;
    const int first = Pool::first_task(units, part, parts);
    const int last = Pool::first_task(units, part + 1, parts);
    RateTask task;
    task.bits =
        area_.buffer<uint8_t>(n.bits) + int64_t{image} * n.rows * n.row_bytes + first * (kUnit / 8);
    task.rates = values(step.values) + int64_t{image} * v.pixel_stride + first * kUnit;
    task.bits_pixel = n.row_bytes;
    task.bits_step = int64_t{images_} * n.rows * n.row_bytes;
    task.pixels = n.rows;
    task.steps = input_.steps;
    task.units = last - first;
    kernels_.project.rate(task);
  });
  return true;
}

void Runner::fire(const FireStep& step, const Part& part) const {
  const Values& v = plan_.values[step.values];
  Target target;
  target.neurons = step.neurons;
  target.channels = plan_.neurons[step.neurons].columns;
  FinishTask task = finish_task(target, part.image, part.pixel, part.pixels);
  task.sums = values(step.values) + (int64_t{part.image} * v.pixels + part.pixel) * v.pixel_stride;
  task.sums_pixel = v.pixel_stride;
  task.sums_step = int64_t{images_} * v.pixels * v.pixel_stride;
  kernels_.finish.real(task);
}

void Runner::record(const Step& step, const Recording& recording,
                    const ActivityCounter& counter) const {
  const int index = fired_by(step);
  if (index < 0) return;
  const Neurons& neurons = plan_.neurons[index];
  const uint8_t* bits = area_.buffer<uint8_t>(neurons.bits);
  const int64_t image_bytes = int64_t{neurons.rows} * neurons.row_bytes;
  counter.count(index, bits, int64_t{input_.steps} * images_,
                recording.activity != nullptr ? &(*recording.activity)[index] : nullptr,
                recording.work);
  if (recording.spikes.empty() || recording.spikes[index] == nullptr) return;
  for (int t = 0; t < input_.steps; ++t) {
    for (int image = 0; image < images_; ++image) {
      const int64_t row = int64_t{t} * input_.batch + first_ + image;
      unpack_spikes(neurons, bits + (int64_t{t} * images_ + image) * image_bytes,
                    recording.spikes[index] + row * neurons.rows * neurons.columns);
    }
  }
}

void Runner::read_out(float* logits) const {
  const int64_t stride = plan_.values[plan_.readout].pixel_stride;
  for (int image = 0; image < images_; ++image) {
    float* to = logits + int64_t{first_ + image} * plan_.classes;
    if (!plan_.integer) {
      const float* from = values(plan_.readout) + image * stride;
      std::copy(from, from + plan_.classes, to);
      continue;
    }
    const int64_t* from = values<int64_t>(plan_.readout) + image * stride;
    for (int i = 0; i < plan_.classes; ++i)
      to[i] = plan_.readout_scale[i] * static_cast<float>(from[i]) + plan_.readout_bias[i];
  }
}

}  // namespace stmixer::engine
