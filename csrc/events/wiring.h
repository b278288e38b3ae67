#pragma once
// Who hears whom: a checked graph as the simulator runs it.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "events/layout.h"
#include "events/leak.h"
#include "events/rows.h"
#include "stmixer/events.h"

namespace stmixer::events {

// A projection as one population feels it.
template <class T>
struct Inlet {
  int wire, source;
  std::shared_ptr<const Rows<T>> rows;
  uint16_t segments = 0;

  RowsView<T> view() const { return rows->view(segments); }
};

// A population as it is run.
template <class T>
struct Neurons {
  const Population* population;
  Shape shape;
  Lanes lanes_are;
  int blocks, lanes;
  std::vector<Inlet<T>> inlets;  // by source
  std::vector<T> thresholds;     // [rows][lanes]
  std::vector<T> resets;         // soft: what a spike takes away; empty: hard
  int blocks_per_row;
  bool uniform;
  std::vector<Leak> leaks;          // none, one, or one per channel
  std::vector<T> bias;              // per channel, as integrated in a step; empty: none
  std::vector<float> drift_limit;   // Bias::current, per channel
  std::vector<double> drift_slope;  // the same without a leak
  std::vector<T> start;             // membranes at t0, per channel; empty: 0
  bool start_by_token = false;      // they are [heads][tokens], as the thresholds
  int fraction = 0;                 // bits of the membrane below what thresholds are compared with
  int max_spikes;                   // of one test
  std::vector<int> segments;        // lanes of each
  bool masked = false;              // visits are told apart lane by lane

  int channel(int block, int lane) const { return lanes_are == Lanes::channels ? lane : block; }
  int pixel(int block, int lane) const { return lanes_are == Lanes::channels ? block : lane; }
  int block(int channel, int pixel) const { return lanes_are == Lanes::channels ? pixel : channel; }
  int lane(int channel, int pixel) const { return lanes_are == Lanes::channels ? channel : pixel; }
  int64_t size() const { return int64_t{blocks} * lanes; }
};

template <class T>
struct Wiring {
  Wiring(const Layout& layout, const Options& options);

  std::vector<Neurons<T>> neurons;
  std::vector<std::vector<int>> targets;  // [source]: the populations that hear it
};

}  // namespace stmixer::events
