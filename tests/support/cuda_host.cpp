// The CUDA kernels compiled for the CPU: the very same files, with the threads of a block as
// coroutines that take turns at barriers. What it tests is everything but the machine: index
// arithmetic, tails, chunks, reductions. Built by tests/support/cpp_build.py.
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ thread_local  // one block at a time runs on a thread of the host

namespace {
struct Index {
  unsigned x;
};
Index threadIdx, blockIdx;
ucontext_t host;
std::vector<ucontext_t> threads;
void __syncthreads() { swapcontext(&threads[threadIdx.x], &host); }

using Call = void (*)(const unsigned char*);
std::map<std::string, Call>& kernels() {
  static std::map<std::string, Call> table;
  return table;
}

template <auto kKernel>
struct Entry;
template <class Launch, void (*kKernel)(Launch)>
struct Entry<kKernel> {
  static void call(const unsigned char* bytes) {
    Launch launch;
    std::memcpy(&launch, bytes, sizeof launch);
    kKernel(launch);
  }
  explicit Entry(const char* name) { kernels()[name] = call; }
};
}  // namespace

#define STMIXER_ENTER(name) static const Entry<name> name##_entry(#name);

#include "cuda/bn_lif.cu"
#include "cuda/lif.cu"
#include "cuda/pack.cu"

constexpr int kStashQuads = (80 << 10) / sizeof(stmixer::cuda::Quad);
constexpr int kGuardQuads = 64;
thread_local stmixer::cuda::Quad stmixer_stash[kStashQuads + kGuardQuads];

namespace {
constexpr size_t kStack = 128 << 10;
std::vector<bool> running;
Call body;
const unsigned char* arguments;

void thread_main() {
  body(arguments);
  running[threadIdx.x] = false;
  swapcontext(&threads[threadIdx.x], &host);
}
}  // namespace

// 0, or why the launch went wrong: 1 no such kernel, 2 written beyond the shared memory.
extern "C" int run_kernel(const char* name, unsigned blocks, unsigned shared,
                          const unsigned char* parameters) {
  using stmixer::cuda::kThreads;
  const auto found = kernels().find(name);
  if (found == kernels().end()) return 1;
  body = found->second;
  arguments = parameters;
  threads.resize(kThreads);
  static std::vector<char> stacks(kThreads * kStack);
  std::memset(stmixer_stash, 0xa5, sizeof stmixer_stash);
  for (unsigned block = 0; block < blocks; ++block) {
    blockIdx.x = block;
    running.assign(kThreads, true);
    for (int i = 0; i < kThreads; ++i) {
      getcontext(&threads[i]);
      threads[i].uc_stack.ss_sp = stacks.data() + i * kStack;
      threads[i].uc_stack.ss_size = kStack;
      makecontext(&threads[i], thread_main, 0);
    }
    for (bool any = true; any;) {
      any = false;
      for (int i = 0; i < kThreads; ++i) {
        if (!running[i]) continue;
        threadIdx.x = static_cast<unsigned>(i);
        swapcontext(&host, &threads[i]);
        any = true;
      }
    }
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(stmixer_stash);
  for (size_t i = shared; i < sizeof stmixer_stash; ++i)
    if (bytes[i] != 0xa5) return 2;
  return 0;
}

// -- Geometry: what all threads of a launch together would touch ----------------------------------

namespace {
using namespace stmixer::cuda;

// Elements counted, and the sum of their indices, by which a gap and an overlap of the same size
// would still be told apart.
struct Covered {
  uint64_t count = 0, sum = 0;
  void add(const Span& span) {
    count += static_cast<uint64_t>(span.count);
    sum += static_cast<uint64_t>(span.count * span.at + span.count * (span.count - 1) / 2);
  }
  int judge(int64_t elements) const {
    const auto n = static_cast<unsigned __int128>(elements);
    return count == n && sum == static_cast<uint64_t>(n * (n - 1) / 2);
  }
};
}  // namespace

extern "C" int covers_lif(int64_t neurons, unsigned blocks) {
  Covered covered;
  for (int64_t block = 0; block < blocks; ++block)
    for (int thread = 0; thread < kThreads; ++thread) {
      const Span span = lif_span(neurons, true, block, thread);
      if (span.whole && span.at % kLanes != 0) return 0;
      covered.add(span);
    }
  return covered.judge(neurons);
}

extern "C" int covers_channels(int64_t neurons, int64_t channels, int64_t inner, int64_t least) {
  const ChannelTiles tiles = channel_tiles(neurons, {channels, inner}, least);
  if (tiles.columns * tiles.rows > kThreads) return 0;
  Covered covered;
  for (int64_t block = 0; block < tile_blocks(tiles); ++block)
    for (int thread = 0; thread < kThreads; ++thread) {
      const ChannelPlace place = channel_place(tiles, block, thread);
      if (!place.active) continue;
      for (int64_t row = place.row; row < tiles.outer; row += tiles.parts * tiles.rows) {
        const Span span = channel_span(tiles, place, row, true);
        covered.add(span);
        for (int k : {0, span.count - 1})
          if (channel_of(tiles, place, k) != (span.at + k) / inner % channels) return 0;
      }
    }
  return covered.judge(neurons);
}

extern "C" int covers_rows(int64_t rows, int64_t length, unsigned blocks) {
  const PackedRows packed = packed_rows(rows, length);
  Covered covered;
  int64_t bytes = 0;
  for (int64_t block = 0; block < blocks; ++block)
    for (int thread = 0; thread < kThreads; ++thread) {
      const Span span = packed_span(packed, true, block, thread);
      if (span.count < 0) continue;
      ++bytes;  // each thread that is not beyond the end writes one byte, padding too
      covered.add(span);
    }
  return bytes == rows * ((length + 31) / 32) * 4 && covered.judge(rows * length);
}
