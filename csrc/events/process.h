#pragma once
// One recording while it happens, whatever the schedule.
#include <cmath>
#include <memory>
#include <vector>

#include "events/agenda.h"
#include "events/counter.h"
#include "events/membranes.h"
#include "events/readout.h"

namespace stmixer::events {

// All that the recordings of a simulator share.
struct Model {
  // Throws std::invalid_argument naming the node or the option.
  Model(const Graph& given, const Options& o, const Kernels& kernels);
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  graph::Graph graph;
  CheckedGraph checked;
  Layout layout;
  Options options;
  Delays delays;
  ReadoutSums readout;
  Kernels kernels;
  std::vector<std::vector<int64_t>> sops, fanout;  // [source][pixel]: of a spike there
};

// A limit of membranes; only float32 networks have one.
template <class T>
T membrane_limit(double value, T none) {
  return std::isinf(value) ? none : static_cast<T>(value);
}

class Process {
 public:
  explicit Process(const Model& model);
  virtual ~Process() = default;
  virtual std::unique_ptr<Process> clone() const = 0;

  void start(int64_t t0, Wanted wanted);
  // Checked events, none earlier than time().
  void push(const Events& events);
  void advance(int64_t t);
  virtual void finish();
  // Values of the input at each tick, instead of events.
  virtual void show(const Dense& input);

  int64_t time() const { return time_; }
  bool stopped() const { return stopped_; }
  Outcome outcome() const;
  virtual std::vector<float> logits() const;

 protected:
  Process(const Process&) = default;

  virtual void begin() = 0;
  virtual void arrive(const Arrival& event, int64_t t) = 0;
  // All that happens before t, and nothing else.
  virtual void run_until(int64_t t) = 0;
  virtual double elapsed_steps() const;

  const Population& input() const { return *model_->layout.input; }
  const Options& options() const { return model_->options; }

  // Spikes of a source: counted, recorded, and weighed against max_sops.
  void count(int source, const Arrival& spikes, int64_t t);
  void note_moment(int64_t t);

  // The spikes that a neuron emits at once, or as many as max_sops ends the recording with; more
  // than could be held one by one are an error that names the population.
  int affordable(int source, int pixel, int spikes) const;

  const Model* model_;
  Wanted wanted_;
  int64_t t0_ = 0, time_ = 0;
  bool any_time_ = false;  // whether time has passed at all
  bool stopped_ = false;
  std::vector<Counter> counts_;   // per source, in the order of [C, H, W]
  std::vector<int64_t> updates_;  // per population
  int64_t spent_ = 0;             // sops_fanout so far
  std::vector<Spike> spikes_;
  std::vector<Moment> moments_;
  std::vector<double> sums_;  // of the readout, kept while moments are wanted
};

}  // namespace stmixer::events
