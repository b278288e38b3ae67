#pragma once
// Spikes as bits: bit i of word w of a row is spike 32 w + i; rows are padded to whole words.
#include "stmixer/neuron.h"

namespace stmixer {

struct PackRows {
  Dtype dtype;
  int64_t rows, length;
  const void* s;
  uint32_t* bits;
};

struct UnpackRows {
  Dtype dtype;
  int64_t rows, length;
  const uint32_t* bits;
  void* s;
};

void pack_rows(const PackRows& p, int threads);
void unpack_rows(const UnpackRows& p, int threads);

}  // namespace stmixer
