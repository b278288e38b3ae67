#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "common/cpu_features.h"
#include "events/clockless.h"
#include "events/grid.h"
#include "events/relays.h"
#include "stmixer/events.h"

namespace stmixer::events {

STMIXER_DECLARE_TABLE(Kernels, event_kernels);

namespace {

// Times and differences of times stay within 64 bits.
constexpr int64_t kMostTime = int64_t{1} << 62;

// A schedule with steps computes each of them, however silent.
constexpr int64_t kMostTicks = int64_t{1} << 27;

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument(what); }

std::string text(double value) {
  const std::string s = std::to_string(value);
  return s.substr(0, s.find_last_not_of('0') + 1 + (s.find('.') == s.find_last_not_of('0')));
}

Options checked_options(Options o, const Graph& graph) {
  if (o.step_us == 0) o.step_us = graph.step_us;
  if (o.step_us < 1 || o.step_us > kMostTime)
    fail("step_us must be at least 1, got " + std::to_string(o.step_us));
  if (o.refractory_us < 0 || o.refractory_us > kMostTime)
    fail("refractory_us must not be negative, got " + std::to_string(o.refractory_us));
  if (!(o.v_min <= 0)) fail("v_min must not be above 0, got " + text(o.v_min));
  if (o.tau_us < 0 || !std::isfinite(o.tau_us))
    fail("tau_us must be positive, got " + text(o.tau_us));
  if (o.max_sops < 0) fail("max_sops must not be negative, got " + std::to_string(o.max_sops));
  if (o.bias == Bias::current && o.schedule == Schedule::grid)
    fail("bias 'current' needs a schedule without a clock; on the grid use 'tick'");
  if (graph.integer && (std::isfinite(o.v_min) || std::isfinite(o.v_max)))
    fail("v_min and v_max are in units of the threshold of a float32 network, got an int8 network");
  if (o.bias == Bias::current && graph.integer)
    fail("bias 'current' needs a float32 network; an int8 network takes 'tick' or 'initial'");
  return o;
}

template <class Number>
void check_delays(const std::vector<Number>& values, const char* name, size_t wires, double most) {
  if (values.empty()) return;
  if (values.size() != wires)
    fail(std::string(name) + " must have " + std::to_string(wires) + " entries, got " +
         std::to_string(values.size()));
  for (const Number v : values)
    if (!(v >= 0 && v <= most))
      fail(std::string(name) + " must lie in [0, " + text(most) + "], got " + text(double(v)));
}

void refuse_biases(const Model& model) {
  if (model.options.bias != Bias::refuse) return;
  std::string names;
  const auto& currents = model.graph.currents;
  for (size_t c = 0; c < currents.size(); ++c) {
    bool matters = model.readout.before(static_cast<int>(c));
    for (const auto& times : model.layout.parts) matters |= times[c] > 0;
    const auto is_zero = [](auto b) { return b == 0; };
    const auto& real = currents[c].bias;
    const auto& fixed = currents[c].integer_bias;
    const bool none = std::all_of(real.begin(), real.end(), is_zero) &&
                      std::all_of(fixed.begin(), fixed.end(), is_zero);
    if (matters && !none) names += (names.empty() ? "'" : ", '") + currents[c].name + "'";
  }
  if (!names.empty())
    fail("bias: without a clock there is no step in which to add the biases of " + names +
         "; choose bias 'current', 'initial', 'tick' or 'drop'");
}

// What a spike at each pixel of each source costs, each projection once or each time.
void count_sops(Model* model) {
  const Layout& layout = model->layout;
  for (int s = 0; s < layout.sources(); ++s) {
    const size_t pixels = layout.shape(s).pixels();
    model->sops.emplace_back(pixels, 0);
    model->fanout.emplace_back(pixels, 0);
  }
  for (const Wire& wire : layout.wires) {
    int64_t times = 0;
    for (size_t p = 0; p < layout.populations.size(); ++p)
      times += layout.times(wire, static_cast<int>(p));
    if (times == 0) continue;
    const std::vector<int64_t> each = fan_out(wire);
    for (size_t i = 0; i < each.size(); ++i) {
      model->sops[wire.source][i] += each[i];
      model->fanout[wire.source][i] += each[i] * times;
    }
  }
}

}  // namespace

struct Simulator::State {
  State(const Graph& given, const Options& options, int threads) : threads(threads) {
    isa = current_isa();
    model = std::make_unique<Model>(given, options, STMIXER_PICK_TABLE(event_kernels, isa));
    const size_t wires = model->layout.wires.size();
    check_delays(options.delay_us, "delay_us", wires, 1e18);
    check_delays(options.jitter_us, "jitter_us", wires, 1e18);
    check_delays(options.drop, "drop", wires, 1);
    check_relays(model->layout, model->options);
    refuse_biases(*model);
    count_sops(model.get());
    if (options.schedule == Schedule::grid) {
      prototype = make_grid(*model);
    } else if (model->graph.integer) {
      integer = std::make_unique<Wiring<int64_t>>(model->layout, model->options);
      prototype = options.schedule == Schedule::rank ? make_rank(*model, *integer)
                                                     : make_serial(*model, *integer);
    } else {
      real = std::make_unique<Wiring<float>>(model->layout, model->options);
      prototype = options.schedule == Schedule::rank ? make_rank(*model, *real)
                                                     : make_serial(*model, *real);
    }
  }

  bool has_ticks() const {
    return model->options.schedule == Schedule::grid || model->options.bias == Bias::tick;
  }

  void check_time(const std::string& what, int64_t t, int64_t t0) const {
    if (t > kMostTime || t < -kMostTime) fail(what + std::to_string(t) + " is beyond 2^62");
    if (has_ticks() && (t - t0) / model->options.step_us >= kMostTicks)
      fail(what + std::to_string(t) + " lies more than " + std::to_string(kMostTicks) +
           " steps of step_us=" + std::to_string(model->options.step_us) +
           " after t0=" + std::to_string(t0));
  }

  // The first event that is wrong, by its place.
  void check(const Events& events, int64_t t0, int64_t after, int64_t end,
             const std::string& where) const {
    const Shape& shape = model->layout.input->shape;
    int64_t before = after;
    for (int64_t i = 0; i < events.count; ++i) {
      const auto wrong = [&](const std::string& what) {
        fail(where + "event " + std::to_string(i) + ": " + what);
      };
      const int64_t t = events.t[i];
      if (t < before && i == 0)
        wrong("t=" + std::to_string(t) + " lies before " +
              (after == t0 ? "t0=" : "the time that was reached, ") + std::to_string(after));
      if (t < before)
        wrong("t=" + std::to_string(t) + " lies before that of the event before it, " +
              std::to_string(before) + "; events must be sorted by time");
      if (t >= end)
        wrong("t=" + std::to_string(t) + " lies behind t0 + duration, " + std::to_string(end));
      before = t;
      const auto in_range = [&](const char* name, int value, int size) {
        if (value >= size)
          wrong(std::string(name) + "=" + std::to_string(value) + " lies outside the input of " +
                std::to_string(shape.channels) + "x" + std::to_string(shape.height) + "x" +
                std::to_string(shape.width));
      };
      in_range("x", events.x[i], shape.width);
      in_range("y", events.y[i], shape.height);
      in_range("p", events.p[i], shape.channels);
    }
    if (events.count > 0) check_time(where + "t=", events.t[events.count - 1], t0);
  }

  std::unique_ptr<Process> start(int64_t t0, Wanted wanted) const {
    std::unique_ptr<Process> process = prototype->clone();
    process->start(t0, wanted);
    return process;
  }

  // work(i) for each of so many recordings, over the threads.
  template <class Work>
  void spread(int count, const Work& work) const {
    std::atomic<int> next{0};
    std::exception_ptr error;
    std::mutex mutex;
    const auto run = [&] {
      try {
        for (int i = next++; i < count; i = next++) work(i);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        error = std::current_exception();
      }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < std::min(threads, count); ++i) others.emplace_back(run);
    run();
    for (std::thread& other : others) other.join();
    if (error) std::rethrow_exception(error);
  }

  int threads;
  Isa isa;
  std::unique_ptr<Model> model;
  std::unique_ptr<Wiring<float>> real;
  std::unique_ptr<Wiring<int64_t>> integer;
  std::unique_ptr<Process> prototype;
};

Model::Model(const Graph& given, const Options& o, const Kernels& kernels)
    : graph(given),
      checked(graph::check_graph(graph)),
      layout(checked),
      options(checked_options(o, graph)),
      delays(options, layout.wires.size()),
      readout(layout),
      kernels(kernels) {}

Simulator::Simulator(const Graph& graph, const Options& options, int threads) {
  if (threads < 1 || threads > 1024)
    fail("threads must lie in [1, 1024], got " + std::to_string(threads));
  state_ = std::make_shared<const State>(graph, options, threads);
}

Simulator::~Simulator() = default;

std::vector<Outcome> Simulator::run(const std::vector<Events>& recordings, int64_t t0,
                                    int64_t duration, Wanted wanted) const {
  const State& s = *state_;
  if (duration == 0) fail("duration must be at least 1, got 0");
  s.check_time("t0=", t0, t0);
  if (duration > kMostTime) fail("duration=" + std::to_string(duration) + " is beyond 2^62");
  const int64_t end = duration < 0 ? std::numeric_limits<int64_t>::max() : t0 + duration;
  if (duration > 0) s.check_time("t0 + duration=", end, t0);
  for (size_t i = 0; i < recordings.size(); ++i)
    s.check(recordings[i], t0, t0, end,
            recordings.size() > 1 ? "recordings[" + std::to_string(i) + "]: " : "events: ");
  std::vector<Outcome> outcomes(recordings.size());
  s.spread(static_cast<int>(recordings.size()), [&](int i) {
    const std::unique_ptr<Process> process = s.start(t0, wanted);
    process->push(recordings[i]);
    if (duration > 0) process->advance(end - 1);
    process->finish();
    outcomes[i] = process->outcome();
  });
  return outcomes;
}

std::vector<Outcome> Simulator::run(const std::vector<Dense>& recordings, Wanted wanted) const {
  const State& s = *state_;
  if (s.model->options.schedule != Schedule::grid)
    fail("values of the input need schedule 'grid': without a clock there are only events");
  const Shape& shape = s.model->layout.input->shape;
  for (const Dense& d : recordings)
    for (int step = 0; step < (d.step_stride == 0 ? 1 : d.steps); ++step)
      for (int64_t i = 0; i < int64_t{shape.channels} * shape.pixels(); ++i)
        if (!std::isfinite(d.data[step * d.step_stride + i]))
          fail("input holds a value that is not finite");
  std::vector<Outcome> outcomes(recordings.size());
  s.spread(static_cast<int>(recordings.size()), [&](int i) {
    const std::unique_ptr<Process> process = s.start(0, wanted);
    process->show(recordings[i]);
    outcomes[i] = process->outcome();
  });
  return outcomes;
}

int Simulator::threads() const { return state_->threads; }
const char* Simulator::isa() const { return isa_name(state_->isa); }
int Simulator::classes() const { return state_->model->readout.classes(); }
int64_t Simulator::step_us() const { return state_->model->options.step_us; }

namespace {
PopulationInfo info(const Population& p) { return {p.name, p.shape, p.tokens}; }
}  // namespace

PopulationInfo Simulator::input() const { return info(*state_->model->layout.input); }

std::vector<PopulationInfo> Simulator::populations() const {
  std::vector<PopulationInfo> infos;
  for (const Population* p : state_->model->layout.populations) infos.push_back(info(*p));
  return infos;
}

std::vector<std::string> projection_names(const Graph& graph) {
  const CheckedGraph checked = graph::check_graph(graph);
  const Layout layout(checked);
  std::vector<std::string> names;
  for (const Wire& wire : layout.wires) names.push_back(wire.projection->name);
  return names;
}

struct Stream::State {
  std::shared_ptr<const Simulator::State> simulator;
  int64_t t0;
  Wanted wanted;
  std::unique_ptr<Process> process;
  bool finished = false;
  mutable std::unique_ptr<Process>
      closed;  // a copy whose last timestamp is closed, made when asked

  const Process& now() const {
    if (finished) return *process;
    if (closed == nullptr) {
      closed = process->clone();
      closed->finish();
    }
    return *closed;
  }
  void check_open() const {
    if (finished) fail("the stream is finished; reset() starts another recording");
  }
};

Stream::Stream(const Simulator& simulator, int64_t t0, Wanted wanted)
    : state_(std::make_unique<State>()) {
  simulator.state_->check_time("t0=", t0, t0);
  state_->simulator = simulator.state_;
  state_->t0 = t0;
  state_->wanted = wanted;
  reset();
}
Stream::~Stream() = default;
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;

void Stream::push(const Events& events) {
  state_->check_open();
  state_->simulator->check(events, state_->t0, state_->process->time(),
                           std::numeric_limits<int64_t>::max(), "events: ");
  state_->closed.reset();
  state_->process->push(events);
}

void Stream::advance(int64_t t) {
  state_->check_open();
  if (t < time())
    fail("t must not lie before the time that was reached, " + std::to_string(time()) + ", got " +
         std::to_string(t));
  state_->simulator->check_time("t=", t, state_->t0);
  state_->closed.reset();
  state_->process->advance(t);
}

void Stream::finish() {
  state_->check_open();
  state_->closed.reset();
  state_->process->finish();
  state_->finished = true;
}

void Stream::reset() {
  state_->process = state_->simulator->start(state_->t0, state_->wanted);
  state_->closed.reset();
  state_->finished = false;
}

int64_t Stream::time() const { return state_->process->time(); }
bool Stream::finished() const { return state_->finished; }
Outcome Stream::outcome() const { return state_->now().outcome(); }
std::vector<float> Stream::logits() const { return state_->now().logits(); }

}  // namespace stmixer::events
