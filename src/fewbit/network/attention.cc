#include "fewbit/network/attention.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "fewbit/base/threads.h"
#include "fewbit/network/gemm.h"
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

// Rows of one head as a factor of products: floats where they stand, bf16 as a dense copy.
template <class T>
struct HeadRows {
  const T* data;
  size_t stride;
  const T* row(size_t index) const { return data + index * stride; }
};

struct HeadSlice {
  const float* data;
  size_t rows, cols, stride;
};

HeadRows<float> factor(const HeadSlice& slice, std::vector<float>&) {
  return {slice.data, slice.stride};
}
HeadRows<Bf16> factor(const HeadSlice& slice, std::vector<Bf16>& buffer) {
  Bf16* out = scratch(buffer, slice.rows * slice.cols);
  kernels::pack_bf16(slice.data, slice.rows, slice.cols, slice.stride, out);
  return {out, slice.cols};
}

// A tile's queries and the keys that any of them sees.
struct Tile {
  size_t query, rows;  // First query, number of queries.
  size_t key, cols;    // First key, number of keys.
  kernels::ScoreTile score;
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

// Where things of one (sequence, head) stand in the dense tensors.
struct Layout {
  size_t head_size, q_stride, k_stride;
  const AttentionShape& shape;
  explicit Layout(const AttentionShape& s)
      : head_size(s.head_size),
        q_stride(s.heads * s.head_size),
        k_stride(s.kv_heads * s.head_size),
        shape(s) {}
  size_t q_offset(size_t batch, size_t head) const {
    return batch * shape.length * q_stride + head * head_size;
  }
  size_t k_offset(size_t batch, size_t head) const {
    return batch * shape.keys * k_stride + head * head_size;
  }
  HeadSlice queries(const float* q, size_t batch, size_t head) const {
    return {q + q_offset(batch, head), shape.length, head_size, q_stride};
  }
  HeadSlice keys(const float* k, size_t batch, size_t head) const {
    return {k + k_offset(batch, head), shape.keys, head_size, k_stride};
  }
};

template <class T>
struct Buffers {
  std::vector<T> q, k, v, dout, weights, dproducts;
  std::vector<float> products, dweights;
};

template <class T>
Buffers<T>& thread_buffers() {
  thread_local Buffers<T> buffers;
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

template <class T>
void forward_heads(const AttentionShape& shape, const ops::AttentionOptions& options, size_t batch,
                   size_t kv_head, const float* q, const float* k, const float* v, float* out,
                   float* log_sums) {
  Buffers<T>& own = thread_buffers<T>();
  const Layout layout(shape);
  const HeadRows<T> keys = factor(layout.keys(k, batch, kv_head), own.k);
  const HeadRows<T> values = factor(layout.keys(v, batch, kv_head), own.v);
  const size_t group = shape.heads / shape.kv_heads;
  for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const HeadRows<T> queries = factor(layout.queries(q, batch, head), own.q);
    for (size_t query = 0; query < shape.length; query += kTileRows) {
      const Tile tile = tile_at(shape, options, query);
      const size_t elements = tile.rows * tile.score.stride;
      float* products = scratch(own.products, elements);
      head_product(tile, shape.head_size, queries, keys, products);
      T* weights;
      if constexpr (std::is_same_v<T, float>) {
        weights = products;
      } else {
        weights = scratch(own.weights, elements);
      }
      float inverse_sums[kTileRows], tile_log_sums[kTileRows];
      kernels::softmax_tile(tile.score, products, weights, inverse_sums, tile_log_sums);
      float* rows = out + layout.q_offset(batch, head) + query * layout.q_stride;
      gemm({.m = tile.rows,
            .n = shape.head_size,
            .k = tile.cols,
            .stride_a = tile.score.stride,
            .stride_b = values.stride,
            .stride_c = layout.q_stride},
           weights, values.row(tile.key), rows);
      kernels::scale_rows(rows, inverse_sums, tile.rows, shape.head_size, layout.q_stride);
      if (log_sums) {
        std::copy_n(tile_log_sums, tile.rows,
                    log_sums + (batch * shape.heads + head) * shape.length + query);
      }
    }
  }
}

template <class T>
void backward_heads(const AttentionShape& shape, const ops::AttentionOptions& options, size_t batch,
                    size_t kv_head, const float* q, const float* k, const float* v,
                    const float* out, const float* log_sums, const float* dout, float* dq,
                    float* dk, float* dv) {
  Buffers<T>& own = thread_buffers<T>();
  const Layout layout(shape);
  const size_t head_size = shape.head_size;
  const HeadRows<T> keys = factor(layout.keys(k, batch, kv_head), own.k);
  const HeadRows<T> values = factor(layout.keys(v, batch, kv_head), own.v);
  const size_t group = shape.heads / shape.kv_heads;
  for (size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    const HeadRows<T> queries = factor(layout.queries(q, batch, head), own.q);
    const HeadRows<T> douts = factor(layout.queries(dout, batch, head), own.dout);
    for (size_t query = 0; query < shape.length; query += kTileRows) {
      const Tile tile = tile_at(shape, options, query);
      const size_t elements = tile.rows * tile.score.stride;
      float* products = scratch(own.products, elements);
      float* dweights = scratch(own.dweights, elements);
      head_product(tile, head_size, queries, keys, products);
      head_product(tile, head_size, douts, values, dweights);
      const size_t rows_at = layout.q_offset(batch, head) + query * layout.q_stride;
      float delta[kTileRows];
      kernels::row_dots(dout + rows_at, out + rows_at, tile.rows, head_size, layout.q_stride,
                        delta);
      T *weights, *dproducts;
      if constexpr (std::is_same_v<T, float>) {
        weights = products;
        dproducts = dweights;
      } else {
        weights = scratch(own.weights, elements);
        dproducts = scratch(own.dproducts, elements);
      }
      kernels::softmax_tile_backward(tile.score, products, dweights,
                                     log_sums + (batch * shape.heads + head) * shape.length + query,
                                     delta, weights, dproducts);
      const size_t keys_at = layout.k_offset(batch, kv_head) + tile.key * layout.k_stride;
      GemmShape to_keys{.m = tile.cols,
                        .n = head_size,
                        .k = tile.rows,
                        .transpose_a = true,
                        .stride_a = tile.score.stride,
                        .stride_b = douts.stride,
                        .stride_c = layout.k_stride,
                        .accumulate = true};
      gemm(to_keys, weights, douts.row(query), dv + keys_at);
      to_keys.stride_b = queries.stride;
      gemm(to_keys, dproducts, queries.row(query), dk + keys_at);
      gemm({.m = tile.rows,
            .n = head_size,
            .k = tile.cols,
            .stride_a = tile.score.stride,
            .stride_b = keys.stride,
            .stride_c = layout.q_stride},
           dproducts, keys.row(tile.key), dq + rows_at);
    }
  }
}

}  // namespace

void attention(const AttentionShape& shape, const ops::AttentionOptions& options,
               ops::MatmulDtype dtype, const float* q, const float* k, const float* v, float* out,
               float* log_sums) {
  parallel_for(shape.batch * shape.kv_heads, [&](size_t index) {
    const auto body =
        dtype == ops::MatmulDtype::bf16 ? &forward_heads<Bf16> : &forward_heads<float>;
    body(shape, options, index / shape.kv_heads, index % shape.kv_heads, q, k, v, out, log_sums);
  });
}

void attention_backward(const AttentionShape& shape, const ops::AttentionOptions& options,
                        ops::MatmulDtype dtype, const float* q, const float* k, const float* v,
                        const float* out, const float* log_sums, const float* dout, float* dq,
                        float* dk, float* dv) {
  parallel_for(shape.batch * shape.kv_heads, [&](size_t index) {
    const auto body =
        dtype == ops::MatmulDtype::bf16 ? &backward_heads<Bf16> : &backward_heads<float>;
    body(shape, options, index / shape.kv_heads, index % shape.kv_heads, q, k, v, out, log_sums,
         dout, dq, dk, dv);
  });
}

}  // namespace fewbit
