#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings.h"
#include "stmixer/engine.h"

namespace stmixer {

namespace py = pybind11;

namespace {

using engine::Current;
using engine::Engine;
using engine::Graph;
using engine::Population;
using engine::Projection;
using engine::Shape;

// A node's description: a dict whose values may be anything, since files say so.
class Node {
 public:
  Node(const char* kind, py::handle description) : kind_(kind) {
    if (!py::isinstance<py::dict>(description))
      throw std::invalid_argument(std::string("graph: a ") + kind + " is no dict");
    fields_ = py::reinterpret_borrow<py::dict>(description);
    name_ = get<std::string>("name", "a string");
  }

  template <class T>
  T get(const char* key, const char* type) const {
    if (!fields_.contains(key)) fail(std::string("has no '") + key + "'");
    try {
      return fields_[key].cast<T>();
    } catch (const py::cast_error&) {
      fail(std::string("'") + key + "' must be " + type);
    }
  }

  std::string text(const char* key) const { return get<std::string>(key, "a string"); }
  int integer(const char* key) const { return get<int>(key, "an integer"); }
  float number(const char* key) const { return get<float>(key, "a number"); }
  bool flag(const char* key) const { return get<bool>(key, "true or false"); }
  py::list list(const char* key) const { return get<py::list>(key, "a list"); }

  Shape shape() const {
    const auto sizes = get<std::vector<int>>("shape", "a list of integers");
    if (sizes.size() != 3) fail("'shape' must be [channels, height, width]");
    return {sizes[0], sizes[1], sizes[2]};
  }

  // The tensor that the field names, flat, and its shape; empty if the field is None. To may be
  // wider than From, the type in the file.
  template <class To, class From = To>
  std::vector<To> tensor(const char* key, const py::dict& tensors,
                         std::vector<int>* shape = nullptr) const {
    using Array = py::array_t<From, py::array::c_style>;
    const py::object value = tensor_object(key, tensors);
    if (value.is_none()) return {};
    if (!Array::check_(value))
      fail("tensor '" + get<std::string>(key, "a string") + "' must be contiguous " +
           py::str(py::dtype::of<From>()).template cast<std::string>());
    const auto array = py::reinterpret_borrow<Array>(value);
    if (shape != nullptr) shape->assign(array.shape(), array.shape() + array.ndim());
    return std::vector<To>(array.data(), array.data() + array.size());
  }

  py::object tensor_object(const char* key, const py::dict& tensors) const {
    const auto name = get<std::optional<std::string>>(key, "a string or None");
    if (!name) return py::none();
    if (!tensors.contains(name->c_str())) fail("tensor '" + *name + "' is missing");
    return tensors[name->c_str()];
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument("graph: " + std::string(kind_) + " '" + name_ + "' " + what);
  }

 private:
  const char* kind_;
  std::string name_ = "?";
  py::dict fields_;
};

template <class Kind>
Kind kind_of(const Node& node, std::initializer_list<std::pair<const char*, Kind>> kinds) {
  const std::string name = node.text("kind");
  for (const auto& [candidate, kind] : kinds)
    if (name == candidate) return kind;
  node.fail("is of unknown kind '" + name + "'");
}

void read_integer_population(const Node& node, const py::dict& tensors, Population* p) {
  if (p->kind == Population::Kind::readout) {
    p->scale = node.tensor<float>("scale", tensors);
    p->bias = node.tensor<float>("bias", tensors);
  }
  if (p->kind != Population::Kind::lif) return;
  p->soft_reset = node.flag("soft_reset");
  p->integer_threshold = node.tensor<int32_t>("threshold", tensors);
  p->integer_reset = node.tensor<int32_t>("reset", tensors);
  p->integer_decay = node.integer("decay");
}

void read_integer_projection(const Node& node, const py::dict& tensors, Projection* p) {
  if (p->kind == Projection::Kind::mean) return;
  p->wide = !py::isinstance<py::array_t<int8_t>>(node.tensor_object("weight", tensors));
  p->integer_weight = p->wide ? node.tensor<int16_t>("weight", tensors, &p->weight_shape)
                              : node.tensor<int16_t, int8_t>("weight", tensors, &p->weight_shape);
  p->multiplier = node.tensor<int32_t>("multiplier", tensors);
  p->shift = node.integer("shift");
}

Population make_population(const Node& node, const py::dict& tensors, bool integer) {
  using Kind = Population::Kind;
  Population p;
  p.name = node.text("name");
  p.kind =
      kind_of<Kind>(node, {{"input", Kind::input}, {"lif", Kind::lif}, {"readout", Kind::readout}});
  p.shape = node.shape();
  if (p.kind != Kind::input) p.current = node.text("current");
  if (integer) read_integer_population(node, tensors, &p);
  if (integer || p.kind != Kind::lif) return p;
  p.threshold = node.number("threshold");
  p.decay = node.number("decay");
  p.input_scale = node.number("input_scale");
  p.v_init = node.number("v_init");
  p.soft_reset = node.flag("soft_reset");
  return p;
}

Projection make_projection(const Node& node, const py::dict& tensors, bool integer) {
  using Kind = Projection::Kind;
  Projection p;
  p.name = node.text("name");
  p.kind = kind_of<Kind>(node, {{"conv", Kind::conv},
                                {"linear", Kind::linear},
                                {"token_mix", Kind::token_mix},
                                {"mean", Kind::mean}});
  p.source = node.text("source");
  p.channel_offset = node.integer("channel_offset");
  if (p.kind == Kind::conv) {
    p.stride = node.integer("stride");
    p.padding = node.integer("padding");
  }
  if (integer) {
    read_integer_projection(node, tensors, &p);
  } else if (p.kind != Kind::mean) {
    p.weight = node.tensor<float>("weight", tensors, &p.weight_shape);
  }
  return p;
}

Current make_current(const Node& node, const py::dict& tensors, bool integer) {
  Current c;
  c.name = node.text("name");
  c.shape = node.shape();
  for (py::handle item : node.list("projections"))
    c.projections.push_back(make_projection(Node("projection", item), tensors, integer));
  c.currents = node.get<std::vector<std::string>>("currents", "a list of strings");
  if (integer) {
    c.integer_bias = node.tensor<int32_t>("bias", tensors);
  } else {
    c.bias = node.tensor<float>("bias", tensors);
  }
  return c;
}

Graph make_graph(const py::dict& description, const py::dict& tensors) {
  Graph graph;
  const auto list = [&](const char* key) {
    if (!description.contains(key) || !py::isinstance<py::list>(description[key]))
      throw std::invalid_argument(std::string("graph: '") + key + "' must be a list");
    return py::reinterpret_borrow<py::list>(description[key]);
  };
  graph.integer = description["precision"].cast<std::string>() == "int8";
  graph.input_shift = description["input_shift"].cast<int>();
  for (py::handle item : list("populations"))
    graph.populations.push_back(make_population(Node("population", item), tensors, graph.integer));
  for (py::handle item : list("currents"))
    graph.currents.push_back(make_current(Node("current", item), tensors, graph.integer));
  return graph;
}

// An engine and what of its graph Python asks for again.
class BoundEngine {
 public:
  BoundEngine(const py::dict& description, const py::dict& tensors, int threads) {
    const Graph graph = make_graph(description, tensors);
    const py::gil_scoped_release unlocked;
    engine_ = std::make_unique<Engine>(graph, threads);
    for (const engine::Layer& layer : engine_->layers(1, false)) populations_ += layer.neurons > 0;
  }

  // input [steps, batch, C, H, W], or [batch, C, H, W] with steps repeats, and logits
  // [batch, classes] are addresses of float32. Nothing of Python is touched.
  void run(Address input, int steps, int batch, bool sequence, int64_t step_stride,
           int64_t image_stride, Address logits) const {
    engine_->run({pointer<const float>(input), steps, batch, sequence, step_stride, image_stride},
                 pointer<float>(logits));
  }

  // The same, written down: per LIF population the address of its uint8 spikes (or no addresses at
  // all). Returns (spikes, synops) per population and seconds per step of the plan.
  std::pair<std::vector<std::pair<int64_t, int64_t>>, std::vector<double>> record(
      Address input, int steps, int batch, bool sequence, int64_t step_stride, int64_t image_stride,
      Address logits, const std::vector<Address>& spikes) const {
    if (!spikes.empty() && spikes.size() != populations_)
      throw std::invalid_argument("record: one address per LIF population, or none");
    std::vector<engine::Activity> activity(populations_);
    std::vector<double> seconds(engine_->step_names().size(), 0.0);
    engine::Recording recording;
    for (Address address : spikes) recording.spikes.push_back(pointer<uint8_t>(address));
    recording.activity = &activity;
    recording.seconds = &seconds;
    engine_->run({pointer<const float>(input), steps, batch, sequence, step_stride, image_stride},
                 pointer<float>(logits), &recording);
    std::vector<std::pair<int64_t, int64_t>> counts;
    for (const engine::Activity& a : activity) counts.emplace_back(a.spikes, a.synops);
    return {std::move(counts), std::move(seconds)};
  }

  const Engine& engine() const { return *engine_; }

  // (name, neurons, multiply-accumulates per image) in order of execution.
  std::vector<std::tuple<std::string, int64_t, int64_t>> layers(int steps, bool sequence) const {
    std::vector<std::tuple<std::string, int64_t, int64_t>> rows;
    for (const engine::Layer& l : engine_->layers(steps, sequence))
      rows.emplace_back(l.name, l.neurons, l.macs);
    return rows;
  }

 private:
  std::unique_ptr<Engine> engine_;
  size_t populations_ = 0;
};

}  // namespace

void bind_engine(py::module_& m) {
  py::class_<BoundEngine>(m, "Engine")
      .def(py::init<const py::dict&, const py::dict&, int>())
      .def("run", &BoundEngine::run, Unlocked())
      .def("record", &BoundEngine::record, Unlocked())
      .def_property_readonly("threads", [](const BoundEngine& e) { return e.engine().threads(); })
      .def_property_readonly("isa", [](const BoundEngine& e) { return e.engine().isa(); })
      .def_property_readonly("classes", [](const BoundEngine& e) { return e.engine().classes(); })
      .def("layers", &BoundEngine::layers)
      .def_property_readonly("steps", [](const BoundEngine& e) { return e.engine().step_names(); });
}

}  // namespace stmixer
