#include "engine/workspace.h"

#include <algorithm>

namespace stmixer::engine {
namespace {

// What a slice of a batch may take between layers. Larger slices reuse each weight more often but
// push spikes and streams out of the caches.
constexpr size_t kSliceBytes = size_t{8} << 20;

// Neurons whose spikes one task lists.
constexpr int kNeuronsPerListTask = 1 << 14;

int widest(const ProjectStep& step) { return step.tiles[0].units * kUnit; }

// Per thread, for one task of the step.
size_t scratch_bytes(const Plan& plan, const Step& step, int steps) {
  if (const auto* project = std::get_if<ProjectStep>(&step.work)) {
    // In an int8 network sums of 16 bits lie beside those of 32.
    const size_t sums = std::max(kSumsBytes, sizeof(float) * steps * widest(*project));
    return plan.integer ? sums / 2 * 3 : sums;
  }
  if (const auto* list = std::get_if<ListStep>(&step.work)) {
    const Lists& lists = plan.lists[list->lists];
    const ListLayout& layout = lists.layout;
    if (layout.by_channel == plan.neurons[lists.neurons].by_channel) return 0;
    // Transposed bits of its pixels, which need not begin at a multiple of 8.
    const size_t pixels = size_t(rows_per_task(layout)) * layout.width + 16;
    return pixels * (round_up(layout.channels, 8) / 8);
  }
  return 0;
}

Layout lay_out(const Plan& plan, int steps, int images, bool sequence) {
  struct Placed {
    size_t begin, end;
    int died;
  };
  std::vector<Placed> placed;  // by begin
  Layout layout;
  for (size_t i = 0; i < plan.buffers.size(); ++i) {
    const Buffer& b = plan.buffers[i];
    const bool is_static = !b.per_step || (static_cast<int>(i) == plan.input_buffer && !sequence);
    const size_t size = round_up(b.bytes * images * (is_static ? 1 : steps), kAlign);
    size_t at = 0;
    auto next = placed.begin();
    for (; next != placed.end(); ++next) {
      if (next->died < b.born) continue;
      if (at + size <= next->begin) break;
      at = std::max(at, next->end);
    }
    const Placed here{at, at + size, b.died};
    placed.insert(
        std::upper_bound(placed.begin(), placed.end(), here,
                         [](const Placed& a, const Placed& c) { return a.begin < c.begin; }),
        here);
    layout.offsets.push_back(at);
    layout.bytes = std::max(layout.bytes, at + size);
  }
  return layout;
}

}  // namespace

int pixels_per_task(const ProjectStep& step, int sum_steps, int images, int threads) {
  const size_t per_pixel = sizeof(float) * sum_steps * widest(step);
  const int64_t most = std::max<int64_t>(1, kSumsBytes / per_pixel);
  // Few tasks leave threads idle at the end of a step: then smaller ones, down to a pixel.
  const int64_t others = static_cast<int64_t>(step.tiles.size()) * step.groups * images;
  const int64_t wanted = threads == 1 ? 1 : ceil_div<int64_t>(2 * threads, others);
  const int64_t blocks = std::max(ceil_div<int64_t>(step.group_pixels, most), wanted);
  return static_cast<int>(std::max<int64_t>(1, ceil_div<int64_t>(step.group_pixels, blocks)));
}

int rows_per_task(const ListLayout& layout) {
  const int row = layout.width * layout.channels;
  return std::clamp(kNeuronsPerListTask / row, 1, layout.rows);
}

void Workspace::prepare(const Plan& plan, int steps, int batch, bool sequence, int threads) {
  if (steps == steps_ && batch == batch_ && sequence == sequence_) return;
  steps_ = 0;  // if an allocation below throws, nothing is prepared
  const int areas = batch < threads ? 1 : threads, share = ceil_div(batch, areas);
  const size_t one = lay_out(plan, steps, 1, sequence).bytes;
  const int most = static_cast<int>(std::clamp<size_t>(kSliceBytes / areas / one, 1, share));
  images_ = ceil_div(share, ceil_div(share, most));
  layout_ = lay_out(plan, steps, images_, sequence);
  area_bytes_ = round_up(layout_.bytes, 4096) + kAlign;  // areas not on the same cache sets
  if (areas * area_bytes_ > memory_bytes_) {
    memory_bytes_ = 0;
    memory_ = Memory();  // the old one goes first
    memory_ = Memory(areas * area_bytes_);
    memory_bytes_ = areas * area_bytes_;
  }
  size_t scratch = 0;
  for (const Step& step : plan.steps) scratch = std::max(scratch, scratch_bytes(plan, step, steps));
  if (scratch > scratch_bytes_) {
    scratch = round_up(scratch, 4096) + kAlign;  // threads not on the same cache sets
    scratch_bytes_ = 0;
    scratch_ = Memory(scratch * threads);
    scratch_bytes_ = scratch;
  }
  steps_ = steps;
  batch_ = batch;
  sequence_ = sequence;
}

std::unique_ptr<Workspace> WorkspacePool::take() {
  std::unique_lock<std::mutex> lock(mutex_);
  available_.wait(lock, [this] { return !idle_.empty() || made_ < limit_; });
  if (idle_.empty()) {
    auto made = std::make_unique<Workspace>();
    ++made_;
    return made;
  }
  auto workspace = std::move(idle_.back());
  idle_.pop_back();
  return workspace;
}

void WorkspacePool::give_back(std::unique_ptr<Workspace> workspace) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(workspace));
  }
  available_.notify_one();
}

}  // namespace stmixer::engine
