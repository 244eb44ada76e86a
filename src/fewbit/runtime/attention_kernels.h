// The inner loops of cached attention, vectorised; one thread each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fewbit/runtime/kv_cache.h"

namespace fewbit {

// c[r] (+)= sum over i in [first, last) of a[r][i] * b[i, :], for `rows` rows. `b` is row-major
// with `cols` columns, as float32 or as binary16 bits. Sums run in the order of i.
struct PanelProduct {
  const float* const* a = nullptr;
  float* const* c = nullptr;
  size_t rows = 0, first = 0, last = 0, cols = 0;
  bool accumulate = false;
};
void panel_product(const PanelProduct& product, const float* b);
void panel_product(const PanelProduct& product, const uint16_t* b);

// Running softmax of one row: the largest score so far, and the sum of exp(score - largest).
struct RunningSoftmax {
  float largest = 0, sum = 0;  // No score so far: sum is 0.
};
// Takes scores[first, last) of a tile of kCacheTile: scores *= scale (and softcap, unless 0), then
// become exp(score - largest), 0 outside. `state` is brought up to date, and `mixture` [size], the
// sum over earlier scores, rescaled to the new largest.
void running_softmax(float* scores, size_t first, size_t last, float scale, float softcap,
                     RunningSoftmax& state, float* mixture, size_t size);

// Binary16 bits, nearest even.
void store_f16(const float* x, size_t count, uint16_t* out);
void load_f16(const uint16_t* x, size_t count, float* out);

}  // namespace fewbit
