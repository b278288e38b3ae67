// From bit maps to spike lists, eight channels at a time and without a branch: a table turns a byte
// into the positions of its bits, all eight are stored, and the list grows by as many as were set.
#include <cstdint>

#include "engine/kernels.h"

namespace stmixer::engine {
namespace {

typedef uint16_t Keys8 __attribute__((vector_size(16)));

struct ByteTable {
  uint16_t position[256][8];
  uint8_t count[256];
};

constexpr ByteTable make_byte_table() {
  ByteTable table{};
  for (int byte = 0; byte < 256; ++byte) {
    int n = 0;
    for (int bit = 0; bit < 8; ++bit)
      if (byte >> bit & 1) table.position[byte][n++] = static_cast<uint16_t>(bit);
    table.count[byte] = static_cast<uint8_t>(n);
  }
  return table;
}

alignas(64) constexpr ByteTable kBytes = make_byte_table();

// Appends key + position for each bit that is set; returns the new length.
inline uint32_t append(uint16_t* keys, uint32_t n, uint8_t byte, uint16_t key) {
  Keys8 positions;
  __builtin_memcpy(&positions, kBytes.position[byte], sizeof positions);
  positions += key;
  __builtin_memcpy(keys + n, &positions, sizeof positions);
  return n + kBytes.count[byte];
}

// Other cores wrote much of what is read here, and read what was written here before: all lines are
// asked for at once, or each would be waited for.
inline void fetch(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
}

#if defined(__POPCNT__)
inline void fetch_to_write(const uint16_t* keys, const uint8_t* bits, int64_t bytes) {
  int64_t spikes = 0;
  for (int64_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t word;
    __builtin_memcpy(&word, bits + i, sizeof word);
    spikes += __builtin_popcountll(word);
  }
  for (int64_t i = 0; i < spikes; i += 32) __builtin_prefetch(keys + i, 1);
}
#else
inline void fetch_to_write(const uint16_t*, const uint8_t*, int64_t) {}
#endif

void build_lists(const ListTask& task) noexcept {
  // A copy that the stores below cannot alias.
  const ListTask t = task;
  const int block_bytes = t.block_channels / 8;
  const int pixel_bytes = (t.channels + 7) / 8;
  const int64_t bytes = t.rows * t.width * t.bits_pixel;
  fetch(t.bits, bytes);
  fetch_to_write(t.keys + t.first_key, t.bits, bytes);
  uint32_t* starts = t.starts;
  const uint8_t* row = t.bits;
  uint32_t n = t.first_key;
  for (int r = 0; r < t.rows; ++r, row += t.width * t.bits_pixel) {
    for (int block = 0; block < t.blocks; ++block) {
      const int first = block * block_bytes;
      const int count = first + block_bytes < pixel_bytes ? block_bytes : pixel_bytes - first;
      const uint8_t* bits = row + first;
      for (int x = 0; x < t.width; ++x, bits += t.bits_pixel) {
        starts[x] = n;
        uint16_t key = static_cast<uint16_t>(x * t.block_channels);
        for (int i = 0; i < count; ++i, key += 8) n = append(t.keys, n, bits[i], key);
      }
      starts[t.width] = n;
      starts += t.width + 1;
    }
  }
}

// Transposes the 8x8 bit matrix whose row r is byte r.
inline uint64_t transpose8x8(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
  x ^= t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
  x ^= t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
  return x ^ t ^ (t << 28);
}

void transpose_bits(const TransposeTask& task) noexcept {
  for (int row = 0; row < task.in_rows; ++row)
    fetch(task.in + row * task.in_stride + task.first_column_byte, task.column_bytes);
  for (int column = 0; column < task.column_bytes; ++column) {
    const uint8_t* in = task.in + task.first_column_byte + column;
    uint8_t* out = task.out + 8 * column * task.out_stride;
    for (int row = 0; row < task.in_rows; row += 8) {
      const int rows = task.in_rows - row < 8 ? task.in_rows - row : 8;
      uint64_t block = 0;
      for (int r = 0; r < rows; ++r)
        block |= static_cast<uint64_t>(in[(row + r) * task.in_stride]) << (8 * r);
      block = transpose8x8(block);
      for (int r = 0; r < 8; ++r)
        out[r * task.out_stride + row / 8] = static_cast<uint8_t>(block >> (8 * r));
    }
  }
}

}  // namespace

STMIXER_DEFINE_TABLE(ListKernels, list_kernels) = {build_lists, transpose_bits};

}  // namespace stmixer::engine
