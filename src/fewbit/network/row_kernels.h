// Vectorized kernels over rows of float32, one thread each: the parts of a decoder that are not
// matrix products. Highway chooses the instruction set at run time. All matrices are row-major and
// dense unless a stride is given; outputs may be inputs only where it says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "fewbit/model/model_spec.h"
#include "fewbit/network/gemm.h"

namespace fewbit::kernels {

// Round to nearest, ties to even.
void to_bf16(const float* x, size_t count, Bf16* out);
// `rows` rows of `cols` floats, `stride` apart, to dense rows.
void pack_bf16(const float* x, size_t rows, size_t cols, size_t stride, Bf16* out);

// The weight of an RMSNorm: `plus_one` stands for 1 + weight.
struct RmsWeight {
  const float* weight = nullptr;
  bool plus_one = false;
  float epsilon = 0;
};
// y = x * inverse * w, inverse[row] = rsqrt(mean(x^2) + epsilon).
void rms_norm(const float* x, const RmsWeight& weight, size_t rows, size_t cols, float* y,
              float* inverse);
void rms_norm(const float* x, const RmsWeight& weight, size_t rows, size_t cols, Bf16* y,
              float* inverse);
// The same of sum = x + addend, which is written too and may be either of them.
void add_rms_norm(const float* x, const float* addend, const RmsWeight& weight, size_t rows,
                  size_t cols, float* sum, float* y, float* inverse);
void add_rms_norm(const float* x, const float* addend, const RmsWeight& weight, size_t rows,
                  size_t cols, float* sum, Bf16* y, float* inverse);
// dx = residual + gradient (`residual` may be null, or dx), and dweight += sum over rows.
void rms_norm_backward(const float* x, const RmsWeight& weight, const float* inverse,
                       const float* dy, const float* residual, size_t rows, size_t cols, float* dx,
                       float* dweight);
// out = x + y; may be either.
void add(const float* x, const float* y, size_t count, float* out);

// `bias` may be null. mean and inverse: [rows].
void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, size_t rows,
                size_t cols, float* y, float* mean, float* inverse);
// dx; dweight and dbias += sums over rows.
void layer_norm_backward(const float* x, const float* weight, const float* mean,
                         const float* inverse, const float* dy, size_t rows, size_t cols, float* dx,
                         float* dweight, float* dbias);

// Rotates pairs (i, i + half) of each of the row's heads by the row's angles; the rest of a head is
// copied. x [rows, heads, head_size], cosine and sine [half] of this row's position.
// `direction` -1 is the inverse, which is also the gradient. `out` may be `x`.
void rotate(const float* x, const float* cosine, const float* sine, float direction, size_t heads,
            size_t head_size, size_t half, float* out);
void rotate(const Bf16* x, const float* cosine, const float* sine, float direction, size_t heads,
            size_t head_size, size_t half, Bf16* out);

void activate(Activation activation, const float* x, size_t count, float* y);
void activate_backward(Activation activation, const float* x, const float* dy, size_t count,
                       float* dx);
// y = f(gate) * up.
void gated(Activation activation, const float* gate, const float* up, size_t count, float* y);
void gated(Activation activation, const Bf16* gate, const Bf16* up, size_t count, Bf16* y);
void gated_backward(Activation activation, const float* gate, const float* up, const float* dy,
                    size_t count, float* dgate, float* dup);
void gated_backward(Activation activation, const Bf16* gate, const Bf16* up, const Bf16* dy,
                    size_t count, Bf16* dgate, Bf16* dup);

// Sum over rows, in their order: out[col] += sum x[row, col].
void add_column_sums(const float* x, size_t rows, size_t cols, float* out);

// Rows of a tile are padded to this many floats, so that kernels need no remainder loops.
inline constexpr size_t kTileAlignment = 16;

// What a tile of attention scores needs to know. Row r of the tile may look at columns
// [first(r), last(r)): last = first_last + r, first = max(0, last - window) where a window is set.
// A score is s = scale * product, or softcap * tanh(scale * product / softcap).
struct ScoreTile {
  size_t rows = 0, cols = 0;
  size_t stride = 0;      // cols rounded up to kTileAlignment; for every matrix of the tile.
  size_t first_last = 0;  // Columns that row 0 sees end here.
  size_t window = 0;      // 0: none.
  float scale = 1;        // > 0
  float softcap = 0;      // 0: none.
};
// exp(s - max s) over the visible columns, zero elsewhere, from `products` (`out` may be the same);
// inverse_sums[r] = 1 / sum, log_sums[r] = log sum exp s.
void softmax_tile(const ScoreTile& tile, const float* products, float* out, float* inverse_sums,
                  float* log_sums);
void softmax_tile(const ScoreTile& tile, const float* products, Bf16* out, float* inverse_sums,
                  float* log_sums);
// From products and d loss / d weights: weights = exp(s - log_sum) and d loss / d products;
// mean_dweights[r] = sum of weights * dweights. Outputs may be the inputs, in the float form.
void softmax_tile_backward(const ScoreTile& tile, const float* products, const float* dweights,
                           const float* log_sums, const float* mean_dweights, float* weights,
                           float* dproducts);
void softmax_tile_backward(const ScoreTile& tile, const float* products, const float* dweights,
                           const float* log_sums, const float* mean_dweights, Bf16* weights,
                           Bf16* dproducts);
// out[row] = sum a[row, :] b[row, :], rows `stride` apart.
void row_dots(const float* a, const float* b, size_t rows, size_t cols, size_t stride_a,
              size_t stride_b, float* out);
void row_dots(const Bf16* a, const Bf16* b, size_t rows, size_t cols, size_t stride_a,
              size_t stride_b, float* out);
// Dense rows [rows, cols] to rows `stride` apart, each times its factor (`factors` may be null).
void store_rows(const float* x, const float* factors, size_t rows, size_t cols, size_t stride,
                float* out);
void store_rows(const float* x, const float* factors, size_t rows, size_t cols, size_t stride,
                Bf16* out);

// Sum of the cross entropies of a panel of logits [rows, vocab]; rows of negative targets count
// nothing. `logits` is overwritten.
double cross_entropy(float* logits, const int64_t* targets, size_t rows, size_t vocab);
// The same, and softmax - onehot (zero for negative targets) into `gradient`; may be `logits`.
double cross_entropy_gradient(float* logits, const int64_t* targets, size_t rows, size_t vocab,
                              float* gradient);
double cross_entropy_gradient(float* logits, const int64_t* targets, size_t rows, size_t vocab,
                              Bf16* gradient);

}  // namespace fewbit::kernels
