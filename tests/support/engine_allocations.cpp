// Counts allocations while an engine runs. Prints "first some" (the counter works: the first run
// plans its memory) and "later N", N counted over runs of the same size on one and two threads.
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

#include "stmixer/engine.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<long> allocations{0};

void count() {
  if (counting.load(std::memory_order_relaxed)) ++allocations;
}
}  // namespace

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t align, size_t size);

void* malloc(size_t size) {
  count();
  return __libc_malloc(size);
}
void* calloc(size_t n, size_t size) {
  count();
  return __libc_calloc(n, size);
}
void* realloc(void* old, size_t size) {
  count();
  return __libc_realloc(old, size);
}
void* aligned_alloc(size_t align, size_t size) {
  count();
  return __libc_memalign(align, size);
}
}

using namespace stmixer::engine;

namespace {

std::vector<float> ramp(size_t n) {
  std::vector<float> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(i * 7 % 13) / 13 - 0.3f;
  return values;
}

Projection projection(const char* name, Projection::Kind kind, const char* source,
                      std::vector<int> shape) {
  Projection p;
  p.name = name;
  p.kind = kind;
  p.source = source;
  size_t n = 1;
  for (int extent : shape) n *= extent;
  p.weight_shape = shape;
  if (!shape.empty()) p.weight = ramp(n);
  return p;
}

Population population(const char* name, Population::Kind kind, const char* current, Shape shape) {
  Population p;
  p.name = name;
  p.kind = kind;
  p.current = current;
  p.shape = shape;
  return p;
}

// Every kind of node: convolution, token mixing, a residual, mean, head.
Graph make_graph() {
  using Kind = Projection::Kind;
  Graph g;
  g.populations = {population("input", Population::Kind::input, "", {3, 8, 8}),
                   population("lif0", Population::Kind::lif, "c0", {20, 8, 8}),
                   population("lif1", Population::Kind::lif, "c1", {24, 1, 16}),
                   population("lif2", Population::Kind::lif, "c2", {24, 1, 16}),
                   population("logits", Population::Kind::readout, "head", {10, 1, 1})};
  Projection first = projection("conv0", Kind::conv, "input", {20, 3, 3, 3});
  first.padding = 1;
  Projection second = projection("conv1", Kind::conv, "lif0", {24, 20, 3, 3});
  second.padding = 1;
  second.stride = 2;
  const Projection mix = projection("mix", Kind::token_mix, "lif1", {4, 16, 16});
  const Projection out = projection("out", Kind::linear, "lif2", {24, 24});
  const Projection mean = projection("pool", Kind::mean, "c3", {});
  const Projection head = projection("head.fc", Kind::linear, "mean", {10, 24});
  g.currents = {
      {"c0", {20, 8, 8}, {first}, {}, ramp(20)}, {"c1", {24, 4, 4}, {second}, {}, {}},
      {"c2", {24, 1, 16}, {mix}, {}, {}},        {"c3", {24, 1, 16}, {out}, {"c1"}, {}},
      {"mean", {24, 1, 1}, {mean}, {}, {}},      {"head", {10, 1, 1}, {head}, {}, ramp(10)}};
  return g;
}

bool sops_keep_their_former_name(const std::vector<float>& image, std::vector<float>& logits) {
  const Engine engine(make_graph(), 1);
  std::vector<Activity> activity(3);
  std::vector<Work> work(engine.steps().size());
  Recording recording;
  recording.activity = &activity;
  recording.work = &work;
  engine.run({image.data(), 3, 2, false, 0, 3 * 8 * 8}, logits.data(), &recording);
  bool good = activity[0].sops > 0;
  for (const Activity& a : activity) good &= a.sops == a.synops;
  for (const Work& w : work) good &= w.sops == w.synops;
  return good;
}

}  // namespace

int main() {
  constexpr int kSteps = 3, kBatch = 2;
  const std::vector<float> image = ramp(kBatch * 3 * 8 * 8);
  std::vector<float> logits(kBatch * 10);
  const Input input{image.data(), kSteps, kBatch, false, 0, 3 * 8 * 8};
  long first = 0, later = 0;
  for (int threads : {1, 2}) {
    const Engine engine(make_graph(), threads);
    counting = true;
    engine.run(input, logits.data());
    counting = false;
    first += allocations.exchange(0);
    counting = true;
    for (int i = 0; i < 50; ++i) engine.run(input, logits.data());
    counting = false;
    later += allocations.exchange(0);
  }
  std::printf("first %s\nlater %ld\n", first > 0 ? "some" : "none", later);
  return sops_keep_their_former_name(image, logits) ? 0 : 1;
}
