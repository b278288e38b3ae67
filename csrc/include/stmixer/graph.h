#pragma once
// A spiking network as data, and the `.stmx` files that hold it; nothing here runs it.
//
// Three kinds of node. A Population emits: LIF neurons, the input, graded values, or the readout. A
// Current is a named sum of projections, a bias and other currents, that any number of populations
// may integrate; a residual stream is a chain of them. A Projection carries what its source emits
// into the current that owns it.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace stmixer::graph {

// Numbers in memory that the array shares with others: a vector of its own, or a part of a file
// that was read, which stays in memory as long as the array does.
template <class T>
class Array {
 public:
  Array() = default;
  Array(std::shared_ptr<const T> data, size_t size) : data_(std::move(data)), size_(size) {
    if (size_ > 0 && data_ == nullptr)
      throw std::invalid_argument("data of an Array of " + std::to_string(size) +
                                  " must not be null");
  }
  Array(std::vector<T> values) : size_(values.size()) {
    const auto own = std::make_shared<const std::vector<T>>(std::move(values));
    data_ = std::shared_ptr<const T>(own, own->data());
  }

  // A part, read as numbers of another type; keeps the whole in memory.
  template <class To>
  Array<To> part(size_t first, size_t count) const {
    return {std::shared_ptr<const To>(data_, reinterpret_cast<const To*>(data() + first)), count};
  }

  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }

 private:
  std::shared_ptr<const T> data_;
  size_t size_ = 0;
};

// One time step of one image. Tokens [C, N] are {C, 1, N}; a vector is {C, 1, 1}.
struct Shape {
  int channels = 0, height = 1, width = 1;
  int pixels() const { return height * width; }
};

struct Population {
  enum class Kind {
    input,
    lif,
    readout,
    graded  // emits the value of its current at once and unchanged: sums of spikes, pooled spikes
  };
  std::string name;
  Kind kind = Kind::lif;
  // What it integrates (lif), emits (graded), or shows at the end of a run (readout).
  std::string current;
  Shape shape;
  bool tokens = false;  // spikes are reported as [C, N] instead of [C, H, W]
  // At each step v = decay * v + input_scale * x, and the neuron spikes where v >= threshold; then
  // v = 0, or with a soft reset v -= threshold. Every run starts at v_init.
  float threshold = 1.0f, decay = 0.5f, input_scale = 1.0f, v_init = 0.0f;
  // Values per channel that replace the number of that name; or empty.
  std::vector<float> channel_threshold, channel_decay, channel_v_init;
  bool soft_reset = false;
  // A neuron gives as many spikes in one step as thresholds fit into v, at most these.
  int max_spikes = 1;
  // An int8 network has these instead, per channel (after token mixing per head and token) and in
  // units of what the neuron integrates; a decay is in units of 2^-15. A soft reset subtracts
  // `integer_reset`. An empty integer_v_init means 0 everywhere; the decay is one number for all
  // unless channel_integer_decay is given.
  std::vector<int32_t> integer_threshold, integer_reset, integer_v_init;
  int integer_decay = 0;
  std::vector<int32_t> channel_integer_decay;
  // The readout of an int8 network, per class: logit = scale * sum + bias.
  std::vector<float> scale, bias;
};

struct Projection {
  enum class Kind {
    conv,       // weight [out, in, kh, kw]
    linear,     // weight [out, in], at every position
    token_mix,  // weight [heads, tokens out, tokens in], for every channel of a head
    mean,       // over all positions and all time steps, of a current; no weight
    // These have no weight either and keep channels apart.
    identity,  // the source as it is
    max_pool,  // the largest of kernel x kernel positions; padding is never the largest
    avg_pool,  // their sum / kernel^2, padding counting as zeros
    // scale * (q k^T) v in every head, of three populations of spikes: output token i of channel c
    // is the sum over tokens j of scale * (sum over channels d of c's head of q[d, i] * k[d, j]) *
    // v[c, j].
    spike_product
  };
  std::string name;
  Kind kind = Kind::conv;
  // A population, or a current whose real values are read; of a spike product its query, a
  // population [C, N]. Its key is a population [C, M], its value one [C', M].
  std::string source, key, value;
  int stride = 1, padding = 0;
  int kernel = 1;  // of a pool
  int heads = 1;   // of a spike product: groups of consecutive channels
  float scale = 1.0f;
  int channel_offset = 0;  // its first output channel within the current: concatenation
  // It means something only where time has steps. Always so of max_pool and spike_product.
  bool clocked_only = false;
  std::vector<int> weight_shape;
  Array<float> weight;
  // An int8 network has these weights instead, of 8 bits or of 16. Sums enter the current as
  // (sum * multiplier + half) >> shift, per channel, or without multiplier as sum << shift.
  Array<int8_t> weight8;
  Array<int16_t> weight16;
  std::vector<int32_t> multiplier;
  int shift = 0;
};

struct Current {
  std::string name;
  Shape shape;
  std::vector<Projection> projections;
  std::vector<std::string> currents;
  std::vector<float> bias;  // [channels], or empty
  std::vector<int32_t> integer_bias;
};

struct Graph {
  std::vector<Population> populations;
  std::vector<Current> currents;
  // An int8 network computes with the integer fields only. Its input is read in units of
  // 2^-input_shift, 16 bits.
  bool integer = false;
  int input_shift = 0;
  int steps = 1;             // a static image is shown for so many time steps
  bool batch_first = false;  // Python takes sequences as [B, T, C, H, W]
  // How values in [0, 1] become the input: (x - mean) / std, per channel; or empty.
  std::vector<float> mean, std;
  int64_t step_us = 0;  // microseconds that a time step stands for; 0: not said
};

// The network that a `.stmx` file holds. Throws std::invalid_argument, naming the file and what is
// wrong with it, or std::runtime_error if it cannot be read.
Graph load_graph(const std::string& path);

// The same from the file's bytes, which the graph keeps if it is given their owner. Errors name no
// file.
Graph parse_graph(const Array<char>& content);

}  // namespace stmixer::graph
