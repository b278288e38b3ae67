#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings.h"
#include "graph/check.h"
#include "graph/stmx.h"
#include "stmixer/engine.h"

namespace stmixer {

namespace py = pybind11;

namespace {

using engine::Engine;
using graph::Graph;
using graph::Population;

// Bytes of a `.stmx` file, which the caller keeps.
graph::Array<char> view(const py::bytes& content) {
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(content.ptr(), &data, &size) != 0) throw py::error_already_set();
  return {std::shared_ptr<const char>(std::shared_ptr<void>(), data), static_cast<size_t>(size)};
}

// The description, and by name the type, shape and first byte of each tensor.
using Place = std::tuple<std::string, std::vector<int>, size_t>;
std::pair<std::string, std::map<std::string, Place>> read_stmx(const py::bytes& content) {
  const graph::Array<char> bytes = view(content);
  const graph::Parts parts = graph::read_parts(bytes);
  const size_t begin = parts.table.data.data() - bytes.data();
  std::map<std::string, Place> places;
  for (const auto& [name, tensor] : parts.table.tensors)
    places[name] = {tensor.type, tensor.shape, begin + tensor.begin};
  return {parts.description, std::move(places)};
}

// Of bytes of a `.stmx` file: that the graph in them is one.
void check_stmx(const py::bytes& content) {
  const graph::Array<char> bytes = view(content);
  const py::gil_scoped_release unlocked;
  const Graph graph = graph::parse_graph(bytes);
  graph::check_graph(graph);
}

// An engine and what of its graph Python asks for again.
class BoundEngine {
 public:
  // `content`: the bytes of a `.stmx` file, read during construction only.
  BoundEngine(const py::bytes& content, int threads) {
    const graph::Array<char> bytes = view(content);
    const py::gil_scoped_release unlocked;
    const Graph graph = graph::parse_graph(bytes);
    engine_ = std::make_unique<Engine>(graph, threads);
    precision = graph.integer ? "int8" : "fp32";
    steps = graph.steps;
    batch_first = graph.batch_first;
    mean = graph.mean;
    std = graph.std;
    step_us = graph.step_us;
    for (const Population& p : graph.populations)
      if (p.kind == Population::Kind::lif) spike_shapes[p.name] = spike_shape(p);
  }

  std::string precision;
  int steps = 1;
  bool batch_first = false;
  std::vector<float> mean, std;
  int64_t step_us = 0;
  std::map<std::string, std::vector<int>> spike_shapes;  // of one image at one time step

  // input [steps, batch, C, H, W], or [batch, C, H, W] with steps repeats, and logits
  // [batch, classes] are addresses of float32. Nothing of Python is touched.
  void run(Address input, int steps, int batch, bool sequence, int64_t step_stride,
           int64_t image_stride, Address logits) const {
    engine_->run({pointer<const float>(input), steps, batch, sequence, step_stride, image_stride},
                 pointer<float>(logits));
  }

  // The same, written down: per LIF population the address of its uint8 spikes (or no addresses at
  // all). Returns (spikes, sops) per population, and (seconds, sops, bytes of lists) per step
  // of the plan.
  using Counts = std::vector<std::pair<int64_t, int64_t>>;
  using Works = std::vector<std::tuple<double, int64_t, int64_t>>;
  std::pair<Counts, Works> record(Address input, int steps, int batch, bool sequence,
                                  int64_t step_stride, int64_t image_stride, Address logits,
                                  const std::vector<Address>& spikes) const {
    if (!spikes.empty() && spikes.size() != spike_shapes.size())
      throw std::invalid_argument("record: one address per LIF population, or none");
    std::vector<engine::Activity> activity(spike_shapes.size());
    std::vector<engine::Work> work(engine_->steps().size());
    engine::Recording recording;
    for (Address address : spikes) recording.spikes.push_back(pointer<uint8_t>(address));
    recording.activity = &activity;
    recording.work = &work;
    engine_->run({pointer<const float>(input), steps, batch, sequence, step_stride, image_stride},
                 pointer<float>(logits), &recording);
    Counts counts;
    for (const engine::Activity& a : activity) counts.emplace_back(a.spikes, a.sops);
    Works works;
    for (const engine::Work& w : work) works.emplace_back(w.seconds, w.sops, w.list_bytes);
    return {std::move(counts), std::move(works)};
  }

  const Engine& engine() const { return *engine_; }

  std::tuple<int, int, int> input_shape() const {
    const engine::Shape shape = engine_->input_shape();
    return {shape.channels, shape.height, shape.width};
  }

  // (name, neurons, multiply-accumulates per image) in order of execution.
  std::vector<std::tuple<std::string, int64_t, int64_t>> layers(int steps, bool sequence) const {
    std::vector<std::tuple<std::string, int64_t, int64_t>> rows;
    for (const engine::Layer& l : engine_->layers(steps, sequence))
      rows.emplace_back(l.name, l.neurons, l.macs);
    return rows;
  }

  // Its steps: (name, kernel, bytes of weights) in order of execution.
  std::vector<std::tuple<std::string, std::string, int64_t>> plan() const {
    std::vector<std::tuple<std::string, std::string, int64_t>> rows;
    for (const engine::StepInfo& s : engine_->steps())
      rows.emplace_back(s.name, s.kernel, s.weight_bytes);
    return rows;
  }

 private:
  static std::vector<int> spike_shape(const Population& p) {
    if (p.tokens) return {p.shape.channels, p.shape.width};
    return {p.shape.channels, p.shape.height, p.shape.width};
  }

  std::unique_ptr<Engine> engine_;
};

}  // namespace

void bind_engine(py::module_& m) {
  m.def("read_stmx", &read_stmx, py::arg("content"));
  m.def("check_stmx", &check_stmx, py::arg("content"));
  py::class_<BoundEngine>(m, "Engine")
      .def(py::init<const py::bytes&, int>())
      .def("run", &BoundEngine::run, Unlocked())
      .def("record", &BoundEngine::record, Unlocked())
      .def("layers", &BoundEngine::layers)
      .def_readonly("precision", &BoundEngine::precision)
      .def_readonly("steps", &BoundEngine::steps)
      .def_readonly("batch_first", &BoundEngine::batch_first)
      .def_readonly("mean", &BoundEngine::mean)
      .def_readonly("std", &BoundEngine::std)
      .def_readonly("step_us", &BoundEngine::step_us)
      .def_readonly("spike_shapes", &BoundEngine::spike_shapes)
      .def_property_readonly("threads", [](const BoundEngine& e) { return e.engine().threads(); })
      .def_property_readonly("isa", [](const BoundEngine& e) { return e.engine().isa(); })
      .def_property_readonly("classes", [](const BoundEngine& e) { return e.engine().classes(); })
      .def_property_readonly("input_shape", &BoundEngine::input_shape)
      .def_property_readonly("plan", &BoundEngine::plan);
}

}  // namespace stmixer
