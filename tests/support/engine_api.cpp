// Misuse of the C++ interface of the engine, and what it leaves unsaid: engine_api MODEL CASE
// prints the logits, or the message of the std::invalid_argument that is thrown.
#include <cstdint>
#include <cstdio>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "stmixer/engine.h"

using namespace stmixer::engine;

namespace {

constexpr int kBatch = 2, kSteps = 3;

// Values that differ from image to image and from step to step, exact in float32.
std::vector<float> images(const Shape& shape, int count) {
  std::vector<float> values(size_t(shape.channels) * shape.pixels() * count);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i * 37 % 101) / 64 - 0.5f;
  return values;
}

struct Call {
  const Graph& graph;
  const Engine engine{graph, 2};
  const std::vector<float> x = images(engine.input_shape(), kBatch* kSteps);
  std::vector<float> logits = std::vector<float>(size_t(kBatch) * engine.classes());
  std::vector<uint8_t> spikes = std::vector<uint8_t>(1 << 20);
  std::vector<Activity> activity;
  std::vector<Work> work;
  Input input;
  Recording recording;
  float* out = logits.data();
  int layer_steps = 1;

  explicit Call(const Graph& graph) : graph(graph) {
    input.data = x.data();
    input.batch = kBatch;
  }
  size_t populations() const {
    size_t count = 0;
    for (const Layer& layer : engine.layers(1, false)) count += layer.neurons > 0;
    return count;
  }
};

using Change = void (*)(Call&);
const std::map<std::string, Change> kCases = {
    {"defaults", [](Call&) {}},
    {"said",
     [](Call& c) {
       c.input.steps = c.graph.steps;
       c.input.image_stride = int64_t(c.x.size()) / (kBatch * kSteps);
     }},
    {"same image", [](Call& c) { c.input.image_stride = 0; }},
    {"sequence",
     [](Call& c) {
       c.input.sequence = true;
       c.input.steps = kSteps;
     }},
    {"data", [](Call& c) { c.input.data = nullptr; }},
    {"batch", [](Call& c) { c.input.batch = 0; }},
    {"steps", [](Call& c) { c.input.steps = -1; }},
    {"step_stride", [](Call& c) { c.input.step_stride = 5; }},
    {"logits", [](Call& c) { c.out = nullptr; }},
    {"not finite",
     [](Call& c) {
       static std::vector<float> damaged = c.x;
       damaged[7] = std::numeric_limits<float>::infinity();
       c.input.data = damaged.data();
     }},
    {"spikes", [](Call& c) { c.recording.spikes = {c.spikes.data()}; }},
    {"spikes[i]", [](Call& c) { c.recording.spikes.resize(c.populations()); }},
    {"activity", [](Call& c) { c.recording.activity = &c.activity; }},
    {"work", [](Call& c) { c.recording.work = &c.work; }},
    {"recording",
     [](Call& c) {
       c.activity.resize(c.populations());
       c.work.resize(c.engine.steps().size());
       c.recording.spikes.resize(c.populations(), c.spikes.data());
       c.recording.activity = &c.activity;
       c.recording.work = &c.work;
     }},
    {"layers", [](Call& c) { c.layer_steps = 0; }},
    {"threads", [](Call& c) { Engine(c.graph, 0); }},
    {"array", [](Call&) { Array<float>(nullptr, 3); }},
};

void run(const std::string& model, const std::string& name) {
  const Graph graph = load_graph(model);
  Call call(graph);
  kCases.at(name)(call);
  call.engine.layers(call.layer_steps, false);
  call.engine.run(call.input, call.out, &call.recording);
  for (float logit : call.logits) std::printf("%.9g\n", logit);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    run(argv[1], argv[2]);
  } catch (const std::invalid_argument& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  return 0;
}
