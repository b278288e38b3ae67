#pragma once
// The parts of a `.stmx` file, and the graph that its description makes of its tensors.
#include <map>
#include <string>
#include <vector>

#include "graph/json.h"
#include "stmixer/graph.h"

namespace stmixer::graph {

// A tensor of the file, contiguous.
struct Tensor {
  std::string type;  // as safetensors calls it: F32, I32, I16, I8
  std::vector<int> shape;
  size_t begin = 0, count = 0;  // bytes into the data; elements
  bool used = false;
};

struct TensorTable {
  Array<char> data;
  std::map<std::string, Tensor> tensors;
};

// What a file holds, if it is whole; what the graph says is not looked at.
struct Parts {
  std::string description;  // JSON
  TensorTable table;
};
Parts read_parts(const Array<char>& content);

// Every tensor belongs to one field of one node, so that a file cannot ask for more memory than it
// has weights. Throws std::invalid_argument naming the node.
Graph describe_graph(const Json& description, TensorTable& table);

}  // namespace stmixer::graph
