#include "cuda/launches.h"

#include <cstring>
#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace stmixer {
namespace cuda {

namespace {

// A kernel's instances for the element types, in the order of Dtype, and the file they are in.
struct Kernel {
  const char* file;
  const char* by_dtype[4];
};

#define STMIXER_INSTANCES(kernel) {kernel "_f32", kernel "_f64", kernel "_bf16", kernel "_f16"}
constexpr Kernel kLifForward{"lif.cu", STMIXER_INSTANCES("lif_forward")};
constexpr Kernel kLifBackwardShort{
    "lif.cu",
    {"lif_backward_f32_4", "lif_backward_f64_2", "lif_backward_bf16_4", "lif_backward_f16_4"}};
constexpr Kernel kLifBackwardLong{
    "lif.cu",
    {"lif_backward_f32_8", "lif_backward_f64_2", "lif_backward_bf16_8", "lif_backward_f16_8"}};
constexpr Kernel kStatistics{"bn_lif.cu", STMIXER_INSTANCES("bn_statistics")};
constexpr Kernel kMoments{"bn_lif.cu", STMIXER_INSTANCES("bn_moments")};
constexpr Kernel kBnForward{"bn_lif.cu", STMIXER_INSTANCES("bn_lif_forward")};
constexpr Kernel kBnBackward4{"bn_lif.cu",
                              {"bn_lif_backward_f32_4", "bn_lif_backward_f64_1",
                               "bn_lif_backward_bf16_4", "bn_lif_backward_f16_4"}};
constexpr Kernel kBnBackward8{"bn_lif.cu",
                              {"bn_lif_backward_f32_8", "bn_lif_backward_f64_1",
                               "bn_lif_backward_bf16_8", "bn_lif_backward_f16_8"}};
constexpr Kernel kBnBackwardLong{"bn_lif.cu",
                                 {"bn_lif_backward_f32_long", "bn_lif_backward_f64_1",
                                  "bn_lif_backward_bf16_long", "bn_lif_backward_f16_long"}};
constexpr Kernel kInputGradient{"bn_lif.cu", STMIXER_INSTANCES("bn_input_gradient")};
constexpr Kernel kGradients{
    "bn_lif.cu", {"bn_gradients_f32", "bn_gradients_f64", "bn_gradients_f32", "bn_gradients_f32"}};
constexpr Kernel kPack{"pack.cu", STMIXER_INSTANCES("pack_rows")};
constexpr Kernel kUnpack{"pack.cu", STMIXER_INSTANCES("unpack_rows")};

// Rows a thread takes at least, see channel_tiles.
constexpr int64_t kRows = 1;
constexpr int64_t kSummingRows = 4;

// Two blocks of a stash fit into the shared memory of an H100, and one of any GPU since the A100.
constexpr int64_t kStashBytes = 80 << 10;

int64_t element_size(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

template <class Launch>
void add(Plan& plan, const Kernel& kernel, int64_t blocks, int64_t shared, const Launch& launch) {
  static_assert(std::is_trivially_copyable<Launch>::value, "kernels take plain data");
  const char* name = kernel.by_dtype[static_cast<int>(launch.p.dtype)];
  if (blocks > std::numeric_limits<int32_t>::max())
    throw std::invalid_argument(std::string(name) + ": " + std::to_string(blocks) +
                                " blocks are more than a GPU can be asked for");
  const auto* bytes = reinterpret_cast<const unsigned char*>(&launch);
  plan.push_back({kernel.file,
                  name,
                  static_cast<uint32_t>(blocks),
                  static_cast<uint32_t>(shared),
                  {bytes, bytes + sizeof launch}});
}

// Whether all of these addresses and distances in bytes are multiples of 16.
bool aligned(std::initializer_list<const void*> addresses, std::initializer_list<int64_t> bytes) {
  uint64_t all = 0;
  for (const void* address : addresses) all |= reinterpret_cast<uintptr_t>(address);
  for (int64_t distance : bytes) all |= static_cast<uint64_t>(distance);
  return all % sizeof(uint64_t[2]) == 0;
}

int64_t blocks_of(int64_t neurons) { return ceil_divide(neurons, kThreads * kLanes); }

// -- The walk back: see walk.h --------------------------------------------------------------------

int64_t lif_chunk(Dtype dtype, int64_t steps) {
  return dtype == Dtype::f64 ? 2 : steps <= 4 ? 4 : 8;
}

// Only a walk of one chunk has room for 8 steps.
int64_t bn_chunk(Dtype dtype, int64_t steps) {
  return dtype == Dtype::f64 ? 1 : steps > 4 && steps <= 8 ? 8 : 4;
}

const Kernel& bn_backward(int64_t steps) {
  return steps <= 4 ? kBnBackward4 : steps <= 8 ? kBnBackward8 : kBnBackwardLong;
}

// Where a walk keeps what is between its chunks: nothing for one chunk, else shared memory, and
// where that is too small, device memory.
struct Keep {
  int64_t shared, device;
};

Keep keep_between(Dtype dtype, int64_t steps, int64_t chunk, int64_t neurons) {
  const int64_t membranes = (steps - 1) / chunk;
  if (membranes == 0) return {0, 0};
  const int64_t stash =
      kThreads * kLanes * (steps * element_size(dtype) + membranes * state_size(dtype));
  if (stash <= kStashBytes) return {stash, 0};
  return {0, membranes * neurons * state_size(dtype)};
}

Keep keep_between(const LifBackward& p) {
  return keep_between(p.dtype, p.steps, lif_chunk(p.dtype, p.steps), p.neurons);
}

Keep keep_between(const BnLifBackward& p) {
  return keep_between(p.dtype, p.steps, bn_chunk(p.dtype, p.steps), p.neurons);
}

// -- Sums per channel -----------------------------------------------------------------------------

ChannelTiles summing_tiles(int64_t neurons, const ChannelLayout& layout) {
  return channel_tiles(neurons, layout, kSummingRows);
}

int64_t partial_bytes(const ChannelTiles& tiles, const ChannelLayout& layout) {
  return partial_sums(tiles) * 2 * layout.channels * static_cast<int64_t>(sizeof(double));
}

int64_t sum_blocks(const ChannelLayout& layout) {
  return ceil_divide(layout.channels, kSumChannels);
}

int64_t round_up(int64_t bytes) { return ceil_divide(bytes, 16) * 16; }

// The distance between neighbouring spans that are not neighbours in the tensor.
int64_t row_bytes(const ChannelTiles& tiles, Dtype dtype) {
  return tiles.outer * tiles.planes == 1 ? 0 : tiles.width * element_size(dtype);
}

}  // namespace

int64_t scratch_bytes(const LifForward&) { return 0; }

Plan make_plan(const LifForward& p, void*) {
  const int64_t step = p.steps == 1 ? 0 : element_size(p.dtype);
  const bool vector = aligned({p.x, p.v_init, p.s, p.v_out}, {p.x_step * step, p.neurons * step});
  Plan plan;
  add(plan, kLifForward, blocks_of(p.neurons), 0, LifForwardLaunch{p, vector});
  return plan;
}

int64_t scratch_bytes(const LifBackward& p) { return keep_between(p).device; }

Plan make_plan(const LifBackward& p, void* scratch) {
  const int64_t step = p.steps == 1 ? 0 : element_size(p.dtype);
  const bool vector =
      aligned({p.x, p.v_init, p.gs, p.gv, p.gx, p.gv_init}, {p.x_step * step, p.neurons * step});
  const Keep keep = keep_between(p);
  LifBackwardLaunch launch{p, vector, keep.shared > 0};
  launch.p.scratch = scratch;
  Plan plan;
  const bool is_long = lif_chunk(p.dtype, p.steps) == 8;
  add(plan, is_long ? kLifBackwardLong : kLifBackwardShort, blocks_of(p.neurons), keep.shared,
      launch);
  return plan;
}

int64_t scratch_bytes(const BnLifForward& p) {
  return p.training ? partial_bytes(summing_tiles(p.neurons, p.layout), p.layout) : 0;
}

Plan make_plan(const BnLifForward& p, void* scratch) {
  const int64_t step = p.steps == 1 ? 0 : element_size(p.dtype);
  Plan plan;
  if (p.training) {
    const ChannelTiles tiles = summing_tiles(p.neurons, p.layout);
    const bool vector = aligned({p.x}, {p.x_step * step, row_bytes(tiles, p.dtype)});
    const BnStatisticsLaunch launch{statistics_of(p), tiles, vector, static_cast<double*>(scratch)};
    add(plan, kStatistics, tile_blocks(tiles), 0, launch);
    add(plan, kMoments, sum_blocks(p.layout), 0, launch);
  }
  const ChannelTiles tiles = channel_tiles(p.neurons, p.layout, kRows);
  const bool vector = aligned(
      {p.x, p.residual, p.v_init, p.sum, p.s, p.v_out},
      {p.x_step * step, p.residual_step * step, p.neurons * step, row_bytes(tiles, p.dtype)});
  add(plan, kBnForward, tile_blocks(tiles), 0, BnLifForwardLaunch{p, tiles, vector});
  return plan;
}

int64_t scratch_bytes(const BnLifBackward& p) {
  return round_up(partial_bytes(summing_tiles(p.neurons, p.layout), p.layout)) +
         round_up(2 * p.layout.channels * state_size(p.dtype)) + keep_between(p).device;
}

Plan make_plan(const BnLifBackward& p, void* scratch) {
  const ChannelTiles tiles = summing_tiles(p.neurons, p.layout);
  const int64_t step = p.steps == 1 ? 0 : element_size(p.dtype);
  const bool vector = aligned({p.x, p.sum, p.v_init, p.gs, p.gsum, p.gv, p.g, p.gx, p.gv_init},
                              {p.x_step * step, p.neurons * step, row_bytes(tiles, p.dtype)});
  const Keep keep = keep_between(p);
  char* memory = static_cast<char*>(scratch);
  BnLifBackwardLaunch launch{p, tiles, vector, keep.shared > 0, nullptr, nullptr};
  launch.partial = reinterpret_cast<double*>(memory);
  memory += round_up(partial_bytes(tiles, p.layout));
  launch.factors = memory;
  launch.p.scratch = memory + round_up(2 * p.layout.channels * state_size(p.dtype));
  Plan plan;
  add(plan, bn_backward(p.steps), tile_blocks(tiles), keep.shared, launch);
  add(plan, kGradients, sum_blocks(p.layout), 0, launch);
  launch.tiles = channel_tiles(p.neurons, p.layout, kRows);
  add(plan, kInputGradient, tile_blocks(launch.tiles), 0, launch);
  return plan;
}

int64_t scratch_bytes(const PackRows&) { return 0; }

Plan make_plan(const PackRows& p, void*) {
  const PackedRows rows = packed_rows(p.rows, p.length);
  const bool vector = aligned({p.s}, {rows.rows == 1 ? 0 : p.length * element_size(p.dtype)});
  Plan plan;
  add(plan, kPack, ceil_divide(rows.rows * rows.bytes, kThreads), 0, PackLaunch{p, rows, vector});
  return plan;
}

int64_t scratch_bytes(const UnpackRows&) { return 0; }

Plan make_plan(const UnpackRows& p, void*) {
  const PackedRows rows = packed_rows(p.rows, p.length);
  const bool vector = aligned({p.s}, {rows.rows == 1 ? 0 : p.length * element_size(p.dtype)});
  Plan plan;
  add(plan, kUnpack, ceil_divide(rows.rows * rows.bytes, kThreads), 0,
      UnpackLaunch{p, rows, vector});
  return plan;
}

}  // namespace cuda
}  // namespace stmixer
