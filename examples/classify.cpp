// Classifies an image with an engine file and the C++ library alone:
//
//   cmake -S . -B build/cpp -DSTMIXER_PYTHON=OFF -DSTMIXER_EXAMPLES=ON && cmake --build build/cpp
//   build/cpp/classify model.stmx image.raw
//
// The image is float32 in the machine's byte order, [C, H, W], normalised as in training.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <fstream>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "stmixer/engine.h"

using namespace stmixer::engine;

namespace {

std::vector<float> read_image(const std::string& path, const Shape& shape) {
  std::vector<float> image(size_t(shape.channels) * shape.pixels());
  const auto bytes = static_cast<std::streamsize>(image.size() * sizeof(float));
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(image.data()), bytes) || file.peek() != EOF)
    throw std::runtime_error(path + " must hold " + std::to_string(bytes) + " bytes, float32 [" +
                             std::to_string(shape.channels) + ", " + std::to_string(shape.height) +
                             ", " + std::to_string(shape.width) + "]");
  return image;
}

void classify(const std::string& model, const std::string& path) {
  const Graph graph = load_graph(model);
  const Engine engine(graph, std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  const std::vector<float> image = read_image(path, engine.input_shape());
  Input input;
  input.data = image.data();
  input.steps = graph.steps;
  input.batch = 1;

  std::vector<float> logits(engine.classes());
  engine.run(input, logits.data());  // the first run plans its memory
  const auto begin = std::chrono::steady_clock::now();
  engine.run(input, logits.data());
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - begin;

  std::vector<int> classes(logits.size());
  std::iota(classes.begin(), classes.end(), 0);
  const auto top = classes.begin() + std::min<size_t>(5, classes.size());
  std::partial_sort(classes.begin(), top, classes.end(),
                    [&](int a, int b) { return logits[a] > logits[b]; });
  for (auto c = classes.begin(); c != top; ++c) std::printf("class %d: %.9g\n", *c, logits[*c]);
  std::printf("%.3f ms (%s, %d threads)\n", time.count(), engine.isa(), engine.threads());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s model.stmx image.raw\n", argv[0]);
    return 2;
  }
  try {
    classify(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
