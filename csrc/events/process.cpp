#include "events/process.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace stmixer::events {

Process::Process(const Model& model) : model_(&model) {}

void Process::start(int64_t t0, Wanted wanted) {
  const Layout& layout = model_->layout;
  wanted_ = wanted;
  t0_ = time_ = t0;
  any_time_ = stopped_ = false;
  spent_ = 0;
  counts_.clear();
  for (int s = 0; s < layout.sources(); ++s) {
    const Shape& shape = layout.shape(s);
    counts_.emplace_back(int64_t{shape.channels} * shape.pixels());
  }
  updates_.assign(layout.populations.size(), 0);
  spikes_.clear();
  moments_.clear();
  sums_.assign(model_->readout.size(), 0.0);
  begin();
}

void Process::push(const Events& events) {
  const int width = input().shape.width;
  for (int64_t i = 0; i < events.count && !stopped_; ++i) {
    const int64_t t = events.t[i];
    run_until(t);
    if (stopped_) return;
    time_ = t;
    any_time_ = true;
    arrive({events.p[i], events.y[i] * width + events.x[i], 1}, t);
  }
}

void Process::advance(int64_t t) {
  if (stopped_) return;
  run_until(t);
  if (stopped_) return;
  time_ = t;
  any_time_ = true;
}

void Process::finish() {
  if (any_time_ && !stopped_) run_until(time_ + 1);
}

void Process::show(const Dense&) {
  throw std::invalid_argument("values of the input need schedule 'grid'");
}

void Process::count(int source, const Arrival& spikes, int64_t t) {
  const int64_t pixels = model_->layout.shape(source).pixels();
  const int64_t index = spikes.channel * pixels + spikes.pixel;
  counts_[source].add(index, spikes.count);
  spent_ += model_->fanout[source][spikes.pixel] * spikes.count;
  if (wanted_.spikes && model_->layout.is_population(source))
    for (int i = 0; i < spikes.count; ++i)
      spikes_.push_back({t, source - 1, static_cast<int32_t>(index)});
  if (wanted_.moments)
    model_->readout.add(source, spikes.channel, spikes.pixel, spikes.count, sums_.data());
  if (spent_ > options().max_sops) stopped_ = true;
}

int Process::affordable(int source, int pixel, int spikes) const {
  constexpr int kMost = 1 << 20;
  if (spikes <= kMost) return spikes;
  const int64_t each = model_->fanout[source][pixel];
  const int64_t last = each > 0 ? (options().max_sops - spent_) / each + 1 : spikes;
  if (last <= kMost) return static_cast<int>(last);
  events_error(model_->layout.populations[source - 1]->name,
               "a neuron emits " + std::to_string(spikes) + " spikes at once, more than " +
                   std::to_string(kMost) + ": its threshold is too low");
}

double Process::elapsed_steps() const {
  if (!any_time_) return 0;
  return static_cast<double>(time_ - t0_ + 1) / static_cast<double>(options().step_us);
}

std::vector<float> Process::logits() const {
  std::vector<double> sums = sums_;
  if (!wanted_.moments) {
    for (size_t s = 0; s < counts_.size(); ++s) {
      const int pixels = model_->layout.shape(static_cast<int>(s)).pixels();
      for (int64_t i = 0; i < counts_[s].size(); ++i)
        if (const int64_t n = counts_[s][i]; n > 0)
          model_->readout.add(static_cast<int>(s), static_cast<int>(i / pixels),
                              static_cast<int>(i % pixels), n, sums.data());
    }
  }
  const double steps = elapsed_steps();
  double biases = 0;
  switch (options().bias) {
    case Bias::tick:
      biases = std::ceil(steps);
      break;
    case Bias::current:
      biases = steps;
      break;
    case Bias::initial:
      biases = model_->layout.graph().steps;
      break;
    default:
      break;
  }
  const bool total = options().readout == Readout::total;
  return model_->readout.logits(sums, total ? model_->layout.graph().steps : steps, biases);
}

void Process::note_moment(int64_t t) {
  if (!wanted_.moments) return;
  const std::vector<float> all = logits();
  const auto best = std::max_element(all.begin(), all.end());
  double sum = 0;
  for (float l : all) sum += std::exp(double{l} - *best);
  moments_.push_back({t, static_cast<int32_t>(best - all.begin()), 1 / sum});
}

Outcome Process::outcome() const {
  Outcome outcome;
  outcome.logits = logits();
  const Layout& layout = model_->layout;
  for (size_t s = 0; s < counts_.size(); ++s) {
    const int64_t pixels = layout.shape(static_cast<int>(s)).pixels();
    Activity activity;
    std::vector<int64_t> counts(counts_[s].size());
    for (int64_t i = 0; i < counts_[s].size(); ++i) {
      const int64_t n = counts[i] = counts_[s][i];
      if (n == 0) continue;
      activity.spikes += n;
      activity.sops += n * model_->sops[s][i % pixels];
      activity.sops_fanout += n * model_->fanout[s][i % pixels];
    }
    if (static_cast<int>(s) >= layout.first_relay()) {
      Activity& owner = outcome.activity[layout.relays[s - layout.first_relay()].owner];
      owner.sops += activity.sops;
      owner.sops_fanout += activity.sops_fanout;
      continue;
    }
    if (s > 0) activity.updates = updates_[s - 1];
    outcome.activity.push_back(activity);
    if (s > 0) outcome.counts.push_back(std::move(counts));
  }
  outcome.spikes = spikes_;
  outcome.moments = moments_;
  outcome.time = time_;
  outcome.steps = elapsed_steps();
  outcome.stopped = stopped_;
  return outcome;
}

}  // namespace stmixer::events
