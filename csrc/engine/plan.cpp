#include "engine/plan.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <optional>
#include <utility>

#include "engine/limits.h"
#include "engine/pack.h"
#include "graph/fan_out.h"

namespace stmixer::engine {
namespace {

using Kind = Projection::Kind;
using RefKind = NodeRef::Kind;
using graph::Readers;

constexpr auto refuse = engine_error;

// Threshold, decay and initial membrane of each channel, one array behind the other; empty if they
// are the same for all.
std::vector<float> per_channel(const Population& p) {
  if (p.channel_threshold.empty() && p.channel_decay.empty() && p.channel_v_init.empty()) return {};
  std::vector<float> values;
  const auto add = [&](const std::vector<float>& channels, float number) {
    if (channels.empty()) values.insert(values.end(), p.shape.channels, number);
    values.insert(values.end(), channels.begin(), channels.end());
  };
  add(p.channel_threshold, p.threshold);
  add(p.channel_decay, p.decay);
  add(p.channel_v_init, p.v_init);
  return values;
}

class Planner {
 public:
  Planner(const CheckedGraph& graph, const KernelTraits& traits)
      : graph_(graph), traits_(traits), readers_(find_readers(graph)) {}

  Plan plan() {
    neurons_of_.assign(graph_.graph->populations.size(), -1);
    values_of_.assign(graph_.graph->currents.size(), -1);
    bounds_.assign(graph_.graph->currents.size(), 0);
    plan_.integer = graph_.graph->integer;
    plan_.input_shift = graph_.graph->input_shift;
    for (const NodeRef& node : graph_.order) {
      if (node.is(RefKind::current)) {
        plan_current(node.index);
      } else {
        plan_population(node.index);
      }
    }
    link_steps();
    return std::move(plan_);
  }

 private:
  const Population& population(int i) const { return graph_.graph->populations[i]; }
  const Current& current(int i) const { return graph_.graph->currents[i]; }

  // --- memory ---

  int new_buffer(size_t bytes, bool per_step = true) {
    const int now = static_cast<int>(plan_.steps.size());
    plan_.buffers.push_back({bytes, per_step, now, now});
    return static_cast<int>(plan_.buffers.size()) - 1;
  }

  // The step about to be added uses the buffer.
  void touch(int buffer) { plan_.buffers[buffer].died = static_cast<int>(plan_.steps.size()); }
  void touch_values(int values) {
    if (values >= 0) touch(plan_.values[values].buffer);
  }

  void add_step(std::string name, decltype(Step::work) work) {
    plan_.steps.push_back({std::move(name), std::move(work)});
  }

  int new_values(const Shape& shape, bool per_step, bool by_channel) {
    const int rows = by_channel ? shape.channels : shape.pixels();
    const int columns = by_channel ? shape.pixels() : shape.channels;
    Values v;
    v.pixels = rows;
    v.pixel_stride = static_cast<int>(round_up(columns, kUnit));
    v.per_step = per_step;
    v.by_channel = by_channel;
    // What the head of an int8 network sums takes 64 bits.
    const size_t bytes = plan_.integer && !per_step ? 8 : 4;
    v.buffer = new_buffer(bytes * v.pixels * v.pixel_stride, per_step);
    plan_.values.push_back(v);
    return static_cast<int>(plan_.values.size()) - 1;
  }

  int new_neurons(int index, bool by_channel) {
    const Population& p = population(index);
    Neurons n;
    n.name = p.name;
    n.population = index;
    n.lif = {p.threshold, p.decay, p.input_scale, p.v_init, p.soft_reset};
    n.per_channel = per_channel(p);
    n.threshold = p.integer_threshold;
    if (p.soft_reset) n.reset = p.integer_reset;
    n.decay = p.integer_decay;
    n.by_channel = by_channel;
    n.rows = by_channel ? p.shape.channels : p.shape.pixels();
    n.columns = by_channel ? p.shape.pixels() : p.shape.channels;
    n.row_bytes = static_cast<int>(round_up(n.columns, kUnit)) / 8;
    n.bits = new_buffer(size_t{1} * n.rows * n.row_bytes);
    plan_.neurons.push_back(n);
    return neurons_of_[index] = static_cast<int>(plan_.neurons.size()) - 1;
  }

  // The spikes of a population as lists of this layout; the step that makes them comes before their
  // first reader.
  int lists_of(int population_index, const ListLayout& layout) {
    const int neurons = neurons_of_[population_index];
    for (size_t i = 0; i < plan_.lists.size(); ++i)
      if (plan_.lists[i].neurons == neurons && plan_.lists[i].layout == layout)
        return static_cast<int>(i);
    Lists lists;
    lists.neurons = neurons;
    lists.layout = layout;
    touch(plan_.neurons[neurons].bits);
    lists.keys = new_buffer(sizeof(uint16_t) * layout.rows * layout.row_keys());
    lists.starts = new_buffer(sizeof(uint32_t) * layout.rows * layout.row_starts());
    plan_.lists.push_back(lists);
    const int index = static_cast<int>(plan_.lists.size()) - 1;
    add_step(population(population_index).name + " (lists)", ListStep{index});
    return index;
  }

  // --- nodes ---

  void plan_population(int index) {
    const Population& p = population(index);
    if (p.kind == Population::Kind::input) {
      plan_.input = p.shape;
      // 16 bits a value, channels in pairs, or float32.
      const size_t pixel = plan_.integer ? 2 * round_up(p.shape.channels, 2) : 4 * p.shape.channels;
      plan_.input_buffer = new_buffer(pixel * p.shape.pixels());
      add_step(p.name, LoadStep{});
      return;
    }
    const int values = values_of_[graph_.find(p.current).index];
    if (p.kind == Population::Kind::readout) {
      if (plan_.values[values].per_step) refuse(p.name, "must read a mean over time");
      if (plan_.integer && !is_head(current(graph_.find(p.current).index)))
        refuse(p.name, "must read a linear layer in an int8 network");
      plan_.readout_scale = p.scale;
      plan_.readout_bias = p.bias;
      plan_.readout = values;
      plan_.classes = p.shape.channels;
      plan_.buffers[plan_.values[values].buffer].died = std::numeric_limits<int>::max();
      return;
    }
    if (neurons_of_[index] >= 0) return;  // driven by the step that finished its current
    if (!plan_.values[values].per_step) refuse(p.name, "must not integrate a mean over time");
    touch_values(values);
    const int neurons = new_neurons(index, plan_.values[values].by_channel);
    add_step(p.name, FireStep{values, neurons});
  }

  // Whether the term varies over time; all terms of a current must agree.
  bool per_step(const Current& c) const {
    std::optional<bool> found;
    const auto add = [&](bool term) {
      if (found.value_or(term) != term)
        refuse(c.name, "adds a mean over time to what varies in time");
      found = term;
    };
    for (const std::string& name : c.currents)
      add(plan_.values[values_of_[graph_.find(name).index]].per_step);
    for (const Projection& p : c.projections) {
      add(p.kind != Kind::mean && varies_in_time(graph_.find(p.source)));
    }
    return *found;
  }

  // Whether the current is a mean over time, and nothing else.
  bool is_mean(const Current& c) const {
    return graph_.has_one(c) && c.currents.empty() && c.projections[0].kind == Kind::mean &&
           varies_in_time(graph_.find(c.projections[0].source));
  }

  // Whether the current is a linear layer of a mean over time, and nothing else.
  bool is_head(const Current& c) const {
    if (!graph_.has_one(c) || !c.currents.empty()) return false;
    const Projection& p = c.projections[0];
    const NodeRef& source = graph_.find(p.source);
    return p.kind == Kind::linear && source.is(RefKind::current) && is_mean(current(source.index));
  }

  bool varies_in_time(const NodeRef& node) const {
    return node.is(RefKind::population) || plan_.values[values_of_[node.index]].per_step;
  }

  // Of a value per channel of the current, or none, those of the projection.
  template <class T>
  std::vector<T> part_of(const std::vector<T>& values, const Projection& p,
                         const Current& c) const {
    if (values.empty() || graph_.covers(p, c)) return values;
    const auto first = values.begin() + p.channel_offset;
    return {first, first + graph_.written_by(p)};
  }

  void plan_current(int index) {
    const Current& c = current(index);
    const Readers& readers = readers_[index];
    const bool by_channel = is_by_channel(c, readers);
    const bool steps = per_step(c);
    if (plan_.integer) bound_current(index, steps);
    if (averages_first(c, readers)) return;  // with its mean
    // One projection that covers the current finishes it, so neurons can fire in its epilogue.
    const bool one = graph_.has_one(c);
    const bool fires = one && steps && !readers.neurons.empty();
    const bool summed = !(one || graph_.side_by_side(c)) || c.currents.size() > 1;
    const bool stored = summed || readers.others > 0 || readers.neurons.size() > 1 || !fires;

    std::vector<int> terms;
    for (const std::string& name : c.currents) terms.push_back(values_of_[graph_.find(name).index]);
    int base = terms.empty() ? -1 : terms[0];
    if (stored) values_of_[index] = new_values(c.shape, steps, by_channel);
    if (one && is_put_off(graph_.find(c.projections[0].source))) {
      plan_mean(c, values_of_[index]);
      return;
    }
    if (summed) {
      for (int term : terms) touch_values(term);
      touch_values(values_of_[index]);
      add_step(c.name, SumStep{values_of_[index], c.shape.channels, std::move(terms), c.bias,
                               c.integer_bias});
      base = values_of_[index];
    }
    for (const Projection& p : c.projections) {
      Target target;
      target.channel_offset = p.channel_offset;
      target.base = base;
      target.store = values_of_[index];
      if (!summed) {
        target.bias = part_of(c.bias, p, c);
        target.integer_bias = part_of(c.integer_bias, p, c);
      }
      plan_projection(p, c, std::move(target), fires ? readers.neurons[0] : -1, by_channel);
    }
  }

  // Whether the current is only averaged, and would add rows for every spike although
  // mean(base + W s + b) = mean(base) + W mean(s) + b: then its weights pass once instead.
  bool averages_first(const Current& c, const Readers& readers) const {
    if (plan_.integer || !readers.averaged || readers.others > 1 || !readers.neurons.empty() ||
        c.currents.size() > 1 || !graph_.has_one(c))
      return false;
    const Projection& p = c.projections[0];
    const NodeRef& source = graph_.find(p.source);
    return p.kind == Kind::linear && source.is(RefKind::population) &&
           neurons_of_[source.index] >= 0 && !plan_.neurons[neurons_of_[source.index]].by_channel;
  }

  // Whether nothing computes the source of a mean so far.
  bool is_put_off(const NodeRef& source) const {
    return source.is(RefKind::current) && values_of_[source.index] < 0;
  }

  // The mean of a current that is not planned itself.
  void plan_mean(const Current& c, int mean) {
    const Current& x = current(graph_.find(c.projections[0].source).index);
    const Projection& p = x.projections[0];
    Target target;
    target.store = mean;
    if (!x.currents.empty()) {
      const NodeRef& base = graph_.find(x.currents[0]);
      ProjectStep step =
          project_step(c.projections[0], graph_.shape(base), c.shape, false, traits_.max_units);
      step.values = values_of_[base.index];
      add_projection(c.projections[0].name, std::move(step), target);
      target.base = mean;
    }
    const int source = graph_.find(p.source).index, neurons = neurons_of_[source];
    const Shape channels{population(source).shape.channels, 1, 1};
    const int rates = new_values(channels, false, false);
    touch(plan_.neurons[neurons].bits);
    touch_values(rates);
    add_step(population(source).name + " (rates)", RateStep{neurons, rates});
    ProjectStep step = project_step(p, channels, c.shape, false, traits_.max_units);
    step.values = rates;
    step.rates_of = neurons;
    step.fan_out = graph::fan_out(p, population(source).shape, x.shape);
    target.bias = x.bias;
    add_projection(p.name, std::move(step), std::move(target));
  }

  // Integers must not overflow, whatever spikes come: a neuron integrates less than 2^30 a step.
  void bound_current(int index, bool steps) {
    const Current& c = current(index);
    if (!steps) {
      if (!c.integer_bias.empty() || !(is_mean(c) || is_head(c)))
        refuse(c.name, "must be a plain mean or the head in an int8 network");
      return;
    }
    int64_t bound = 0;
    for (int32_t b : c.integer_bias) bound = std::max(bound, std::abs(int64_t{b}));
    for (const std::string& name : c.currents) bound += bounds_[graph_.find(name).index];
    for (const Projection& p : c.projections) {
      const NodeRef& source = graph_.find(p.source);
      bound += integer_bound(
          p, graph_.shape(source), c.shape,
          source.is(RefKind::population) && population(source.index).kind == Population::Kind::lif);
    }
    if (bound >= kMembraneLimit)
      refuse(c.name, "its integers may overflow: up to " + std::to_string(bound) + " of 2^30");
    bounds_[index] = bound;
  }

  // Token mixing computes tokens innermost, which only neurons can read.
  bool is_by_channel(const Current& c, const Readers& readers) const {
    const bool mixes = std::any_of(c.projections.begin(), c.projections.end(),
                                   [](const Projection& p) { return p.kind == Kind::token_mix; });
    if (mixes && (!graph_.has_one(c) || !c.currents.empty() || !c.bias.empty() ||
                  !c.integer_bias.empty() || readers.others > 0))
      refuse(c.name, "token mixing can only drive neurons, without bias or other terms");
    return mixes;
  }

  void plan_projection(const Projection& p, const Current& c, Target target, int fires,
                       bool by_channel) {
    const NodeRef& source = graph_.find(p.source);
    const bool spikes =
        source.is(RefKind::population) && population(source.index).kind == Population::Kind::lif;
    if (p.kind == Kind::mean && !source.is(RefKind::current)) refuse(p.name, "averages no current");
    if (p.kind == Kind::token_mix && !spikes) refuse(p.name, "mixes tokens of no spikes");

    const Shape& in = graph_.shape(source);
    ProjectStep step = plan_.integer
                           ? integer_step(p, in, c.shape, spikes, is_head(c), traits_.vector_bytes)
                           : project_step(p, in, c.shape, spikes, traits_.max_units);
    if (plan_.integer && step.kind == ProjectStep::Kind::dense && source.is(RefKind::current))
      refuse(p.name, "multiplies a current, which an int8 network does in its head only");
    if (spikes) {
      step.fan_out = graph::fan_out(p, in, c.shape);
      const bool channels_as_rows = p.kind == Kind::token_mix;
      step.lists = lists_of(source.index, list_layout(step, channels_as_rows));
      touch(plan_.lists[step.lists].keys);
      touch(plan_.lists[step.lists].starts);
    } else if (source.is(RefKind::current)) {
      step.values = values_of_[source.index];
    } else {
      touch(plan_.input_buffer);
    }
    if (fires >= 0) target.neurons = new_neurons(fires, by_channel);
    add_projection(p.name, std::move(step), std::move(target));
  }

  // A step that lacks only what its target and the step itself say of the projection's channels.
  void add_projection(const std::string& name, ProjectStep step, Target target) {
    touch_values(step.values);
    target.channels = step.target.channels;
    target.multiplier = std::move(step.target.multiplier);
    target.shift = step.target.shift;
    touch_values(target.base);
    touch_values(target.store);
    step.target = std::move(target);
    add_step(name, std::move(step));
  }

  // Steps stay where they are from here on: a vector that is moved keeps its elements.
  void link_steps() {
    const ProjectStep* following = nullptr;
    for (auto step = plan_.steps.rbegin(); step != plan_.steps.rend(); ++step) {
      auto* project = std::get_if<ProjectStep>(&step->work);
      if (project == nullptr || project->kind != ProjectStep::Kind::gather) continue;
      project->following = following;
      following = project;
    }
  }

  const CheckedGraph& graph_;
  const KernelTraits traits_;
  std::vector<Readers> readers_;  // by current
  std::vector<int> neurons_of_;   // by population
  std::vector<int> values_of_;    // by current
  std::vector<int64_t> bounds_;   // of an int8 network, by current
  Plan plan_;
};

}  // namespace

Plan make_plan(const CheckedGraph& graph, const KernelTraits& traits) {
  check_limits(graph);
  return Planner(graph, traits).plan();
}

int fired_by(const Step& step) {
  if (const auto* project = std::get_if<ProjectStep>(&step.work)) return project->target.neurons;
  if (const auto* fire = std::get_if<FireStep>(&step.work)) return fire->neurons;
  return -1;
}

bool varies(const Plan& plan, const ProjectStep& step, bool sequence) {
  return step.values >= 0 ? plan.values[step.values].per_step : sequence;
}

}  // namespace stmixer::engine
