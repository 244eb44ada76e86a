#include "fewbit/network/row_kernels.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/network/row_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "fewbit/kernels/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit::kernels::HWY_NAMESPACE {

void ToBf16(const float* x, size_t count, Bf16* out) {
  for_vectors(count, [&](auto d, size_t i) { store_bf16(d, hn::LoadU(d, x + i), out + i); });
}

void PackBf16(const float* x, size_t rows, size_t cols, size_t stride, Bf16* out) {
  for (size_t row = 0; row < rows; ++row) ToBf16(x + row * stride, cols, out + row * cols);
}

// kAdd: x + addend takes the place of x and is stored in `sum`.
template <bool kAdd, class Out>
void rms_norm_rows(const float* x, const float* addend, const RmsWeight& weight, size_t rows,
                   size_t cols, float* sum, Out* y, float* inverse) {
  const float offset = weight.plus_one ? 1.0f : 0.0f;
  for (size_t row = 0; row < rows; ++row, x += cols, y += cols) {
    const float squares = sum_vectors(cols, [&](auto d, size_t i) {
      auto v = hn::LoadU(d, x + i);
      if constexpr (kAdd) {
        v = hn::Add(v, hn::LoadU(d, addend + i));
        hn::StoreU(v, d, sum + i);
      }
      return hn::Mul(v, v);
    });
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(cols) + weight.epsilon);
    inverse[row] = scale;
    const float* in = kAdd ? sum : x;
    for_vectors(cols, [&](auto d, size_t i) {
      const auto w = hn::Add(hn::LoadU(d, weight.weight + i), hn::Set(d, offset));
      store(d, hn::Mul(hn::Mul(hn::LoadU(d, in + i), hn::Set(d, scale)), w), y + i);
    });
    if constexpr (kAdd) {
      addend += cols;
      sum += cols;
    }
  }
}

void RmsNormF32(const float* x, const RmsWeight& weight, size_t rows, size_t cols, float* y,
                float* inverse) {
  rms_norm_rows<false>(x, nullptr, weight, rows, cols, nullptr, y, inverse);
}
void RmsNormBf16(const float* x, const RmsWeight& weight, size_t rows, size_t cols, Bf16* y,
                 float* inverse) {
  rms_norm_rows<false>(x, nullptr, weight, rows, cols, nullptr, y, inverse);
}
void AddRmsNormF32(const float* x, const float* addend, const RmsWeight& weight, size_t rows,
                   size_t cols, float* sum, float* y, float* inverse) {
  rms_norm_rows<true>(x, addend, weight, rows, cols, sum, y, inverse);
}
void AddRmsNormBf16(const float* x, const float* addend, const RmsWeight& weight, size_t rows,
                    size_t cols, float* sum, Bf16* y, float* inverse) {
  rms_norm_rows<true>(x, addend, weight, rows, cols, sum, y, inverse);
}

void RmsNormBackward(const float* x, const RmsWeight& weight, const float* inverse, const float* dy,
                     const float* residual, size_t rows, size_t cols, float* dx, float* dweight) {
  const float offset = weight.plus_one ? 1.0f : 0.0f;
  for (size_t row = 0; row < rows; ++row, x += cols, dy += cols, dx += cols) {
    const float scale = inverse[row];
    // Through y = x s w: dx = s w dy - x s^3 mean(x w dy).
    const float dot = sum_vectors(cols, [&](auto d, size_t i) {
      const auto w = hn::Add(hn::LoadU(d, weight.weight + i), hn::Set(d, offset));
      return hn::Mul(hn::Mul(hn::LoadU(d, x + i), w), hn::LoadU(d, dy + i));
    });
    const float pull = dot * scale * scale * scale / static_cast<float>(cols);
    for_vectors(cols, [&](auto d, size_t i) {
      const auto w = hn::Add(hn::LoadU(d, weight.weight + i), hn::Set(d, offset));
      const auto value = hn::LoadU(d, x + i);
      const auto scaled = hn::Mul(hn::LoadU(d, dy + i), hn::Set(d, scale));
      const auto before = residual ? hn::LoadU(d, residual + i) : hn::Zero(d);
      const auto kept = hn::MulAdd(scaled, w, before);
      hn::StoreU(hn::NegMulAdd(value, hn::Set(d, pull), kept), d, dx + i);
      hn::StoreU(hn::MulAdd(scaled, value, hn::LoadU(d, dweight + i)), d, dweight + i);
    });
    if (residual) residual += cols;
  }
}

void Add(const float* x, const float* y, size_t count, float* out) {
  for_vectors(count, [&](auto d, size_t i) {
    hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, y + i)), d, out + i);
  });
}

void LayerNorm(const float* x, const float* weight, const float* bias, float epsilon, size_t rows,
               size_t cols, float* y, float* mean, float* inverse) {
  const float count = static_cast<float>(cols);
  for (size_t row = 0; row < rows; ++row, x += cols, y += cols) {
    const float centre =
        sum_vectors(cols, [&](auto d, size_t i) { return hn::LoadU(d, x + i); }) / count;
    const float squares = sum_vectors(cols, [&](auto d, size_t i) {
      const auto v = hn::Sub(hn::LoadU(d, x + i), hn::Set(d, centre));
      return hn::Mul(v, v);
    });
    const float scale = 1.0f / std::sqrt(squares / count + epsilon);
    mean[row] = centre;
    inverse[row] = scale;
    for_vectors(cols, [&](auto d, size_t i) {
      const auto v = hn::Sub(hn::LoadU(d, x + i), hn::Set(d, centre));
      const auto b = bias ? hn::LoadU(d, bias + i) : hn::Zero(d);
      hn::StoreU(hn::MulAdd(hn::Mul(v, hn::Set(d, scale)), hn::LoadU(d, weight + i), b), d, y + i);
    });
  }
}

void LayerNormBackward(const float* x, const float* weight, const float* mean, const float* inverse,
                       const float* dy, size_t rows, size_t cols, float* dx, float* dweight,
                       float* dbias) {
  const float count = static_cast<float>(cols);
  for (size_t row = 0; row < rows; ++row, x += cols, dy += cols, dx += cols) {
    const float centre = mean[row], scale = inverse[row];
    // With h = (x - mean) s and g = w dy: dx = s (g - mean(g) - h mean(g h)).
    const float mean_g =
        sum_vectors(cols,
                    [&](auto d, size_t i) {
                      return hn::Mul(hn::LoadU(d, weight + i), hn::LoadU(d, dy + i));
                    }) /
        count;
    const float mean_gh =
        sum_vectors(cols,
                    [&](auto d, size_t i) {
                      const auto h = hn::Mul(hn::Sub(hn::LoadU(d, x + i), hn::Set(d, centre)),
                                             hn::Set(d, scale));
                      return hn::Mul(hn::Mul(hn::LoadU(d, weight + i), hn::LoadU(d, dy + i)), h);
                    }) /
        count;
    for_vectors(cols, [&](auto d, size_t i) {
      const auto s = hn::Set(d, scale);
      const auto out = hn::LoadU(d, dy + i);
      const auto h = hn::Mul(hn::Sub(hn::LoadU(d, x + i), hn::Set(d, centre)), s);
      const auto g = hn::Mul(hn::LoadU(d, weight + i), out);
      const auto inner = hn::NegMulAdd(h, hn::Set(d, mean_gh), hn::Sub(g, hn::Set(d, mean_g)));
      hn::StoreU(hn::Mul(inner, s), d, dx + i);
      hn::StoreU(hn::MulAdd(out, h, hn::LoadU(d, dweight + i)), d, dweight + i);
      hn::StoreU(hn::Add(out, hn::LoadU(d, dbias + i)), d, dbias + i);
    });
  }
}

template <class T>
void rotate_heads(const T* x, const float* cosine, const float* sine, float direction, size_t heads,
                  size_t head_size, size_t half, T* out) {
  for (size_t head = 0; head < heads; ++head, x += head_size, out += head_size) {
    for_vectors(half, [&](auto d, size_t i) {
      const auto c = hn::LoadU(d, cosine + i);
      const auto s = hn::Mul(hn::LoadU(d, sine + i), hn::Set(d, direction));
      const auto a = load(d, x + i), b = load(d, x + half + i);
      store(d, hn::NegMulAdd(b, s, hn::Mul(a, c)), out + i);
      store(d, hn::MulAdd(a, s, hn::Mul(b, c)), out + half + i);
    });
    if (out != x) std::copy(x + 2 * half, x + head_size, out + 2 * half);
  }
}

void RotateF32(const float* x, const float* cosine, const float* sine, float direction,
               size_t heads, size_t head_size, size_t half, float* out) {
  rotate_heads(x, cosine, sine, direction, heads, head_size, half, out);
}
void RotateBf16(const Bf16* x, const float* cosine, const float* sine, float direction,
                size_t heads, size_t head_size, size_t half, Bf16* out) {
  rotate_heads(x, cosine, sine, direction, heads, head_size, half, out);
}

void AddColumnSums(const float* x, size_t rows, size_t cols, float* out) {
  for (size_t row = 0; row < rows; ++row, x += cols) {
    for_vectors(cols, [&](auto d, size_t i) {
      hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, out + i)), d, out + i);
    });
  }
}

template <class T>
void dot_rows(const T* a, const T* b, size_t rows, size_t cols, size_t stride_a, size_t stride_b,
              float* out) {
  for (size_t row = 0; row < rows; ++row, a += stride_a, b += stride_b) {
    out[row] = sum_vectors(
        cols, [&](auto d, size_t i) { return hn::Mul(load(d, a + i), load(d, b + i)); });
  }
}

void RowDotsF32(const float* a, const float* b, size_t rows, size_t cols, size_t stride_a,
                size_t stride_b, float* out) {
  dot_rows(a, b, rows, cols, stride_a, stride_b, out);
}
void RowDotsBf16(const Bf16* a, const Bf16* b, size_t rows, size_t cols, size_t stride_a,
                 size_t stride_b, float* out) {
  dot_rows(a, b, rows, cols, stride_a, stride_b, out);
}

template <class Out>
void scale_and_store(const float* x, const float* factors, size_t rows, size_t cols, size_t stride,
                     Out* out) {
  for (size_t row = 0; row < rows; ++row, x += cols, out += stride) {
    const float factor = factors ? factors[row] : 1.0f;
    for_vectors(cols, [&](auto d, size_t i) {
      store(d, hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factor)), out + i);
    });
  }
}

void StoreRowsF32(const float* x, const float* factors, size_t rows, size_t cols, size_t stride,
                  float* out) {
  scale_and_store(x, factors, rows, cols, stride, out);
}
void StoreRowsBf16(const float* x, const float* factors, size_t rows, size_t cols, size_t stride,
                   Bf16* out) {
  scale_and_store(x, factors, rows, cols, stride, out);
}

}  // namespace fewbit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit::kernels {

HWY_EXPORT(ToBf16);
HWY_EXPORT(PackBf16);
HWY_EXPORT(RmsNormF32);
HWY_EXPORT(RmsNormBf16);
HWY_EXPORT(AddRmsNormF32);
HWY_EXPORT(AddRmsNormBf16);
HWY_EXPORT(RmsNormBackward);
HWY_EXPORT(Add);
HWY_EXPORT(LayerNorm);
HWY_EXPORT(LayerNormBackward);
HWY_EXPORT(RotateF32);
HWY_EXPORT(RotateBf16);
HWY_EXPORT(AddColumnSums);
HWY_EXPORT(RowDotsF32);
HWY_EXPORT(RowDotsBf16);
HWY_EXPORT(StoreRowsF32);
HWY_EXPORT(StoreRowsBf16);

void to_bf16(const float* x, size_t count, Bf16* out) {
  HWY_DYNAMIC_DISPATCH(ToBf16)(x, count, out);
}

void pack_bf16(const float* x, size_t rows, size_t cols, size_t stride, Bf16* out) {
  HWY_DYNAMIC_DISPATCH(PackBf16)(x, rows, cols, stride, out);
}

void rms_norm(const float* x, const RmsWeight& weight, size_t rows, size_t cols, float* y,
              float* inverse) {
  HWY_DYNAMIC_DISPATCH(RmsNormF32)(x, weight, rows, cols, y, inverse);
}
void rms_norm(const float* x, const RmsWeight& weight, size_t rows, size_t cols, Bf16* y,
              float* inverse) {
  HWY_DYNAMIC_DISPATCH(RmsNormBf16)(x, weight, rows, cols, y, inverse);
}

void add_rms_norm(const float* x, const float* addend, const RmsWeight& weight, size_t rows,
                  size_t cols, float* sum, float* y, float* inverse) {
  HWY_DYNAMIC_DISPATCH(AddRmsNormF32)(x, addend, weight, rows, cols, sum, y, inverse);
}
void add_rms_norm(const float* x, const float* addend, const RmsWeight& weight, size_t rows,
                  size_t cols, float* sum, Bf16* y, float* inverse) {
  HWY_DYNAMIC_DISPATCH(AddRmsNormBf16)(x, addend, weight, rows, cols, sum, y, inverse);
}

void rms_norm_backward(const float* x, const RmsWeight& weight, const float* inverse,
                       const float* dy, const float* residual, size_t rows, size_t cols, float* dx,
                       float* dweight) {
  HWY_DYNAMIC_DISPATCH(RmsNormBackward)
  (x, weight, inverse, dy, residual, rows, cols, dx, dweight);
}

void add(const float* x, const float* y, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(Add)(x, y, count, out);
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, size_t rows,
                size_t cols, float* y, float* mean, float* inverse) {
  HWY_DYNAMIC_DISPATCH(LayerNorm)(x, weight, bias, epsilon, rows, cols, y, mean, inverse);
}

void layer_norm_backward(const float* x, const float* weight, const float* mean,
                         const float* inverse, const float* dy, size_t rows, size_t cols, float* dx,
                         float* dweight, float* dbias) {
  HWY_DYNAMIC_DISPATCH(LayerNormBackward)
  (x, weight, mean, inverse, dy, rows, cols, dx, dweight, dbias);
}

void rotate(const float* x, const float* cosine, const float* sine, float direction, size_t heads,
            size_t head_size, size_t half, float* out) {
  HWY_DYNAMIC_DISPATCH(RotateF32)(x, cosine, sine, direction, heads, head_size, half, out);
}
void rotate(const Bf16* x, const float* cosine, const float* sine, float direction, size_t heads,
            size_t head_size, size_t half, Bf16* out) {
  HWY_DYNAMIC_DISPATCH(RotateBf16)(x, cosine, sine, direction, heads, head_size, half, out);
}

void add_column_sums(const float* x, size_t rows, size_t cols, float* out) {
  HWY_DYNAMIC_DISPATCH(AddColumnSums)(x, rows, cols, out);
}

void row_dots(const float* a, const float* b, size_t rows, size_t cols, size_t stride_a,
              size_t stride_b, float* out) {
  HWY_DYNAMIC_DISPATCH(RowDotsF32)(a, b, rows, cols, stride_a, stride_b, out);
}
void row_dots(const Bf16* a, const Bf16* b, size_t rows, size_t cols, size_t stride_a,
              size_t stride_b, float* out) {
  HWY_DYNAMIC_DISPATCH(RowDotsBf16)(a, b, rows, cols, stride_a, stride_b, out);
}

void store_rows(const float* x, const float* factors, size_t rows, size_t cols, size_t stride,
                float* out) {
  HWY_DYNAMIC_DISPATCH(StoreRowsF32)(x, factors, rows, cols, stride, out);
}
void store_rows(const float* x, const float* factors, size_t rows, size_t cols, size_t stride,
                Bf16* out) {
  HWY_DYNAMIC_DISPATCH(StoreRowsBf16)(x, factors, rows, cols, stride, out);
}

}  // namespace fewbit::kernels
#endif
