#include "fewbit/runtime/cached_attention.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/runtime/attention_kernels.h"

namespace fewbit {
namespace {

// Rows of a task: queries of one sequence times the heads that share a key head. Enough to use each
// key many times, few enough for scores and mixtures to stay in the first-level cache.
constexpr size_t kTaskRows = 32;
// Most heads that may share a key head.
constexpr size_t kMaxGroup = 128;
// Keys of a task; longer sequences are split so that one token's attention can use many threads.
constexpr size_t kSpanKeys = 1024;
// Rows from which it pays to widen a tile of f16 once, rather than whenever it is read.
constexpr size_t kWidenRows = 12;
// Multiply-adds below which starting other threads costs more than they save.
constexpr size_t kSerialWork = size_t{1} << 18;

// Queries [first_row, first_row + rows) of a run under one key head, against the keys
// [first_key, last_key).
struct Task {
  const AttentionRun* run;
  size_t kv_head, first_row, rows, first_key, last_key;
  size_t partial;  // Where its result goes; kDirect: to the output.
  static constexpr size_t kDirect = SIZE_MAX;
};

// The tasks of one tile of queries, whose results are to be merged.
struct Merge {
  const AttentionRun* run;
  size_t kv_head, first_row, rows;
  size_t first_partial, partials;
};

// Result of a task: for each of its query rows and heads a mixture and its softmax state.
struct Partial {
  std::vector<float> mixture;
  std::vector<RunningSoftmax> states;
};

size_t first_visible(size_t position, size_t window) {
  return window > 0 && position + 1 > window ? position + 1 - window : 0;
}

template <class T>
void attend_tiles(const Task& task, const CachedAttentionOptions& options, const T* keys,
                  const T* values, float* mixture, std::span<RunningSoftmax> states) {
  const LayerCache& layer = *task.run->layer;
  const size_t size = layer.head_size, group = options.heads / layer.kv_heads;
  const size_t rows = task.rows * group;
  float scores[kMaxGroup][kCacheTile];
  const float* query_rows[kMaxGroup];
  float *score_rows[kMaxGroup], *mixture_rows[kMaxGroup];
  for (size_t r = 0; r < rows; ++r) {
    const size_t head = task.kv_head * group + r % group;
    query_rows[r] = task.run->queries.row(task.first_row + r / group).data() + head * size;
    score_rows[r] = scores[r];
    mixture_rows[r] = mixture + r * size;
  }
  const size_t position = task.run->first + task.first_row;
  std::vector<float> wide(rows >= kWidenRows ? layer.tile_elements() : 0);
  for (size_t tile = task.first_key / kCacheTile; tile * kCacheTile < task.last_key; ++tile) {
    const size_t start = tile * kCacheTile;
    const size_t first = std::max(task.first_key, start) - start;
    const size_t last = std::min(task.last_key - start, kCacheTile);
    const size_t offset = layer.tile_of(start) * layer.tile_elements();
    const bool widen = std::is_same_v<T, uint16_t> && rows >= kWidenRows;
    const auto multiply = [&](const PanelProduct& product, const T* tile_values) {
      if constexpr (std::is_same_v<T, uint16_t>) {
        if (widen) {
          load_f16(tile_values, layer.tile_elements(), wide.data());
          return panel_product(product, wide.data());
        }
      }
      panel_product(product, tile_values);
    };
    multiply({query_rows, score_rows, rows, 0, size, kCacheTile, false}, keys + offset);
    for (size_t r = 0; r < rows; ++r) {
      const size_t at = position + r / group;
      const size_t row_first = std::max(first_visible(at, options.window), start + first) - start;
      const size_t row_last = std::min(at + 1, start + last);
      running_softmax(scores[r], row_first, row_last > start ? row_last - start : 0, options.scale,
                      options.softcap, states[r], mixture_rows[r], size);
    }
    multiply({score_rows, mixture_rows, rows, first, last, size, true}, values + offset);
  }
}

void attend(const Task& task, const CachedAttentionOptions& options, float* mixture,
            std::span<RunningSoftmax> states) {
  const LayerCache& layer = *task.run->layer;
  const size_t head_offset = task.kv_head * layer.tiles * layer.tile_elements();
  if (layer.type == CacheType::f32) {
    attend_tiles(task, options, reinterpret_cast<const float*>(layer.keys) + head_offset,
                 reinterpret_cast<const float*>(layer.values) + head_offset, mixture, states);
  } else {
    attend_tiles(task, options, reinterpret_cast<const uint16_t*>(layer.keys) + head_offset,
                 reinterpret_cast<const uint16_t*>(layer.values) + head_offset, mixture, states);
  }
}

// Divides by the sums of the softmax and writes to the output.
void write_out(const AttentionRun& run, size_t kv_head, size_t first_row, size_t group, size_t size,
               const float* mixture, std::span<const RunningSoftmax> states) {
  for (size_t r = 0; r < states.size(); ++r) {
    float* out = run.out.row(first_row + r / group).data() + (kv_head * group + r % group) * size;
    const float factor = 1.0f / states[r].sum;
    for (size_t i = 0; i < size; ++i) out[i] = mixture[r * size + i] * factor;
  }
}

void merge(const Merge& tile, size_t group, size_t size, std::span<const Partial> partials) {
  const std::span<const Partial> parts = partials.subspan(tile.first_partial, tile.partials);
  const size_t rows = tile.rows * group;
  std::vector<float> mixture(rows * size);
  std::vector<RunningSoftmax> states(rows);
  for (size_t r = 0; r < rows; ++r) {
    float largest = -std::numeric_limits<float>::infinity();
    for (const Partial& part : parts) {
      if (part.states[r].sum > 0) largest = std::max(largest, part.states[r].largest);
    }
    states[r] = {largest, 0};
    for (const Partial& part : parts) {
      if (part.states[r].sum == 0) continue;
      const float factor = std::exp(part.states[r].largest - largest);
      states[r].sum += factor * part.states[r].sum;
      for (size_t i = 0; i < size; ++i)
        mixture[r * size + i] += factor * part.mixture[r * size + i];
    }
  }
  write_out(*tile.run, tile.kv_head, tile.first_row, group, size, mixture.data(), states);
}

template <class T>
void append_head(const LayerCache& layer, size_t head, size_t first, MatrixView<const float> keys,
                 MatrixView<const float> values) {
  const size_t size = layer.head_size;
  const size_t head_offset = head * layer.tiles * layer.tile_elements();
  for (size_t r = 0; r < keys.rows(); ++r) {
    const size_t position = first + r, slot = position % kCacheTile;
    const size_t offset = head_offset + layer.tile_of(position) * layer.tile_elements();
    T* key_tile = reinterpret_cast<T*>(layer.keys) + offset;
    T* value_row = reinterpret_cast<T*>(layer.values) + offset + slot * size;
    // Scores of a whole tile are computed, whatever is in it: let that be numbers.
    if (slot == 0) std::fill_n(key_tile, layer.tile_elements(), T{0});
    const float *key = keys.row(r).data() + head * size,
                *value = values.row(r).data() + head * size;
    if constexpr (sizeof(T) == sizeof(float)) {
      for (size_t i = 0; i < size; ++i) key_tile[i * kCacheTile + slot] = key[i];
      std::copy_n(value, size, value_row);
    } else {
      constexpr size_t kPiece = 64;
      T rounded[kPiece];
      for (size_t i = 0; i < size; i += kPiece) {
        const size_t count = std::min(kPiece, size - i);
        store_f16(key + i, count, rounded);
        for (size_t j = 0; j < count; ++j) key_tile[(i + j) * kCacheTile + slot] = rounded[j];
      }
      store_f16(value, size, value_row);
    }
  }
}

}  // namespace

void append_to_cache(const LayerCache& layer, size_t first, MatrixView<const float> keys,
                     MatrixView<const float> values) {
  const auto append = [&](size_t head) {
    if (layer.type == CacheType::f32) {
      append_head<float>(layer, head, first, keys, values);
    } else {
      append_head<uint16_t>(layer, head, first, keys, values);
    }
  };
  if (keys.size() < kSerialWork / kCacheTile) {
    for (size_t head = 0; head < layer.kv_heads; ++head) append(head);
  } else {
    parallel_for(layer.kv_heads, append);
  }
}

void attend_cached(std::span<const AttentionRun> runs, const CachedAttentionOptions& options) {
  std::vector<Task> tasks;
  std::vector<Merge> merges;
  size_t partial_count = 0, work = 0;
  for (const AttentionRun& run : runs) {
    const LayerCache& layer = *run.layer;
    const size_t group = options.heads / layer.kv_heads;
    require(group > 0 && group <= kMaxGroup, "{} heads for {} key heads are not supported",
            options.heads, layer.kv_heads);
    const size_t tile_rows = std::max<size_t>(1, kTaskRows / group);
    for (size_t row = 0; row < run.queries.rows(); row += tile_rows) {
      const size_t rows = std::min(tile_rows, run.queries.rows() - row);
      const size_t first = first_visible(run.first + row, options.window);
      const size_t last = run.first + row + rows;
      const size_t spans = (last - 1) / kSpanKeys - first / kSpanKeys + 1;
      work += (last - first) * rows * options.heads * layer.head_size;
      for (size_t head = 0; head < layer.kv_heads; ++head) {
        if (spans > 1) merges.push_back({&run, head, row, rows, partial_count, spans});
        for (size_t s = 0; s < spans; ++s) {
          const size_t start = (first / kSpanKeys + s) * kSpanKeys;
          tasks.push_back({&run, head, row, rows, std::max(first, start),
                           std::min(last, start + kSpanKeys),
                           spans > 1 ? partial_count++ : Task::kDirect});
        }
      }
    }
  }
  std::vector<Partial> partials(partial_count);
  const auto run_task = [&](size_t index) {
    const Task& task = tasks[index];
    const LayerCache& layer = *task.run->layer;
    const size_t group = options.heads / layer.kv_heads, rows = task.rows * group;
    Partial local;
    Partial& result = task.partial == Task::kDirect ? local : partials[task.partial];
    result.mixture.assign(rows * layer.head_size, 0.0f);
    result.states.assign(rows, {});
    attend(task, options, result.mixture.data(), result.states);
    if (task.partial == Task::kDirect) {
      write_out(*task.run, task.kv_head, task.first_row, group, layer.head_size,
                result.mixture.data(), result.states);
    }
  };
  const auto run_merge = [&](size_t index) {
    const LayerCache& layer = *merges[index].run->layer;
    merge(merges[index], options.heads / layer.kv_heads, layer.head_size, partials);
  };
  if (work < kSerialWork) {
    for (size_t i = 0; i < tasks.size(); ++i) run_task(i);
    for (size_t i = 0; i < merges.size(); ++i) run_merge(i);
    return;
  }
  parallel_for(tasks.size(), run_task);
  parallel_for(merges.size(), run_merge);
}

}  // namespace fewbit
