// `.stmx` files: safetensors whose metadata, written first, begins with format, version and a CRC32
// of all that follows it; then comes the description of the graph. stmx.py writes them.
#include "graph/stmx.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <limits>
#include <stdexcept>

namespace stmixer::graph {
namespace {

constexpr std::string_view kMagic = R"({"__metadata__": {"format": "stmx", "version": ")";
constexpr std::string_view kVersions = "34";  // one digit each: those that are read
constexpr std::string_view kChecksum = R"(", "crc32": ")";
constexpr size_t kChecksumDigits = 8;

[[noreturn]] void fail(const std::string& what) { throw std::invalid_argument(what); }

// Tables of CRC32 (IEEE): [k][b] is what byte b does k bytes before the end.
constexpr int kStride = 16;
using CrcTables = std::array<std::array<uint32_t, 256>, kStride>;

constexpr CrcTables make_crc_tables() {
  CrcTables tables{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    tables[0][byte] = crc;
  }
  for (int k = 1; k < kStride; ++k)
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t crc = tables[k - 1][byte];
      tables[k][byte] = crc >> 8 ^ tables[0][crc & 0xFF];
    }
  return tables;
}

constexpr CrcTables kCrcTables = make_crc_tables();

// Sixteen bytes at a time, whose lookups do not wait for each other.
uint32_t crc32(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (; bytes.size() >= kStride; bytes.remove_prefix(kStride)) {
    uint32_t next = 0;
    for (int i = 0; i < kStride; ++i) {
      const uint32_t mixed = i < 4 ? crc >> (8 * i) : 0;
      next ^= kCrcTables[kStride - 1 - i][(static_cast<uint8_t>(bytes[i]) ^ mixed) & 0xFF];
    }
    crc = next;
  }
  for (char c : bytes) crc = crc >> 8 ^ kCrcTables[0][(static_cast<uint8_t>(c) ^ crc) & 0xFF];
  return ~crc;
}

std::string hexadecimal(uint32_t value) {
  std::string digits(kChecksumDigits, '0');
  for (size_t i = 0; i < kChecksumDigits; ++i)
    digits[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
  return digits;
}

// The length that the file states for its header, whether or not that can be.
uint64_t header_size(const Array<char>& content) {
  uint64_t size = 0;
  for (int i = 0; i < 8; ++i) size |= uint64_t{static_cast<uint8_t>(content.data()[i])} << (8 * i);
  return size;
}

void check_integrity(std::string_view after_size) {
  if (after_size.substr(0, kMagic.size()) != kMagic)
    fail("it is no safetensors file that holds an engine");
  std::string_view rest = after_size.substr(kMagic.size());
  const std::string_view version = rest.substr(0, std::min<size_t>(rest.find('"'), 20));
  if (version.size() != 1 || kVersions.find(version) == std::string_view::npos)
    fail("its version is '" + std::string(version) + "', this one reads 3 and 4");
  rest.remove_prefix(version.size());
  if (rest.substr(0, kChecksum.size()) != kChecksum) fail("it has no checksum");
  rest.remove_prefix(kChecksum.size());
  const std::string_view checksum = rest.substr(0, kChecksumDigits);
  rest.remove_prefix(checksum.size());
  if (checksum != hexadecimal(crc32(rest)))
    fail("its checksum does not match: the file is damaged");
}

// A list of integers in [0, most].
std::vector<int64_t> sizes(const std::string& name, const Json& entry, const char* key,
                           int64_t most) {
  std::vector<int64_t> result;
  const Json* value = entry.find(key);
  const auto* list = value == nullptr ? nullptr : value->get<Json::List>();
  if (list == nullptr) fail("tensor '" + name + "' has no " + key);
  for (const Json& item : *list) {
    const auto* size = item.get<int64_t>();
    if (size == nullptr || *size < 0 || *size > most)
      fail("tensor '" + name + "' has " + key + " that are no sizes");
    result.push_back(*size);
  }
  return result;
}

size_t type_bytes(const std::string& type) {
  return type == "F32" || type == "I32" ? 4 : type == "I16" ? 2 : type == "I8" ? 1 : 0;
}

Tensor read_tensor(const std::string& name, const Json& entry, size_t data_bytes) {
  Tensor tensor;
  const Json* type = entry.find("dtype");
  if (type != nullptr && type->get<std::string>() != nullptr)
    tensor.type = *type->get<std::string>();
  const size_t bytes = type_bytes(tensor.type);
  if (bytes == 0) fail("tensor '" + name + "' must be of dtype F32, I32, I16 or I8");
  size_t count = 1;
  for (int64_t n : sizes(name, entry, "shape", std::numeric_limits<int>::max())) {
    tensor.shape.push_back(static_cast<int>(n));
    // Saturates, so that no product wraps around to something that fits.
    count = n > 0 && count > data_bytes / n ? data_bytes + 1 : count * n;
  }
  const auto offsets = sizes(name, entry, "data_offsets", static_cast<int64_t>(data_bytes));
  if (offsets.size() != 2) fail("tensor '" + name + "' needs two data_offsets");
  tensor.begin = offsets[0];
  tensor.count = count;
  if (offsets[1] < offsets[0] || count > data_bytes ||
      count * bytes != size_t(offsets[1] - offsets[0]))
    fail("tensor '" + name + "' lies at bytes " + std::to_string(offsets[0]) + " to " +
         std::to_string(offsets[1]) + ", which is not what its shape takes");
  return tensor;
}

TensorTable read_table(const Json::Object& header, const Array<char>& data) {
  TensorTable table;
  table.data = data;
  std::vector<std::pair<size_t, size_t>> places;
  for (const auto& [name, entry] : header) {
    if (name == "__metadata__") continue;
    const Tensor& tensor = table.tensors[name] = read_tensor(name, entry, data.size());
    const size_t bytes = type_bytes(tensor.type);
    if (reinterpret_cast<uintptr_t>(data.data() + tensor.begin) % bytes != 0)
      fail("tensor '" + name + "' is not aligned");
    places.emplace_back(tensor.begin, tensor.begin + tensor.count * bytes);
  }
  std::sort(places.begin(), places.end());
  size_t end = 0;
  for (const auto& [begin, next] : places) {
    if (begin != end)
      fail("a tensor lies at byte " + std::to_string(begin) + ", expected " + std::to_string(end));
    end = next;
  }
  if (end != data.size())
    fail("it has " + std::to_string(data.size()) + " bytes of tensors where " +
         std::to_string(end) + " are described");
  return table;
}

}  // namespace

Parts read_parts(const Array<char>& content) {
  if (content.size() < 8)
    fail("it has " + std::to_string(content.size()) + " bytes, too few for a safetensors header");
  const std::string_view bytes(content.data() + 8, content.size() - 8);
  const uint64_t size = header_size(content);
  if (size > bytes.size())
    fail("its header claims " + std::to_string(size) + " bytes, but " +
         std::to_string(bytes.size()) + " follow (truncated, or no safetensors file)");
  check_integrity(bytes);
  const Json header = parse_json(bytes.substr(0, size), "its header");
  const Json* text = header.find("__metadata__")->find("graph");
  if (text == nullptr || text->get<std::string>() == nullptr) fail("its metadata has no 'graph'");
  return {*text->get<std::string>(), read_table(*header.get<Json::Object>(),
                                                content.part<char>(8 + size, bytes.size() - size))};
}

Graph parse_graph(const Array<char>& content) {
  Parts parts = read_parts(content);
  return describe_graph(parse_json(parts.description, "its graph"), parts.table);
}

Graph load_graph(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? std::streamoff(file.tellg()) : -1;
  // Of a folder, systems say that it opens and how long it is.
  if (size < 0 || size == std::numeric_limits<std::streamoff>::max())
    throw std::runtime_error("cannot read " + path);
  const std::shared_ptr<char> bytes(new char[size], std::default_delete<char[]>());
  file.seekg(0);
  if (!file.read(bytes.get(), size)) throw std::runtime_error("cannot read " + path);
  try {
    return parse_graph({bytes, static_cast<size_t>(size)});
  } catch (const std::invalid_argument& error) {
    fail(path + " is not a usable engine file: " + error.what());
  }
}

}  // namespace stmixer::graph
