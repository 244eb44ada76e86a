#include "fewbit/network/attention.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "fewbit/base/threads.h"
#include "fewbit/network/row_kernels.h"

namespace fewbit {
namespace {

// Queries per tile. Smaller tiles waste less of the triangle above the diagonal, larger ones give
// the products more to do.
constexpr size_t kTileRows = 64;

// Memory of one thread that stays between calls.
template <class T>
T* scratch(std::vector<T>& buffer, size_t count) {
  if (buffer.size() < count) buffer.resize(count);
  return buffer.data();
}

// Rows of one head.
template <class T>
struct HeadRows {
  const T* data;
  size_t stride;
  const T* row(size_t index) const { return data + index * stride; }
};

// A tile's queries and the keys that any of them sees.
struct Tile {
  size_t query, rows;  // First query, number of queries.
  size_t key, cols;    // First key, number of keys.
  kernels::ScoreTile score;
  size_t elements() const { return rows * score.stride; }
};

Tile tile_at(const AttentionShape& shape, const ops::AttentionOptions& options, size_t query) {
  Tile tile;
  tile.query = query;
  tile.rows = std::min(kTileRows, shape.length - query);
  const size_t position = shape.keys - shape.length + query;  // Of the tile's first query.
  const size_t end = position + tile.rows;
  tile.key =
      options.window > 0 && position + 1 > options.window ? position + 1 - options.window : 0;
  tile.cols = end - tile.key;
  tile.score.rows = tile.rows;
  tile.score.cols = tile.cols;
  tile.score.stride =
      (tile.cols + kernels::kTileAlignment - 1) / kernels::kTileAlignment * kernels::kTileAlignment;
  tile.score.first_last = position + 1 - tile.key;
  tile.score.window = options.window;
  tile.score.scale = static_cast<float>(options.scale);
  tile.score.softcap = static_cast<float>(options.softcap.value_or(0));
  return tile;
}

// Where the rows of one (sequence, head) begin in a dense tensor, and how far apart they are.
struct Place {
  size_t offset, stride;
};
Place query_place(const AttentionShape& shape, size_t batch, size_t head) {
  const size_t stride = shape.heads * shape.head_size;
  return {batch * shape.length * stride + head * shape.head_size, stride};
}
Place key_place(const AttentionShape& shape, size_t batch, size_t head) {
  const size_t stride = shape.kv_heads * shape.head_size;
  return {batch * shape.keys * stride + head * shape.head_size, stride};
}

template <class T>
HeadRows<T> rows_at(const T* data, const Place& place) {
  return {data + place.offset, place.stride};
}

template <class Factor>
struct Buffers {
  std::vector<Factor> weights, dproducts, dout;
  std::vector<float> products, dweights, tile_rows, dkeys, dvalues;
};

template <class Factor>
Buffers<Factor>& thread_buffers() {
  thread_local Buffers<Factor> buffers;
  return buffers;
}

// products = A B^T over head_size, A and B rows of a head.
template <class T>
void head_product(const Tile& tile, size_t head_size, const HeadRows<T>& a, const HeadRows<T>& b,
                  float* out) {
  gemm({.m = tile.rows,
        .n = tile.cols,
        .k = head_size,
        .transpose_b = true,
        .stride_a = a.stride,
        .stride_b = b.stride,
        .stride_c = tile.score.stride},
       a.row(tile.query), b.row(tile.key), out);
}

// out [tile rows, head_size] = W B, W the tile's weights.
template <class T>
void weighted_rows(const Tile& tile, size_t head_size, const T* weights, const HeadRows<T>& b,
                   float* out) {
  gemm({.m = tile.rows,
        .n = head_size,
        .k = tile.cols,
        .stride_a = tile.score.stride,
        .stride_b = b.stride,
        .stride_c = head_size},
       weights, b.row(tile.key), out);
}

// out [keys, head_size] += W^T A.
template <class T>
void add_to_keys(const Tile& tile, size_t head_size, const T* weights, const HeadRows<T>& a,
                 float* out) {
  gemm({.m = tile.cols,
        .n = head_size,
        .k = tile.rows,
        .transpose_a = true,
        .stride_a = tile.score.stride,
        .stride_b = a.stride,
        .stride_c = head_size,
        .accumulate = true},
       weights, a.row(tile.query), out + tile.key * head_size);
}

// Gradients of a head's rows, first taken back through the rotation, to their place.
template <class Value>
void store_gradient(float* rows, size_t first, size_t count, size_t head_size,
                    const RotaryAngles* rotary, const Place& place, Value* out) {
  for (size_t i = 0; rotary && i < count; ++i) {
    float* row = rows + i * head_size;
    const size_t angles = (first + i) * rotary->half;
    kernels::rotate(row, rotary->cosine + angles, rotary->sine + angles, -1.0f, 1, head_size,
                    rotary->half, row);
  }
  kernels::store_rows(rows, nullptr, count, head_size, place.stride,
                      out + place.offset + first * place.stride);
}

}  // namespace

template <class Factor, class Value>
void attention(const AttentionShape& shape, const ops::AttentionOptions& options, const Factor* q,
               const Factor* k, const Factor* v, Value* out, float* log_sums) {
  const size_t group = shape.heads / shape.kv_heads;
  parallel_for(shape.batch * shape.kv_heads, [&](size_t index) {
    const size_t batch = index / shape.kv_heads, kv_head = index % shape.kv_heads;
    Buffers<Factor>& own = thread_buffers<Factor>();
    const auto keys = rows_at(k, key_place(shape, batch, kv_head));
    const auto values = rows_at(v, key_place(shape, batch, kv_head));
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const Place place = query_place(shape, batch, head);
      for (size_t query = 0; query < shape.length; query += kTileRows) {
        const Tile tile = tile_at(shape, options, query);
        float* products = scratch(own.products, tile.elements());
        head_product(tile, shape.head_size, rows_at(q, place), keys, products);
        Factor* weights;
        if constexpr (std::is_same_v<Factor, float>) {
          weights = products;
        } else {
          weights = scratch(own.weights, tile.elements());
        }
        float inverse_sums[kTileRows], tile_log_sums[kTileRows];
        kernels::softmax_tile(tile.score, products, weights, inverse_sums, tile_log_sums);
        float* rows = scratch(own.tile_rows, kTileRows * shape.head_size);
        weighted_rows(tile, shape.head_size, weights, values, rows);
        kernels::store_rows(rows, inverse_sums, tile.rows, shape.head_size, place.stride,
                            out + place.offset + query * place.stride);
        if (log_sums) {
          std::copy_n(tile_log_sums, tile.rows,
                      log_sums + (batch * shape.heads + head) * shape.length + query);
        }
      }
    }
  });
}

template <class Factor, class Value>
void attention_backward(const AttentionShape& shape, const ops::AttentionOptions& options,
                        const Factor* q, const Factor* k, const Factor* v, const Value* out,
                        const float* log_sums, const Value* dout, const RotaryAngles* rotary,
                        Value* dq, Value* dk, Value* dv) {
  const size_t group = shape.heads / shape.kv_heads, head_size = shape.head_size;
  parallel_for(shape.batch * shape.kv_heads, [&](size_t index) {
    const size_t batch = index / shape.kv_heads, kv_head = index % shape.kv_heads;
    Buffers<Factor>& own = thread_buffers<Factor>();
    const Place key_rows = key_place(shape, batch, kv_head);
    const auto keys = rows_at(k, key_rows), values = rows_at(v, key_rows);
    float* dkeys = scratch(own.dkeys, shape.keys * head_size);
    float* dvalues = scratch(own.dvalues, shape.keys * head_size);
    std::fill_n(dkeys, shape.keys * head_size, 0.0f);
    std::fill_n(dvalues, shape.keys * head_size, 0.0f);
    for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const Place place = query_place(shape, batch, head);
      const auto queries = rows_at(q, place);
      HeadRows<Factor> douts;
      if constexpr (std::is_same_v<Factor, Value>) {
        douts = rows_at(dout, place);
      } else {
        Factor* packed = scratch(own.dout, shape.length * head_size);
        kernels::pack_bf16(dout + place.offset, shape.length, head_size, place.stride, packed);
        douts = {packed, head_size};
      }
      for (size_t query = 0; query < shape.length; query += kTileRows) {
        const Tile tile = tile_at(shape, options, query);
        float* products = scratch(own.products, tile.elements());
        float* dweights = scratch(own.dweights, tile.elements());
        head_product(tile, head_size, queries, keys, products);
        head_product(tile, head_size, douts, values, dweights);
        const size_t at = place.offset + query * place.stride;
        float delta[kTileRows];
        kernels::row_dots(dout + at, out + at, tile.rows, head_size, place.stride, place.stride,
                          delta);
        Factor *weights, *dproducts;
        if constexpr (std::is_same_v<Factor, float>) {
          weights = products;
          dproducts = dweights;
        } else {
          weights = scratch(own.weights, tile.elements());
          dproducts = scratch(own.dproducts, tile.elements());
        }
        kernels::softmax_tile_backward(
            tile.score, products, dweights,
            log_sums + (batch * shape.heads + head) * shape.length + query, delta, weights,
            dproducts);
        add_to_keys(tile, head_size, weights, douts, dvalues);
        add_to_keys(tile, head_size, dproducts, queries, dkeys);
        float* rows = scratch(own.tile_rows, kTileRows * head_size);
        weighted_rows(tile, head_size, dproducts, keys, rows);
        store_gradient(rows, query, tile.rows, head_size, rotary, place, dq);
      }
    }
    store_gradient(dkeys, 0, shape.keys, head_size, rotary, key_rows, dk);
    store_gradient(dvalues, 0, shape.keys, head_size, nullptr, key_rows, dv);
  });
}

template void attention(const AttentionShape&, const ops::AttentionOptions&, const float*,
                        const float*, const float*, float*, float*);
template void attention(const AttentionShape&, const ops::AttentionOptions&, const Bf16*,
                        const Bf16*, const Bf16*, float*, float*);
template void attention(const AttentionShape&, const ops::AttentionOptions&, const Bf16*,
                        const Bf16*, const Bf16*, Bf16*, float*);
template void attention_backward(const AttentionShape&, const ops::AttentionOptions&, const float*,
                                 const float*, const float*, const float*, const float*,
                                 const float*, const RotaryAngles*, float*, float*, float*);
template void attention_backward(const AttentionShape&, const ops::AttentionOptions&, const Bf16*,
                                 const Bf16*, const Bf16*, const float*, const float*, const float*,
                                 const RotaryAngles*, float*, float*, float*);
template void attention_backward(const AttentionShape&, const ops::AttentionOptions&, const Bf16*,
                                 const Bf16*, const Bf16*, const Bf16*, const float*, const Bf16*,
                                 const RotaryAngles*, Bf16*, Bf16*, Bf16*);

}  // namespace fewbit
