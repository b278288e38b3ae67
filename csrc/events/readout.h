#pragma once
// The logits of a network from how often its neurons fired: everything behind them is linear.
#include <vector>

#include "events/rows.h"
#include "events/wiring.h"

namespace stmixer::events {

class ReadoutSums {
 public:
  // Throws std::invalid_argument, naming the node, if the readout is not linear in the counts.
  explicit ReadoutSums(const Layout& layout);

  int classes() const { return layout_->readout->shape.channels; }
  size_t size() const { return size_; }  // of the sums

  // What `count` spikes of a neuron of a source add to the sums.
  void add(int source, int channel, int pixel, int64_t count, double* sums) const;

  // `steps`: by how many the mean over time divides, 0 for nothing; `biases`: how often biases
  // before it have been added.
  std::vector<float> logits(const std::vector<double>& sums, double steps, double biases) const;

  // The same where the sums over positions and time of all currents before the mean are known; the
  // means of an int8 network are rounded, as the engine's.
  using Table = std::vector<std::vector<double>>;
  std::vector<float> logits_of(Table sums, double steps) const;

  // Whether a current comes before the mean over time, or behind it.
  bool before(int current) const { return before_[current]; }
  bool behind(int current) const { return behind_[current]; }

 private:
  struct Wired {
    int source, current;
    size_t begin;  // of its sums
    int channels, offset;
    bool own_channel;  // a spike adds to its own channel, else to all
    Rows<double> rows;
  };
  std::vector<double> sum(int current, const Table& table, const std::vector<double>& sums,
                          double biases) const;
  void add_all(const Current& c, const Table& table, double biases, std::vector<double>* v) const;
  std::vector<float> read(Table table, double steps, bool rounded) const;

  const Layout* layout_;
  std::vector<Wired> wires_;
  std::vector<std::vector<int>> of_source_;
  std::vector<char> before_, behind_;
  size_t size_ = 0;
};

}  // namespace stmixer::events
