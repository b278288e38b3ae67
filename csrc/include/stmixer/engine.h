#pragma once
// The spike-driven, time-stepped engine: a network planned once, run many times. There is no delay:
// within a time step, populations fire in layer order.
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "stmixer/graph.h"

namespace stmixer::engine {

using graph::Array;
using graph::Current;
using graph::Graph;
using graph::load_graph;
using graph::parse_graph;
using graph::Population;
using graph::Projection;
using graph::Shape;

// [T, B, C, H, W] (sequence) or [B, C, H, W] (the same image at all `steps` time steps), float32.
// One [C, H, W] image is contiguous; strides are in elements, 0 shows the same image again.
struct Input {
  static constexpr int64_t kDense = std::numeric_limits<int64_t>::min();

  const float* data = nullptr;
  int steps = 0;  // T; 0: as many as the network's file says
  int batch = 0;  // B
  bool sequence = false;
  int64_t step_stride = kDense;   // from one time step to the next, of a sequence; dense: B images
  int64_t image_stride = kDense;  // from one image to the next; dense: C * H * W
};

// What a population did during one run, all steps and images together.
struct Activity {
  int64_t spikes = 0;
  union {
    // Synaptic operations: weights those spikes added, fewer at the border of a convolution.
    int64_t sops = 0;
    int64_t synops;  // its former name
  };
};

// A step of an engine: a layer, or the spike lists that layers read.
struct StepInfo {
  std::string name, kernel;
  int64_t weight_bytes = 0;  // as they lie in memory, padding included
};

// What a step did during one run, all time steps and images together.
struct Work {
  double seconds = 0;
  union {
    int64_t sops = 0;  // weights it added because of spikes
    int64_t synops;    // its former name
  };
  int64_t list_bytes = 0;  // of spike lists, written or read
};

// What to write down during a run beside the logits. LIF populations come in the order of layers().
struct Recording {
  std::vector<uint8_t*> spikes;               // per population: [T, B, C, H, W], 0 or 1; or empty
  std::vector<Activity>* activity = nullptr;  // per population, added to; or null
  std::vector<Work>* work = nullptr;          // per step of steps(), added to; or null
};

// A row of a table of the network, in order of execution: a LIF population, or a projection that
// multiplies because its input is real-valued.
struct Layer {
  std::string name;
  int64_t neurons = 0;  // of a population, at one time step
  int64_t macs = 0;     // of a projection, per image; padding counts, as is the convention
};

class Engine {
 public:
  // Throws std::invalid_argument, naming the node, if the graph is not one that can run.
  // threads >= 1 counts the calling thread.
  Engine(const Graph& graph, int threads);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // logits: [batch, classes]. May be called from several threads at once; a second caller computes
  // on its own thread only. Allocates nothing after the first call with the same steps and batch.
  // Throws std::invalid_argument, naming the argument, for a null pointer, an input that is empty
  // or not finite, or a recording whose sizes are not those of the network.
  void run(const Input& input, float* logits, const Recording* recording = nullptr) const;

  int threads() const;
  const char* isa() const;
  int classes() const;
  Shape input_shape() const;
  std::vector<StepInfo> steps() const;  // in order of execution
  // For runs of `steps` time steps, at least one; a static image is convolved once, whatever steps.
  std::vector<Layer> layers(int steps, bool sequence) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace stmixer::engine
