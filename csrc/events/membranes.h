#pragma once
// The state of a population in one recording.
#include <cstdint>
#include <vector>

#include "events/wiring.h"

namespace stmixer::events {

template <class T>
class Membranes {
 public:
  Membranes(const Neurons<T>& neurons, int64_t t0);
  Membranes(const Membranes& other);
  Membranes& operator=(const Membranes&) = delete;

  // Starts a round at a time: nothing has been reached.
  void open(int64_t now);
  // Reaches one neuron, or all.
  void visit(const DeliverKernels<T>& kernels, int block, int lane);
  void visit_all(const DeliverKernels<T>& kernels);

  // How many neurons the round has reached.
  int64_t visits() const;

  const Neurons<T>& neurons;
  Cells<T> cells;

 private:
  void bind();

  std::vector<T> v_;
  std::vector<Block> blocks_;
  std::vector<uint64_t> visited_;
  std::vector<int32_t> touched_;
  std::vector<LeakTable> leaks_;
};

}  // namespace stmixer::events
