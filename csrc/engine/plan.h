#pragma once
// From a checked graph to steps that only have to be carried out: layouts, packed weights, tiles,
// and what each buffer holds from when until when.
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/memory.h"
#include "engine/integer_kernels.h"
#include "engine/kernels.h"
#include "graph/check.h"
#include "stmixer/engine.h"

namespace stmixer::engine {

using graph::CheckedGraph;
using graph::NodeRef;

// Memory that one image needs (at each time step, if per_step), between the first step that writes
// it and the last that reads it.
struct Buffer {
  size_t bytes = 0;
  bool per_step = true;
  int born = 0, died = 0;
};

// A current in memory, channels innermost and padded to whole units; a by_channel current (what
// token mixing gives) has tokens innermost instead.
struct Values {
  int buffer = -1;
  int pixels = 0, pixel_stride = 0;  // stride in floats
  bool per_step = true;
  bool by_channel = false;
};

// The neurons of a LIF population, their spikes as bits. by_channel: [C][N], else [N][C].
struct Neurons {
  std::string name;
  int population = -1;  // in graph.populations
  LifSpec lif{};
  std::vector<float> per_channel;         // thresholds, decays, initial membranes; or empty
  std::vector<int32_t> threshold, reset;  // of an int8 network
  int32_t decay = 0;
  bool by_channel = false;
  int rows = 0, columns = 0, row_bytes = 0;
  int bits = -1;  // buffer
};

// How a population's spikes are listed for one kind of reader.
struct ListLayout {
  bool by_channel = false;
  int rows = 0, width = 0, channels = 0;
  int blocks = 0, block_channels = 0;

  bool operator==(const ListLayout& o) const {
    return by_channel == o.by_channel && rows == o.rows && width == o.width &&
           channels == o.channels && block_channels == o.block_channels;
  }
  int64_t row_keys() const { return int64_t{width} * static_cast<int64_t>(round_up(channels, 8)); }
  int64_t row_starts() const { return int64_t{blocks} * (width + 1); }
};

struct Lists {
  int neurons = -1;
  ListLayout layout;
  int keys = -1, starts = -1;  // buffers
};

// Where finished sums go: bias and an earlier current are added, the result is stored and drives
// neurons, each only if given.
struct Target {
  std::vector<float> bias;  // this projection's channels, or empty
  std::vector<int32_t> integer_bias, multiplier;
  int shift = 0;
  int base = -1, store = -1;  // values
  int neurons = -1;
  int channel_offset = 0, channels = 0;
};

struct Tile {
  int first_channel, units;
  size_t weights;  // offset in weights
};

// The input: checked, channels innermost.
struct LoadStep {};

// Spikes of a population, listed.
struct ListStep {
  int lists;
};

// bias + other currents, for a current that no single projection can start.
struct SumStep {
  int store;  // values
  int channels;
  std::vector<int> terms;
  std::vector<float> bias;  // or empty
  std::vector<int32_t> integer_bias;
};

// One projection into a current. Spikes come as lists and are gathered; real numbers come as values
// (-1: the input) and are multiplied, or averaged. The head of an int8 network multiplies a mean.
struct ProjectStep {
  enum class Kind { gather, dense, mean, head };
  Kind kind = Kind::gather;
  int lists = -1, values = -1;
  int rates_of = -1;  // neurons whose rates `values` are
  Geometry geometry;
  int in_channels = 0, block_channels = 0;
  int groups = 1, group_pixels = 0;  // output pixels with weights of their own: heads of a mixer
  int64_t group_weights = 0;         // weights of a group
  std::vector<Tile> tiles;
  Memory weights;
  int weight_bytes = 4;     // 1 or 2 in an int8 network
  bool seven_bits = false;  // all int8 weights have 7
  int safe_blocks = 0;      // channel blocks whose int8 weights can be summed in 16 bits
  const ProjectStep* following = nullptr;  // the next step that gathers
  std::vector<int64_t> fan_out;            // of spikes: weights that one adds, by its position
  Target target;

  const char* weights_of(int group, const Tile& tile) const {
    return weights.data() + weight_bytes * (group * group_weights + tile.weights);
  }

  int64_t macs() const {
    return int64_t{groups} * group_pixels * target.channels * in_channels * geometry.kernel_h *
           geometry.kernel_w;
  }
};

// Neurons that read a current from memory.
struct FireStep {
  int values, neurons;
};

// How often each channel of a population fires, as values.
struct RateStep {
  int neurons, values;
};

struct Step {
  std::string name;
  std::variant<LoadStep, ListStep, SumStep, ProjectStep, FireStep, RateStep> work;
};

struct Plan {
  bool integer = false;
  int input_shift = 0;
  std::vector<float> readout_scale, readout_bias;
  Shape input;
  int input_buffer = -1;
  int readout = -1;  // values
  int classes = 0;
  std::vector<Buffer> buffers;
  std::vector<Values> values;
  std::vector<Neurons> neurons;  // in order of execution
  std::vector<Lists> lists;
  std::vector<Step> steps;
};

// What a plan must know of the kernels that will run it.
struct KernelTraits {
  int max_units;     // widest tile
  int vector_bytes;  // register that interleaves int8 weights
};

// Throws std::invalid_argument for what a checked graph may say but this engine cannot run.
Plan make_plan(const CheckedGraph& graph, const KernelTraits& traits);

// The neurons that a step makes fire, or -1.
int fired_by(const Step& step);

// Whether a projection multiplies real numbers: not those whose rates stand for spikes.
inline bool multiplies(const ProjectStep& step) {
  return step.rates_of < 0 &&
         (step.kind == ProjectStep::Kind::dense || step.kind == ProjectStep::Kind::head);
}

// Whether what a dense projection reads differs between the time steps of a run.
bool varies(const Plan& plan, const ProjectStep& step, bool sequence);

}  // namespace stmixer::engine
