#pragma once
// What the kernels of the engine are told. Plain numbers and addresses: this header is compiled
// once per instruction set and may define nothing that the linker would have to merge.
#include <cstdint>

#include "common/isa_table.h"

namespace stmixer::engine {

// Output channels are computed in units of one AVX-512 register on every machine, so that weights
// and buffers have the same shape everywhere. A tile is a run of units summed in one pass.
constexpr int kUnit = 16;

// One LIF step: v = decay * v + input_scale * x; spike where v >= threshold; then v = 0 (hard) or
// v -= threshold (soft).
struct LifSpec {
  float threshold, decay, input_scale, v_init;
  bool soft;
};

// Straight spike lists. A list row is what one row of an image fires at one time step: for each
// channel block, ascending keys x * block_channels + (c - block start). `starts` has, per row and
// block, width + 1 offsets into the keys of the image at that step, so the spikes of neighbouring
// pixels are one contiguous segment. The lists of a task lie one behind the other; there is room
// for each of its neurons, and whole bytes of spikes are stored.
struct ListTask {
  const uint8_t* bits;  // [rows][width][bits_pixel bytes], channel 8 i + j is bit j of byte i
  uint16_t* keys;       // of the image at this step
  uint32_t* starts;     // [rows][blocks][width + 1]
  uint32_t first_key;   // where those of this task begin
  int64_t bits_pixel;
  int32_t rows, width, channels, blocks, block_channels;
};

// 8x8 bit blocks: out[8 column bytes][...] of a bit map, so that rows become columns.
struct TransposeTask {
  const uint8_t* in;  // [in_rows][in_stride bytes]
  uint8_t* out;       // [8 * column_bytes][out_stride bytes]
  int64_t in_stride, out_stride;
  int32_t in_rows, first_column_byte, column_bytes;
};

// How outputs look at inputs: a convolution, or anything narrower. Positions on their own are lined
// up in rows as if they were an image.
struct Geometry {
  int32_t in_height = 1, in_width = 1, out_width = 1;
  int32_t kernel_h = 1, kernel_w = 1, stride = 1, padding = 0;
};

// Sums of the weight rows that the listed spikes select, for `pixels` output pixels of one image,
// all time steps and one tile of channels.
struct GatherTask {
  const uint16_t* keys;          // of the image at the first time step
  const uint32_t* starts;        // its first list row there
  const float* weights;          // [blocks][kernel_h][kernel_w * block_channels][units * kUnit]
  const float* next;             // weights that this thread will probably want after these
  float* sums;                   // [pixels][steps][units * kUnit]
  int64_t step_keys, step_rows;  // keys and list rows from one time step to the next
  Geometry geometry;
  int32_t blocks, block_channels;
  int32_t first_pixel, pixels, steps, units;
};

// The same for real-valued input: every product is formed, a multiplication then an addition.
struct DenseTask {
  const float* in;       // [steps][in_height][in_width][in_pixel]
  const float* weights;  // [kernel_h][kernel_w][channels][units * kUnit]
  float* sums;           // [pixels][steps][units * kUnit]
  int64_t in_step, in_pixel;
  Geometry geometry;
  int32_t channels;
  int32_t first_pixel, pixels, steps, units;
};

// The mean over all pixels and steps, for one image and one tile of channels.
struct MeanTask {
  const float* in;  // [steps][pixels][in_pixel]
  float* sums;      // [units * kUnit]
  int64_t in_step, in_pixel;
  int32_t pixels, steps, units;
};

// How often each channel fires: the mean of its spikes over all pixels and steps, for one image and
// a run of units.
struct RateTask {
  const uint8_t* bits;  // [steps][pixels][bits_pixel bytes]
  float* rates;         // [units * kUnit]
  int64_t bits_step, bits_pixel;
  int32_t pixels, steps, units;
};

// What becomes of finished sums: x = base + (sum + bias) is stored and drives the neurons, all time
// steps of one neuron in a row, so that its membrane never leaves a register.
struct FinishTask {
  const float* sums;  // element (pixel p, step t) at p * sums_pixel + t * sums_step
  int64_t sums_pixel, sums_step;
  const float* bias;  // [channels] or null
  const float* base;  // the current before this projection, or null; laid out like store
  float* store;       // the current after it, or null
  int64_t store_pixel, store_step;
  const LifSpec* lif;  // null: no neurons here
  // Thresholds, decays and initial membranes in place of those of `lif`, one array each and
  // `per_channel_stride` apart; or null. After token mixing it is the pixels that are channels.
  const float* per_channel;
  int64_t per_channel_stride;
  bool pixels_are_channels;
  uint8_t* bits;
  int64_t bits_pixel, bits_step;
  int32_t pixels, steps, channels;
};

struct ListKernels {
  void (*build_lists)(const ListTask&) noexcept;
  void (*transpose_bits)(const TransposeTask&) noexcept;
};

struct ProjectKernels {
  int max_units;  // widest tile whose sums stay in registers
  void (*gather)(const GatherTask&) noexcept;
  void (*dense)(const DenseTask&) noexcept;
  void (*mean)(const MeanTask&) noexcept;
  void (*rate)(const RateTask&) noexcept;
};

}  // namespace stmixer::engine
