#include "fewbit/network/row_kernels.h"

#include <algorithm>
#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/network/row_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "fewbit/network/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit::kernels::HWY_NAMESPACE {

void ToBf16(const float* x, size_t count, Bf16* out) {
  for_vectors(count, [&](auto d, size_t i) { store_bf16(d, hn::LoadU(d, x + i), out + i); });
}

void PackBf16(const float* x, size_t rows, size_t cols, size_t stride, Bf16* out) {
  for (size_t row = 0; row < rows; ++row) ToBf16(x + row * stride, cols, out + row * cols);
}

void RmsNorm(const float* x, const float* weight, bool plus_one, float epsilon, size_t rows,
             size_t cols, float* y, float* inverse) {
  const float offset = plus_one ? 1.0f : 0.0f;
  for (size_t row = 0; row < rows; ++row, x += cols, y += cols) {
    const float squares = sum_vectors(cols, [&](auto d, size_t i) {
      const auto v = hn::LoadU(d, x + i);
      return hn::Mul(v, v);
    });
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(cols) + epsilon);
    inverse[row] = scale;
    for_vectors(cols, [&](auto d, size_t i) {
      const auto w = hn::Add(hn::LoadU(d, weight + i), hn::Set(d, offset));
      hn::StoreU(hn::Mul(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, scale)), w), d, y + i);
    });
  }
}

void RmsNormBackward(const float* x, const float* weight, bool plus_one, const float* inverse,
                     const float* dy, size_t rows, size_t cols, float* dx, float* dweight) {
  const float offset = plus_one ? 1.0f : 0.0f;
  for (size_t row = 0; row < rows; ++row, x += cols, dy += cols, dx += cols) {
    const float scale = inverse[row];
    // Through y = x s w: dx = s w dy - x s^3 mean(x w dy).
    const float dot = sum_vectors(cols, [&](auto d, size_t i) {
      const auto w = hn::Add(hn::LoadU(d, weight + i), hn::Set(d, offset));
      return hn::Mul(hn::Mul(hn::LoadU(d, x + i), w), hn::LoadU(d, dy + i));
    });
    const float pull = dot * scale * scale * scale / static_cast<float>(cols);
    for_vectors(cols, [&](auto d, size_t i) {
      const auto w = hn::Add(hn::LoadU(d, weight + i), hn::Set(d, offset));
      const auto value = hn::LoadU(d, x + i);
      const auto scaled = hn::Mul(hn::LoadU(d, dy + i), hn::Set(d, scale));
      hn::StoreU(hn::NegMulAdd(value, hn::Set(d, pull), hn::Mul(scaled, w)), d, dx + i);
      hn::StoreU(hn::MulAdd(scaled, value, hn::LoadU(d, dweight + i)), d, dweight + i);
    });
  }
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

void Rotate(const float* x, const float* cosine, const float* sine, float direction, size_t heads,
            size_t head_size, size_t half, float* out) {
  for (size_t head = 0; head < heads; ++head, x += head_size, out += head_size) {
    for_vectors(half, [&](auto d, size_t i) {
      const auto c = hn::LoadU(d, cosine + i);
      const auto s = hn::Mul(hn::LoadU(d, sine + i), hn::Set(d, direction));
      const auto a = hn::LoadU(d, x + i), b = hn::LoadU(d, x + half + i);
      hn::StoreU(hn::NegMulAdd(b, s, hn::Mul(a, c)), d, out + i);
      hn::StoreU(hn::MulAdd(a, s, hn::Mul(b, c)), d, out + half + i);
    });
    if (out != x) std::copy(x + 2 * half, x + head_size, out + 2 * half);
  }
}

void AddColumnSums(const float* x, size_t rows, size_t cols, float* out) {
  for (size_t row = 0; row < rows; ++row, x += cols) {
    for_vectors(cols, [&](auto d, size_t i) {
      hn::StoreU(hn::Add(hn::LoadU(d, x + i), hn::LoadU(d, out + i)), d, out + i);
    });
  }
}

void RowDots(const float* a, const float* b, size_t rows, size_t cols, size_t stride, float* out) {
  for (size_t row = 0; row < rows; ++row, a += stride, b += stride) {
    out[row] = sum_vectors(
        cols, [&](auto d, size_t i) { return hn::Mul(hn::LoadU(d, a + i), hn::LoadU(d, b + i)); });
  }
}

void ScaleRows(float* x, const float* factors, size_t rows, size_t cols, size_t stride) {
  for (size_t row = 0; row < rows; ++row, x += stride) {
    for_vectors(cols, [&](auto d, size_t i) {
      hn::StoreU(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, factors[row])), d, x + i);
    });
  }
}

}  // namespace fewbit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit::kernels {

HWY_EXPORT(ToBf16);
HWY_EXPORT(PackBf16);
HWY_EXPORT(RmsNorm);
HWY_EXPORT(RmsNormBackward);
HWY_EXPORT(LayerNorm);
HWY_EXPORT(LayerNormBackward);
HWY_EXPORT(Rotate);
HWY_EXPORT(AddColumnSums);
HWY_EXPORT(RowDots);
HWY_EXPORT(ScaleRows);

void to_bf16(const float* x, size_t count, Bf16* out) {
  HWY_DYNAMIC_DISPATCH(ToBf16)(x, count, out);
}

void pack_bf16(const float* x, size_t rows, size_t cols, size_t stride, Bf16* out) {
  HWY_DYNAMIC_DISPATCH(PackBf16)(x, rows, cols, stride, out);
}

void rms_norm(const float* x, const float* weight, bool plus_one, float epsilon, size_t rows,
              size_t cols, float* y, float* inverse) {
  HWY_DYNAMIC_DISPATCH(RmsNorm)(x, weight, plus_one, epsilon, rows, cols, y, inverse);
}

void rms_norm_backward(const float* x, const float* weight, bool plus_one, const float* inverse,
                       const float* dy, size_t rows, size_t cols, float* dx, float* dweight) {
  HWY_DYNAMIC_DISPATCH(RmsNormBackward)
  (x, weight, plus_one, inverse, dy, rows, cols, dx, dweight);
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
  HWY_DYNAMIC_DISPATCH(Rotate)(x, cosine, sine, direction, heads, head_size, half, out);
}

void add_column_sums(const float* x, size_t rows, size_t cols, float* out) {
  HWY_DYNAMIC_DISPATCH(AddColumnSums)(x, rows, cols, out);
}

void row_dots(const float* a, const float* b, size_t rows, size_t cols, size_t stride, float* out) {
  HWY_DYNAMIC_DISPATCH(RowDots)(a, b, rows, cols, stride, out);
}

void scale_rows(float* x, const float* factors, size_t rows, size_t cols, size_t stride) {
  HWY_DYNAMIC_DISPATCH(ScaleRows)(x, factors, rows, cols, stride);
}

}  // namespace fewbit::kernels
#endif
