// Without a clock, spike by spike: each is delivered to all populations that it reaches, which are
// tested at once; what fires queues up behind.
#include <algorithm>

#include "events/clockless.h"

namespace stmixer::events {
namespace {

template <class T>
class Serial final : public Clockless<T> {
 public:
  using Clockless<T>::Clockless;

  std::unique_ptr<Process> clone() const override { return std::make_unique<Serial>(*this); }

 protected:
  void begin() override {
    Clockless<T>::begin();
    deliveries_ = 0;
  }

  void arrive(const Arrival& event, int64_t t) override {
    while (!this->stopped_ && this->agenda_.next() <= t) happen(t);
    if (this->stopped_) return;
    this->count(kInputSource, event, t);
    if (this->model_->delays.any()) this->post(kInputSource, event, t);
    enqueue(kInputSource, {event});
    drain(t);
    this->note_moment(t);
  }

  void happen(int64_t t) override {
    for (const SelfEvent& self : this->take_self_events(t)) {
      Membranes<T>& m = this->membranes_[self.population];
      m.open(t);
      m.visit(this->kernels(), self.block, self.lane);
      fire(self.population, t);
      start(t);
    }
    if (this->agenda_.take_tick(t)) {
      for (size_t p = 0; p < this->membranes_.size(); ++p) {
        Membranes<T>& m = this->membranes_[p];
        if (m.neurons.bias.empty()) continue;
        m.open(t);
        this->kernels().bias(m.cells, m.neurons.bias.data());
        fire(static_cast<int>(p), t);
        start(t);
      }
    }
    const std::vector<Delivery> late = this->agenda_.take_deliveries(t);
    for (size_t i = 0; i < late.size();) {
      size_t end = i;  // projections of one spike that come together
      while (end < late.size() && late[end].sequence == late[i].sequence) ++end;
      deliver(this->model_->layout.wires[late[i].wire].source, late[i].arrival, t, [&](int wire) {
        return std::any_of(late.begin() + i, late.begin() + end,
                           [&](const Delivery& d) { return d.wire == wire; });
      });
      start(t);
      i = end;
    }
    this->note_moment(t);
  }

  void test_all(int64_t t) override {
    for (size_t p = 0; p < this->membranes_.size(); ++p) {
      this->membranes_[p].open(t);
      this->membranes_[p].visit_all(this->kernels());
      fire(static_cast<int>(p), t);
    }
    start(t);
    this->note_moment(t);
  }

 private:
  struct Item {
    int32_t source;
    Arrival spike;
    int64_t ordinal;
  };

  bool depth() const { return this->options().order == Order::depth; }

  // One item per spike, in order.
  void enqueue(int source, const std::vector<Arrival>& fired) {
    for (const Arrival& a : fired) {
      const int64_t first =
          this->model_->delays.any() ? this->counts_[source][this->index(source, a)] - a.count : 0;
      for (int n = 0; n < a.count; ++n)
        queue_.push_back({source, {a.channel, a.pixel, 1}, first + n});
    }
  }

  // Tests a population that has been reached, for what it fires to be queued.
  void fire(int population, int64_t t) {
    this->fire(population, t, &fired_);
    enqueue(population + 1, fired_);
    fired_.clear();
  }
  using Clockless<T>::fire;

  // Works off what something other than a delivery has queued.
  void start(int64_t t) {
    if (depth()) std::reverse(queue_.begin(), queue_.end());
    drain(t);
  }

  void drain(int64_t t) {
    while (head_ < queue_.size() && !this->stopped_) {
      Item item;
      if (depth()) {
        item = queue_.back();
        queue_.pop_back();
      } else {
        item = queue_[head_++];
        forget_delivered();
      }
      const size_t begin = queue_.size();
      if (this->latches_.empty())
        deliver(item.source, item.spike, t, [&](int wire) { return carries(wire, item); });
      else
        deliver_with_relays(item.source, item.spike, t);
      ++deliveries_;
      if (this->options().permute) permute(begin);
      if (depth()) std::reverse(queue_.begin() + begin, queue_.end());
    }
    head_ = 0;
    queue_.clear();
  }

  // So that the queue stays as long as it is, and not as long as it was.
  void forget_delivered() {
    if (head_ < queue_.size() && head_ < 4096) return;
    if (2 * head_ < queue_.size()) return;
    queue_.erase(queue_.begin(), queue_.begin() + head_);
    head_ = 0;
  }

  // A spike, by the projections that `carries` says.
  template <class Carries>
  void deliver(int source, const Arrival& spike, int64_t t, const Carries& carries) {
    for (int p : this->wiring_->targets[source]) {
      Membranes<T>& m = this->membranes_[p];
      bool reached = false;
      for (const Inlet<T>& inlet : m.neurons.inlets) {
        if (inlet.source != source || !carries(inlet.wire)) continue;
        if (!reached) m.open(t);
        reached = true;
        this->kernels().deliver(m.cells, inlet.view(), &spike, 1);
      }
      if (reached) fire(p, t);
      if (this->stopped_) return;
    }
  }

  // A spike and what relays make of it, which have no delays.
  void deliver_with_relays(int source, const Arrival& spike, int64_t t) {
    emitted_.resize(this->wiring_->targets.size());
    for (auto& list : emitted_) list.clear();
    emitted_[source].push_back(spike);
    size_t next = 0;
    this->relay(static_cast<int>(this->membranes_.size()), t, &emitted_, &next);
    for (size_t p = 0; p < this->membranes_.size() && !this->stopped_; ++p) {
      Membranes<T>& m = this->membranes_[p];
      bool reached = false;
      for (const Inlet<T>& inlet : m.neurons.inlets) {
        const std::vector<Arrival>& spikes = emitted_[inlet.source];
        if (spikes.empty()) continue;
        if (!reached) m.open(t);
        reached = true;
        this->kernels().deliver(m.cells, inlet.view(), spikes.data(),
                                static_cast<int32_t>(spikes.size()));
      }
      if (reached) fire(static_cast<int>(p), t);
    }
  }

  bool carries(int wire, const Item& item) const {
    const Delays& delays = this->model_->delays;
    if (!delays.any()) return true;
    return !delays.late(wire) &&
           !delays.lost(wire, this->index(item.source, item.spike), item.ordinal);
  }

  // The spikes that one delivery caused, in an order that only their neurons and it decide.
  void permute(size_t begin) {
    const auto key = [&](const Item& i) {
      return hash(this->options().order_seed, deliveries_, i.source,
                  this->index(i.source, i.spike));
    };
    std::stable_sort(queue_.begin() + begin, queue_.end(),
                     [&](const Item& a, const Item& b) { return key(a) < key(b); });
  }

  std::vector<Item> queue_;
  size_t head_ = 0;
  int64_t deliveries_ = 0;
  std::vector<Arrival> fired_;
  std::vector<std::vector<Arrival>> emitted_;  // [source], of one delivery
};

}  // namespace

std::unique_ptr<Process> make_serial(const Model& model, const Wiring<float>& wiring) {
  return std::make_unique<Serial<float>>(model, wiring);
}
std::unique_ptr<Process> make_serial(const Model& model, const Wiring<int64_t>& wiring) {
  return std::make_unique<Serial<int64_t>>(model, wiring);
}

}  // namespace stmixer::events
