#pragma once
// What the schedules without a clock share: membranes, tests of them, and things to come.
#include <deque>
#include <vector>

#include "events/process.h"
#include "events/relays.h"

namespace stmixer::events {

template <class T>
const DeliverKernels<T>& kernels_of(const Kernels& kernels) {
  if constexpr (sizeof(T) == sizeof(float))
    return kernels.real;
  else
    return kernels.integer;
}

template <class T>
class Clockless : public Process {
 public:
  Clockless(const Model& model, const Wiring<T>& wiring);

 protected:
  Clockless(const Clockless&) = default;

  void begin() override;
  void run_until(int64_t t) override;

  // All that is due at the time t.
  virtual void happen(int64_t t) = 0;
  // Before the first event with biases as initial values.
  virtual void test_all(int64_t t) = 0;
  virtual bool has_open_round() const { return false; }

  const DeliverKernels<T>& kernels() const { return kernels_of<T>(model_->kernels); }

  // Tests the neurons of a population that the open round reached; appends those that fire, by
  // index, and counts them.
  void fire(int population, int64_t t, std::vector<Arrival>* fired);

  // Lets all relays that come before a population make what they do of the spikes of sources at a
  // time: emitted[source]. `next`: the first relay that has not done so.
  void relay(int before, int64_t t, std::vector<std::vector<Arrival>>* emitted, size_t* next);

  // Sends spikes of a source by the projections that are late. `ordinal`: of the first of them.
  void post(int source, const Arrival& spikes, int64_t t);
  // Whether a projection loses this spike of its source.
  int64_t index(int source, const Arrival& spike) const {
    return int64_t{spike.channel} * model_->layout.shape(source).pixels() + spike.pixel;
  }

  // Ends of refractory times and crossings due at t that still hold, by population and index.
  std::vector<SelfEvent> take_self_events(int64_t t);

  const Wiring<T>* wiring_;
  std::vector<Membranes<T>> membranes_;
  std::vector<Latch> latches_;  // of the relays
  Agenda agenda_;
  int64_t sequence_ = 0;
  bool fresh_ = true;  // nothing has been tested yet

 private:
  bool emit(int population, int64_t t, int block, int lane, Arrival* spikes);
  void plan_crossings(int population, int block, int64_t t);
  int64_t crossing(const Cells<float>& cells, int block, int lane, int64_t t) const;

  std::vector<std::vector<int64_t>> silent_until_;  // with a refractory time, [population][neuron]
  std::vector<std::vector<int64_t>> crossing_;      // with a constant current: the valid ones
  std::vector<int32_t> found_;
};

std::unique_ptr<Process> make_rank(const Model& model, const Wiring<float>& wiring);
std::unique_ptr<Process> make_rank(const Model& model, const Wiring<int64_t>& wiring);
std::unique_ptr<Process> make_serial(const Model& model, const Wiring<float>& wiring);
std::unique_ptr<Process> make_serial(const Model& model, const Wiring<int64_t>& wiring);

}  // namespace stmixer::events
