// Without a clock, timestamp by timestamp: all arrivals are summed population by population, then
// the neurons that they reached are tested.
#include "events/arrivals.h"
#include "events/clockless.h"

namespace stmixer::events {
namespace {

template <class T>
class Rank final : public Clockless<T> {
 public:
  Rank(const Model& model, const Wiring<T>& wiring)
      : Clockless<T>(model, wiring),
        fired_(wiring.targets.size()),
        late_(model.layout.wires.size()),
        heard_(wiring.neurons.size(), false) {}

  std::unique_ptr<Process> clone() const override { return std::make_unique<Rank>(*this); }

 protected:
  void begin() override {
    Clockless<T>::begin();
    pending_.clear();
  }

  void arrive(const Arrival& event, int64_t) override { pending_.push_back(event); }

  bool has_open_round() const override { return !pending_.empty(); }

  void happen(int64_t t) override {
    if (!pending_.empty() && t == this->time_) {
      sort_and_merge(&pending_);
      fired_[kInputSource].swap(pending_);
      for (const Arrival& a : fired_[kInputSource]) {
        this->count(kInputSource, a, t);
        if (this->model_->delays.any()) this->post(kInputSource, a, t);
      }
    }
    const bool tick = this->agenda_.take_tick(t);
    if (this->model_->delays.any()) take_late(t);
    const std::vector<SelfEvent> self =
        this->agenda_.next() == t ? this->take_self_events(t) : std::vector<SelfEvent>();
    round(t, tick, false, self);
  }

  void test_all(int64_t t) override { round(t, false, true, {}); }

 private:
  void take_late(int64_t t) {
    const Layout& layout = this->model_->layout;
    for (const Delivery& d : this->agenda_.take_deliveries(t)) {
      late_[d.wire].push_back(d.arrival);
      for (size_t p = 0; p < heard_.size(); ++p)
        if (layout.times(layout.wires[d.wire], static_cast<int>(p)) > 0) heard_[p] = true;
    }
    for (auto& list : late_) sort_and_merge(&list);
  }

  void tell(int source) {
    if (fired_[source].empty()) return;
    for (int p : this->wiring_->targets[source]) heard_[p] = true;
  }

  void round(int64_t t, bool tick, bool all, const std::vector<SelfEvent>& self) {
    tell(kInputSource);
    size_t next_self = 0, next_relay = 0;
    for (size_t p = 0; p < heard_.size(); ++p) {
      relay(static_cast<int>(p), t, &next_relay);
      Membranes<T>& m = this->membranes_[p];
      const bool biased = tick && !m.neurons.bias.empty();
      const bool alone = next_self < self.size() && self[next_self].population == int(p);
      if (!heard_[p] && !all && !biased && !alone) continue;
      m.open(t);
      if (biased) this->kernels().bias(m.cells, m.neurons.bias.data());
      for (; next_self < self.size() && self[next_self].population == int(p); ++next_self)
        m.visit(this->kernels(), self[next_self].block, self[next_self].lane);
      if (heard_[p]) hear(m);
      if (all) m.visit_all(this->kernels());
      this->fire(static_cast<int>(p), t, &fired_[p + 1]);
      tell(static_cast<int>(p) + 1);
      heard_[p] = false;
    }
    relay(static_cast<int>(heard_.size()), t, &next_relay);
    for (auto& list : fired_) list.clear();
    if (this->model_->delays.any())
      for (auto& list : late_) list.clear();
    this->note_moment(t);
  }

  void relay(int before, int64_t t, size_t* next) {
    const int first = this->model_->layout.first_relay(), begin = static_cast<int>(*next);
    Clockless<T>::relay(before, t, &fired_, next);
    for (int r = begin; r < static_cast<int>(*next); ++r) tell(first + r);
  }

  void hear(Membranes<T>& m) {
    const Delays& delays = this->model_->delays;
    for (const Inlet<T>& inlet : m.neurons.inlets) {
      const std::vector<Arrival>* arrivals = &fired_[inlet.source];
      if (delays.any()) {
        if (delays.late(inlet.wire))
          arrivals = &late_[inlet.wire];
        else if (delays.lossy(inlet.wire))
          arrivals = &kept(inlet);
      }
      if (arrivals->empty()) continue;
      this->kernels().deliver(m.cells, inlet.view(), arrivals->data(),
                              static_cast<int32_t>(arrivals->size()));
    }
  }

  // What a projection does not lose of the spikes of its source in this round.
  const std::vector<Arrival>& kept(const Inlet<T>& inlet) {
    kept_.clear();
    for (Arrival a : fired_[inlet.source]) {
      const int64_t i = this->index(inlet.source, a);
      const int64_t last = this->counts_[inlet.source][i];
      int count = 0;
      for (int n = 1; n <= a.count; ++n)
        count += !this->model_->delays.lost(inlet.wire, i, last - n);
      a.count = count;
      if (count > 0) kept_.push_back(a);
    }
    return kept_;
  }

  std::vector<Arrival> pending_, kept_;      // of the open timestamp
  std::vector<std::vector<Arrival>> fired_;  // [source], in this round
  std::vector<std::vector<Arrival>> late_;   // [wire]: what arrives now of before
  std::vector<char> heard_;                  // populations with arrivals
};

}  // namespace

std::unique_ptr<Process> make_rank(const Model& model, const Wiring<float>& wiring) {
  return std::make_unique<Rank<float>>(model, wiring);
}
std::unique_ptr<Process> make_rank(const Model& model, const Wiring<int64_t>& wiring) {
  return std::make_unique<Rank<int64_t>>(model, wiring);
}

}  // namespace stmixer::events
