#pragma once
// What the kernels take: the parameters of the op, and what the host worked out from them. Plain
// data with 8-byte addresses, the same bytes for nvcc, NVRTC and the host compiler.
#include "cuda/geometry.h"
#include "stmixer/lif.h"
#include "stmixer/pack.h"

namespace stmixer {
namespace cuda {

// `vector`: every tensor and every step of it starts at a multiple of 16 bytes.
struct LifForwardLaunch {
  LifForward p;
  bool vector;
};

// Longer than a chunk, the steps of a thread are walked twice. `stash`: x and the membranes between
// chunks are kept in shared memory meanwhile; else the membranes are in p.scratch, x is read again.
struct LifBackwardLaunch {
  LifBackward p;
  bool vector, stash;
};

struct BnStatisticsLaunch {
  BnStatistics p;
  ChannelTiles tiles;
  bool vector;
  double* partial;  // [partial_sums, 2, channels]
};

struct BnLifForwardLaunch {
  BnLifForward p;
  ChannelTiles tiles;
  bool vector;
};

struct BnLifBackwardLaunch {
  BnLifBackward p;  // p.scratch as above
  ChannelTiles tiles;
  bool vector, stash;
  double* partial;
  void* factors;  // slope and offset, [2, channels] in the state type
};

struct PackLaunch {
  PackRows p;
  PackedRows rows;
  bool vector;
};

struct UnpackLaunch {
  UnpackRows p;
  PackedRows rows;
  bool vector;
};

}  // namespace cuda
}  // namespace stmixer
