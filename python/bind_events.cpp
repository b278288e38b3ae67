#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "stmixer/events.h"

namespace stmixer {

namespace py = pybind11;

namespace {

using events::Events;
using events::Options;
using events::Outcome;
using events::Simulator;
using events::Stream;
using events::Wanted;

template <class Enum>
Enum by_name(const std::string& what, const std::string& name,
             const std::vector<std::pair<const char*, Enum>>& values) {
  std::string names;
  for (const auto& [known, value] : values) {
    if (name == known) return value;
    names += std::string(names.empty() ? "'" : ", '") + known + "'";
  }
  throw std::invalid_argument(what + " must be one of " + names + ", got '" + name + "'");
}

// Columns of a recording: addresses of t, x, y, p and how many events.
using Columns = std::tuple<Address, Address, Address, Address, int64_t>;

Events events_of(const Columns& c) {
  return {pointer<const int64_t>(std::get<0>(c)), pointer<const uint16_t>(std::get<1>(c)),
          pointer<const uint16_t>(std::get<2>(c)), pointer<const uint8_t>(std::get<3>(c)),
          std::get<4>(c)};
}

// Numbers in memory that Python takes over: structured by the caller.
template <class T>
py::bytes bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

py::dict to_python(const Outcome& o) {
  py::dict d;
  d["logits"] = o.logits;
  py::list activity, counts;
  for (const events::Activity& a : o.activity)
    activity.append(py::make_tuple(a.spikes, a.sops, a.sops_fanout, a.updates));
  for (const std::vector<int64_t>& c : o.counts) counts.append(bytes_of(c));
  d["activity"] = activity;
  d["counts"] = counts;
  std::vector<int64_t> times, moments;
  std::vector<int32_t> populations, indices, best;
  std::vector<double> confidence;
  for (const events::Spike& s : o.spikes) {
    times.push_back(s.t);
    populations.push_back(s.population);
    indices.push_back(s.index);
  }
  for (const events::Moment& m : o.moments) {
    moments.push_back(m.t);
    best.push_back(m.best);
    confidence.push_back(m.confidence);
  }
  d["spikes"] = py::make_tuple(bytes_of(times), bytes_of(populations), bytes_of(indices));
  d["moments"] = py::make_tuple(bytes_of(moments), bytes_of(best), bytes_of(confidence));
  d["time"] = o.time;
  d["steps"] = o.steps;
  d["stopped"] = o.stopped;
  return d;
}

py::list to_python(const std::vector<Outcome>& outcomes) {
  py::list list;
  for (const Outcome& o : outcomes) list.append(to_python(o));
  return list;
}

graph::Graph graph_of(const py::bytes& content) {
  const std::string bytes = content;
  return graph::parse_graph(graph::Array<char>(std::vector<char>(bytes.begin(), bytes.end())));
}

std::unique_ptr<Simulator> make(const py::bytes& content, const Options& options, int threads) {
  const graph::Graph graph = graph_of(content);
  const py::gil_scoped_release unlocked;
  return std::make_unique<Simulator>(graph, options, threads);
}

py::list run(const Simulator& simulator, const std::vector<Columns>& columns, int64_t t0,
             int64_t duration, bool spikes, bool moments) {
  std::vector<Events> recordings;
  for (const Columns& c : columns) recordings.push_back(events_of(c));
  std::vector<Outcome> outcomes;
  {
    const py::gil_scoped_release unlocked;
    outcomes = simulator.run(recordings, t0, duration, Wanted{spikes, moments});
  }
  return to_python(outcomes);
}

// input: address of [steps, C, H, W], or with step_stride 0 of [C, H, W], for each recording.
py::list show(const Simulator& simulator, const std::vector<Address>& inputs, int steps,
              int64_t step_stride, bool spikes, bool moments) {
  std::vector<events::Dense> recordings;
  for (Address a : inputs) recordings.push_back({pointer<const float>(a), steps, step_stride});
  std::vector<Outcome> outcomes;
  {
    const py::gil_scoped_release unlocked;
    outcomes = simulator.run(recordings, Wanted{spikes, moments});
  }
  return to_python(outcomes);
}

using Info = std::pair<std::string, std::vector<int>>;
Info info(const events::PopulationInfo& p) {
  if (p.tokens) return {p.name, {p.shape.channels, p.shape.width}};
  return {p.name, {p.shape.channels, p.shape.height, p.shape.width}};
}

std::vector<Info> infos(const Simulator& simulator) {
  std::vector<Info> rows;
  for (const events::PopulationInfo& p : simulator.populations()) rows.push_back(info(p));
  return rows;
}

}  // namespace

void bind_events(py::module_& m) {
  m.def("projection_names",
        [](const py::bytes& content) { return events::projection_names(graph_of(content)); });
  py::class_<Options>(m, "EventOptions")
      .def(py::init<>())
      .def(
          "set_schedule",
          [](Options& o, const std::string& name) {
            using events::Schedule;
            o.schedule = by_name<Schedule>(
                "schedule", name,
                {{"rank", Schedule::rank}, {"grid", Schedule::grid}, {"serial", Schedule::serial}});
          })
      .def("set_bias",
           [](Options& o, const std::string& name) {
             using events::Bias;
             o.bias = by_name<Bias>("bias", name,
                                    {{"refuse", Bias::refuse},
                                     {"current", Bias::current},
                                     {"initial", Bias::initial},
                                     {"tick", Bias::tick},
                                     {"drop", Bias::drop}});
           })
      .def("set_order",
           [](Options& o, const std::string& name) {
             using events::Order;
             o.order =
                 by_name<Order>("order", name, {{"fifo", Order::fifo}, {"depth", Order::depth}});
           })
      .def("set_readout",
           [](Options& o, const std::string& name) {
             using events::Readout;
             o.readout = by_name<Readout>("readout", name,
                                          {{"rate", Readout::rate}, {"total", Readout::total}});
           })
      .def_readwrite("step_us", &Options::step_us)
      .def_readwrite("permute", &Options::permute)
      .def_readwrite("order_seed", &Options::order_seed)
      .def_readwrite("multi_spike", &Options::multi_spike)
      .def_readwrite("refractory_us", &Options::refractory_us)
      .def_readwrite("v_min", &Options::v_min)
      .def_readwrite("v_max", &Options::v_max)
      .def_readwrite("tau_us", &Options::tau_us)
      .def_readwrite("delay_us", &Options::delay_us)
      .def_readwrite("jitter_us", &Options::jitter_us)
      .def_readwrite("drop", &Options::drop)
      .def_readwrite("seed", &Options::seed)
      .def_readwrite("latch_us", &Options::latch_us)
      .def_readwrite("max_sops", &Options::max_sops);
  py::class_<Simulator>(m, "EventSimulator")
      .def(py::init(&make))
      .def("run", &run)
      .def("show", &show)
      .def_property_readonly("threads", &Simulator::threads)
      .def_property_readonly("isa", &Simulator::isa)
      .def_property_readonly("classes", &Simulator::classes)
      .def_property_readonly("step_us", &Simulator::step_us)
      .def_property_readonly("input", [](const Simulator& s) { return info(s.input()); })
      .def_property_readonly("populations", &infos);
  py::class_<Stream>(m, "EventStream")
      .def(py::init([](const Simulator& s, int64_t t0, bool spikes) {
        return std::make_unique<Stream>(s, t0, Wanted{spikes, false});
      }))
      .def(
          "push", [](Stream& s, const Columns& c) { s.push(events_of(c)); }, Unlocked())
      .def("advance", &Stream::advance, Unlocked())
      .def("finish", &Stream::finish, Unlocked())
      .def("reset", &Stream::reset, Unlocked())
      .def("logits", &Stream::logits)
      .def("outcome", [](const Stream& s) { return to_python(s.outcome()); })
      .def_property_readonly("time", &Stream::time)
      .def_property_readonly("finished", &Stream::finished);
}

}  // namespace stmixer
