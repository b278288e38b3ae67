// Classifies an image with an engine file and the C++ library alone:
//
//   cmake -S . -B build/cpp -DSTMIXER_PYTHON=OFF -DSTMIXER_EXAMPLES=ON && cmake --build build/cpp
//   build/cpp/classify model.stmx image.raw
//
// The image is float32 in the machine's byte order, [C, H, W], normalised as in training. With a
// third argument --uint8 it is bytes in [0, 255], with --unit float32 in [0, 1], and is normalised
// here by the mean and deviation that the file holds.
#include <algorithm>
#include <chrono>
#include <cstdint>
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

enum class Values { normalised, unit, uint8 };

template <class T>
std::vector<T> read(const std::string& path, const Shape& shape, const char* type) {
  std::vector<T> image(size_t(shape.channels) * shape.pixels());
  const auto bytes = static_cast<std::streamsize>(image.size() * sizeof(T));
  std::ifstream file(path, std::ios::binary);
  if (!file.read(reinterpret_cast<char*>(image.data()), bytes) || file.peek() != EOF)
    throw std::runtime_error(path + " must hold " + std::to_string(bytes) + " bytes, " + type +
                             " [" + std::to_string(shape.channels) + ", " +
                             std::to_string(shape.height) + ", " + std::to_string(shape.width) +
                             "]");
  return image;
}

std::vector<float> read_image(const std::string& path, const Graph& graph, const Shape& shape,
                              Values values) {
  if (values == Values::normalised) return read<float>(path, shape, "float32");
  if (graph.mean.empty())
    throw std::runtime_error("the model holds no mean and deviation: " + path +
                             " must be normalised, without --uint8 or --unit");
  std::vector<float> image;
  if (values == Values::unit) {
    image = read<float>(path, shape, "float32");
  } else {
    for (uint8_t v : read<uint8_t>(path, shape, "uint8")) image.push_back(v / 255.0f);
  }
  for (size_t i = 0; i < image.size(); ++i) {
    const size_t channel = i / shape.pixels();
    image[i] = (image[i] - graph.mean[channel]) / graph.std[channel];
  }
  return image;
}

void classify(const std::string& model, const std::string& path, Values values) {
  const Graph graph = load_graph(model);
  const Engine engine(graph, std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  const std::vector<float> image = read_image(path, graph, engine.input_shape(), values);
  Input input;
  input.data = image.data();
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
  const std::string option = argc == 4 ? argv[3] : "";
  const Values values = option == "--uint8"  ? Values::uint8
                        : option == "--unit" ? Values::unit
                                             : Values::normalised;
  if (argc != 3 && (argc != 4 || values == Values::normalised)) {
    std::fprintf(stderr, "usage: %s model.stmx image.raw [--uint8 | --unit]\n", argv[0]);
    return 2;
  }
  try {
    classify(argv[1], argv[2], values);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
