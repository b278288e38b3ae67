// From the description in a `.stmx` file to a graph: types and presence of fields, nothing else;
// what the values may be is for check_graph.
#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "graph/kinds.h"
#include "graph/stmx.h"

namespace stmixer::graph {
namespace {

template <class T>
constexpr const char* kTypeName = nullptr;
template <>
constexpr const char* kTypeName<float> = "F32";
template <>
constexpr const char* kTypeName<int32_t> = "I32";
template <>
constexpr const char* kTypeName<int16_t> = "I16";
template <>
constexpr const char* kTypeName<int8_t> = "I8";

// An object of the description, whose values may be anything, since files say so.
class Node {
 public:
  Node(std::string title, const Json& description, TensorTable& table)
      : title_(std::move(title)), fields_(description), table_(table) {
    if (fields_.get<Json::Object>() == nullptr) fail("is no object");
  }

  // Refuses fields that nobody has asked for: whoever wrote them expects them to act.
  void check_all_read() const {
    for (const auto& [key, value] : *fields_.get<Json::Object>())
      if (std::find(read_.begin(), read_.end(), key) == read_.end())
        fail("has an unknown field '" + key + "'");
  }

  // A node within this one, which has a name.
  Node inner(const char* kind, const Json& description) const {
    Node node(std::string("graph: ") + kind, description, table_);
    node.title_ += " '" + node.text("name") + "'";
    return node;
  }

  std::string text(const char* key) const { return get<std::string>(key, "a string"); }
  bool flag(const char* key) const { return get<bool>(key, "true or false"); }
  const Json::List& list(const char* key) const { return get<Json::List>(key, "a list"); }

  int integer(const char* key) const { return to_int(field(key), key, "an integer"); }

  // Whether the description says anything: fields that older files do not have may be left out.
  bool has(const char* key) const {
    const Json* value = find(key);
    return value != nullptr && value->get<std::nullptr_t>() == nullptr;
  }
  bool flag_or(const char* key, bool none) const { return has(key) ? flag(key) : none; }
  int integer_or(const char* key, int none) const { return has(key) ? integer(key) : none; }
  int64_t long_or(const char* key, int64_t none) const {
    return has(key) ? get<int64_t>(key, "an integer") : none;
  }

  float number(const char* key) const { return to_float(field(key), key, "a number"); }

  // One number for all channels, or the tensor that has one for each.
  void number(const char* key, float* all, std::vector<float>* channels) const {
    if (names_tensor(key)) {
      *channels = values<float>(key);
    } else {
      *all = to_float(field(key), key, "a number or the name of a tensor");
    }
  }
  void integer(const char* key, int* all, std::vector<int32_t>* channels) const {
    if (names_tensor(key)) {
      *channels = values<int32_t>(key);
    } else {
      *all = to_int(field(key), key, "an integer or the name of a tensor");
    }
  }

  std::vector<float> numbers(const char* key) const {
    std::vector<float> result;
    if (!has(key)) return result;
    for (const Json& item : list(key)) result.push_back(to_float(item, key, "a list of numbers"));
    return result;
  }

  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> result;
    for (const Json& item : list(key)) {
      if (item.get<std::string>() == nullptr) refuse(key, "a list of strings");
      result.push_back(*item.get<std::string>());
    }
    return result;
  }

  Shape shape() const {
    std::vector<int> sizes;
    for (const Json& item : list("shape"))
      sizes.push_back(to_int(item, "shape", "a list of integers"));
    if (sizes.size() != 3) refuse("shape", "[channels, height, width]");
    return {sizes[0], sizes[1], sizes[2]};
  }

  // The tensor that the field names, or none for null.
  Tensor* tensor(const char* key) const {
    if (field(key).get<std::nullptr_t>() != nullptr) return nullptr;
    const std::string& name = get<std::string>(key, "a string or null");
    const auto found = table_.tensors.find(name);
    if (found == table_.tensors.end()) fail("tensor '" + name + "' is missing");
    if (std::exchange(found->second.used, true)) fail("tensor '" + name + "' is used twice");
    return &found->second;
  }

  // Its numbers, which the field says are of type T.
  template <class T>
  Array<T> numbers(const char* key, const Tensor* tensor) const {
    if (tensor == nullptr) return {};
    if (tensor->type != kTypeName<T>)
      fail("tensor '" + text(key) + "' must be of dtype " + kTypeName<T> + ", got " + tensor->type);
    return table_.data.part<T>(tensor->begin, tensor->count);
  }

  template <class T>
  std::vector<T> values(const char* key) const {
    const Array<T> array = numbers<T>(key, tensor(key));
    return std::vector<T>(array.begin(), array.end());
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw std::invalid_argument(title_ + " " + what);
  }

 private:
  [[noreturn]] void refuse(const char* key, const char* type) const {
    fail(std::string("'") + key + "' must be " + type);
  }

  const Json* find(const char* key) const {
    read_.push_back(key);
    return fields_.find(key);
  }

  const Json& field(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) fail(std::string("has no '") + key + "'");
    return *value;
  }

  template <class T>
  const T& get(const char* key, const char* type) const {
    const T* value = field(key).get<T>();
    if (value == nullptr) refuse(key, type);
    return *value;
  }

  bool names_tensor(const char* key) const {
    const auto* name = field(key).get<std::string>();
    return name != nullptr && table_.tensors.count(*name) > 0;
  }

  float to_float(const Json& value, const char* key, const char* type) const {
    if (const auto* whole = value.get<int64_t>()) return static_cast<float>(*whole);
    if (value.get<double>() == nullptr) refuse(key, type);
    return static_cast<float>(*value.get<double>());
  }

  int to_int(const Json& value, const char* key, const char* type) const {
    using Limits = std::numeric_limits<int>;
    const auto* whole = value.get<int64_t>();
    if (whole == nullptr || *whole < Limits::min() || *whole > Limits::max()) refuse(key, type);
    return static_cast<int>(*whole);
  }

  std::string title_;
  const Json& fields_;
  TensorTable& table_;
  mutable std::vector<std::string_view> read_;  // keys, which are literals
};

template <class Kinds>
auto kind_of(const Node& node, const Kinds& kinds) {
  const std::string name = node.text("kind");
  for (const auto& [candidate, kind] : kinds)
    if (name == candidate) return kind;
  node.fail("is of unknown kind '" + name + "'");
}

// What `read` makes of a node, all of whose fields it must know.
template <class Read>
auto read_whole(const Node& node, bool integer, const Read& read) {
  auto result = read(node, integer);
  node.check_all_read();
  return result;
}

Population read_population(const Node& node, bool integer) {
  using Kind = Population::Kind;
  Population p;
  p.name = node.text("name");
  p.kind = kind_of(node, kPopulationKinds);
  p.shape = node.shape();
  if (p.kind != Kind::input) p.current = node.text("current");
  if (p.kind == Kind::readout && integer) {
    p.scale = node.values<float>("scale");
    p.bias = node.values<float>("bias");
  }
  if (p.kind != Kind::lif) return p;
  p.tokens = node.flag("tokens");
  p.soft_reset = node.flag("soft_reset");
  p.max_spikes = node.integer_or("max_spikes", 1);
  if (integer) {
    p.integer_threshold = node.values<int32_t>("threshold");
    p.integer_reset = node.values<int32_t>("reset");
    node.integer("decay", &p.integer_decay, &p.channel_integer_decay);
    if (node.has("v_init")) p.integer_v_init = node.values<int32_t>("v_init");
    return p;
  }
  node.number("threshold", &p.threshold, &p.channel_threshold);
  node.number("decay", &p.decay, &p.channel_decay);
  node.number("v_init", &p.v_init, &p.channel_v_init);
  p.input_scale = node.number("input_scale");
  return p;
}

Projection read_projection(const Node& node, bool integer) {
  using Kind = Projection::Kind;
  Projection p;
  p.name = node.text("name");
  p.kind = kind_of(node, kProjectionKinds);
  p.source = node.text("source");
  p.channel_offset = node.integer("channel_offset");
  p.clocked_only = node.flag_or("clocked_only", false);
  if (p.kind == Kind::conv || is_pool(p.kind)) {
    p.stride = node.integer("stride");
    p.padding = node.integer("padding");
  }
  if (is_pool(p.kind)) p.kernel = node.integer("kernel");
  if (p.kind == Kind::spike_product) {
    p.key = node.text("key");
    p.value = node.text("value");
    p.heads = node.integer("heads");
    p.scale = node.number("scale");
  }
  if (!has_weight(p.kind)) return p;
  const Tensor* weight = node.tensor("weight");
  if (weight != nullptr) p.weight_shape = weight->shape;
  if (!integer) {
    p.weight = node.numbers<float>("weight", weight);
    return p;
  }
  if (weight != nullptr && weight->type == kTypeName<int16_t>) {
    p.weight16 = node.numbers<int16_t>("weight", weight);
  } else {
    p.weight8 = node.numbers<int8_t>("weight", weight);
  }
  p.multiplier = node.values<int32_t>("multiplier");
  p.shift = node.integer("shift");
  return p;
}

Current read_current(const Node& node, bool integer) {
  Current c;
  c.name = node.text("name");
  c.shape = node.shape();
  for (const Json& item : node.list("projections"))
    c.projections.push_back(read_whole(node.inner("projection", item), integer, read_projection));
  c.currents = node.texts("currents");
  if (integer) {
    c.integer_bias = node.values<int32_t>("bias");
  } else {
    c.bias = node.values<float>("bias");
  }
  return c;
}

}  // namespace

Graph describe_graph(const Json& description, TensorTable& table) {
  const Node node("graph:", description, table);
  Graph graph;
  const std::string precision = node.text("precision");
  graph.integer = precision == "int8";
  if (!graph.integer && precision != "fp32")
    node.fail("'precision' must be fp32 or int8, got '" + precision + "'");
  graph.input_shift = node.integer("input_shift");
  graph.steps = node.integer("steps");
  graph.batch_first = node.flag("batch_first");
  graph.mean = node.numbers("mean");
  graph.std = node.numbers("std");
  graph.step_us = node.long_or("step_us", 0);
  for (const Json& item : node.list("populations"))
    graph.populations.push_back(
        read_whole(node.inner("population", item), graph.integer, read_population));
  for (const Json& item : node.list("currents"))
    graph.currents.push_back(read_whole(node.inner("current", item), graph.integer, read_current));
  node.check_all_read();
  return graph;
}

}  // namespace stmixer::graph
