#pragma once
// The event-driven simulator: the same graph as the engine's, run without a clock, event by event.
// Times are microseconds. Populations are the LIF populations, in topological order.
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "stmixer/graph.h"

namespace stmixer::events {

using graph::Graph;
using graph::Shape;

enum class Schedule {
  grid,    // time-stepped: arrivals are binned, every neuron is tested once a tick
  rank,    // arrivals of one timestamp are summed population by population, then tested
  serial,  // one spike at a time is delivered to all that it reaches, which are then tested
};

// What becomes of the biases, which a network without a clock has no step to add in.
enum class Bias {
  refuse,   // an error that names the currents
  current,  // a constant current whose crossings of the threshold are found in closed form
  initial,  // the membranes start at as many biases as the network has steps
  tick,     // added once every step
  drop,
};

enum class Order { fifo, depth };    // of the spikes that a spike causes (serial)
enum class Readout { rate, total };  // logits per elapsed step, or per step of the network

struct Options {
  Schedule schedule = Schedule::rank;
  int64_t step_us = 0;  // of the world that a time step stands for; 0: what the graph says
  Bias bias = Bias::refuse;
  Readout readout = Readout::rate;
  Order order = Order::fifo;
  bool permute = false;  // spikes that one delivery causes are queued in an order of order_seed
  uint64_t order_seed = 0;
  bool multi_spike = false;   // a test emits as many spikes as thresholds fit into the membrane
  int64_t refractory_us = 0;  // after a spike, a neuron integrates and is not tested
  double v_min = -std::numeric_limits<double>::infinity();
  double v_max = std::numeric_limits<double>::infinity();
  double tau_us = 0;  // time constant of every leak; 0: what decay and step_us say
  // Per projection of projection_names(), or empty: delay, and the largest number of microseconds
  // and the probability with which a spike comes later or not at all.
  std::vector<int64_t> delay_us, jitter_us;
  std::vector<double> drop;
  uint64_t seed = 0;
  // How long pools and spike products hold a spike where there is no clock, 0: a pool lets all
  // through; negative: what needs a clock is an error.
  int64_t latch_us = -1;
  int64_t max_sops = std::numeric_limits<int64_t>::max();  // of one recording, fan-out
};

// Events of one recording by rising time; p is the channel of the input.
struct Events {
  const int64_t* t = nullptr;
  const uint16_t* x = nullptr;
  const uint16_t* y = nullptr;
  const uint8_t* p = nullptr;
  int64_t count = 0;
};

// [T, C, H, W] (sequence) or [C, H, W] at each of `steps` ticks, float32, contiguous images.
struct Dense {
  const float* data = nullptr;
  int steps = 0;
  int64_t step_stride = 0;  // from one time step to the next; 0 shows the same image again
};

struct Spike {
  int64_t t;
  int32_t population, index;  // index into [C, H, W]
};

// What a population did: a row of the statistics.
struct Activity {
  int64_t spikes = 0;
  int64_t sops = 0;         // weights its spikes were multiplied with, each projection once
  int64_t sops_fanout = 0;  // the same for each population that integrates them
  int64_t updates = 0;      // visits of its neurons
};

// The answer at one moment.
struct Moment {
  int64_t t;
  int32_t best;       // class of the largest logit
  double confidence;  // its softmax
};

struct PopulationInfo {
  std::string name;
  Shape shape;
  bool tokens = false;
};

// What a recording left. Rows of `activity` are the input and the populations.
struct Outcome {
  std::vector<float> logits;
  std::vector<Activity> activity;
  std::vector<std::vector<int64_t>> counts;  // per population [C, H, W]
  std::vector<Spike> spikes;                 // in order of emission, if recorded
  std::vector<Moment> moments;               // if traced
  int64_t time = 0;                          // up to which the recording was run
  double steps = 0;                          // elapsed time in steps
  bool stopped = false;                      // by max_sops
};

struct Wanted {
  bool spikes = false, moments = false;
};

class Simulator;

// One recording while it happens.
class Stream {
 public:
  Stream(const Simulator& simulator, int64_t t0, Wanted wanted = {});
  ~Stream();
  Stream(Stream&&) noexcept;
  Stream& operator=(Stream&&) noexcept;

  // Throws std::invalid_argument naming the first event that is wrong; nothing is pushed then.
  void push(const Events& events);
  // Moves time through silence: all that happens before t.
  void advance(int64_t t);
  // Ends the recording: what belongs to its last timestamp or tick is computed.
  void finish();
  void reset();

  int64_t time() const;
  bool finished() const;
  // As if the last timestamp were closed.
  Outcome outcome() const;
  std::vector<float> logits() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

class Simulator {
 public:
  // Throws std::invalid_argument, naming the node or the option, for what cannot be simulated.
  Simulator(const Graph& graph, const Options& options, int threads);
  ~Simulator();
  Simulator(const Simulator&) = delete;
  Simulator& operator=(const Simulator&) = delete;

  // Recordings spread over the threads. duration < 0: up to the last event.
  std::vector<Outcome> run(const std::vector<Events>& recordings, int64_t t0, int64_t duration,
                           Wanted wanted = {}) const;
  // Schedule::grid only.
  std::vector<Outcome> run(const std::vector<Dense>& recordings, Wanted wanted = {}) const;

  int threads() const;
  const char* isa() const;
  int classes() const;
  int64_t step_us() const;
  PopulationInfo input() const;
  std::vector<PopulationInfo> populations() const;

 private:
  friend class Stream;
  struct State;
  std::shared_ptr<const State> state_;  // shared with streams
};

// Of a graph whose projections may have delays: their names, in the order of Options::delay_us.
std::vector<std::string> projection_names(const Graph& graph);

}  // namespace stmixer::events
