// Causal attention of new tokens against a KvCache: the softmax of scores is made on the way
// (Milakov and Gimelshein, 2018, "Online normalizer calculation for softmax"), a tile of keys at a
// time, so that no row of scores as long as the sequence exists.
//
//   score = scale * q . k, or softcap * tanh(score / softcap); key j is visible from query i iff
//   j <= i and, where there is a window, i - j < window
//
// What comes out for a row depends on that row and its keys only, bit for bit: not on the number
// of threads nor on which rows are computed beside it.
#pragma once

#include <cstddef>
#include <span>

#include "fewbit/base/matrix.h"
#include "fewbit/runtime/kv_cache.h"

namespace fewbit {

// Stores the keys and values [rows, kv_heads * head_size] of positions first, first + 1, ...
void append_to_cache(const LayerCache& layer, size_t first, MatrixView<const float> keys,
                     MatrixView<const float> values);

struct CachedAttentionOptions {
  size_t heads = 0;  // A multiple of the cache's kv_heads; head h reads h / (heads / kv_heads).
  float scale = 1;
  float softcap = 0;  // 0: none.
  size_t window = 0;  // 0: none.
};

// Queries of one sequence: row r stands at position first + r, whose key is in the cache already.
struct AttentionRun {
  const LayerCache* layer = nullptr;
  size_t first = 0;
  MatrixView<const float> queries;  // [rows, heads * head_size]
  MatrixView<float> out;            // The same shape; may be `queries`.
};

// All runs, in parallel.
void attend_cached(std::span<const AttentionRun> runs, const CachedAttentionOptions& options);

}  // namespace fewbit
