#include <algorithm>
#include <cmath>
#include <limits>

#include "fewbit/network/row_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/network/softmax_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "fewbit/kernels/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit::kernels::HWY_NAMESPACE {

using TileTag = hn::CappedTag<float, kTileAlignment>;

// The columns that a row of a tile sees, and the whole vectors around them.
struct VisibleColumns {
  size_t first, last;  // What the mask lets through.
  size_t begin, end;   // Multiples of kTileAlignment around it.

  VisibleColumns(const ScoreTile& tile, size_t row) {
    last = std::min(tile.first_last + row, tile.cols);
    first = tile.window > 0 && last > tile.window ? last - tile.window : 0;
    begin = first / kTileAlignment * kTileAlignment;
    end = std::min((last + kTileAlignment - 1) / kTileAlignment * kTileAlignment, tile.stride);
  }

  HWY_INLINE auto mask(TileTag d, size_t i) const {
    const auto index = hn::Iota(d, static_cast<float>(i));
    return hn::And(hn::Ge(index, hn::Set(d, static_cast<float>(first))),
                   hn::Lt(index, hn::Set(d, static_cast<float>(last))));
  }
};

template <bool kSoftcap, class V>
HWY_INLINE V score(TileTag d, V product, float scale, float softcap) {
  if constexpr (kSoftcap) {
    const V t = hyperbolic_tangent(d, hn::Mul(product, hn::Set(d, scale / softcap)));
    return hn::Mul(t, hn::Set(d, softcap));
  } else {
    return hn::Mul(product, hn::Set(d, scale));
  }
}

template <bool kSoftcap, class Out>
void softmax_rows(const ScoreTile& tile, const float* products, Out* out, float* inverse_sums,
                  float* log_sums) {
  const TileTag d;
  for (size_t row = 0; row < tile.rows; ++row, products += tile.stride, out += tile.stride) {
    const VisibleColumns see(tile, row);
    auto highest = hn::Set(d, std::numeric_limits<float>::lowest());
    for (size_t i = see.begin; i < see.end; i += hn::Lanes(d)) {
      const auto x = hn::LoadU(d, products + i);
      highest = hn::IfThenElse(see.mask(d, i), hn::Max(highest, x), highest);
    }
    // A score grows with its product, so the highest product has the highest score.
    const auto top = score<kSoftcap>(d, hn::MaxOfLanes(d, highest), tile.scale, tile.softcap);
    auto sum = hn::Zero(d);
    std::fill(out, out + see.begin, Out{});
    for (size_t i = see.begin; i < see.end; i += hn::Lanes(d)) {
      const auto s = score<kSoftcap>(d, hn::LoadU(d, products + i), tile.scale, tile.softcap);
      const auto e = hn::IfThenElseZero(see.mask(d, i), exponential(d, hn::Sub(s, top)));
      sum = hn::Add(sum, e);
      store(d, e, out + i);
    }
    std::fill(out + see.end, out + tile.stride, Out{});
    const float total = hn::GetLane(hn::SumOfLanes(d, sum));
    inverse_sums[row] = 1.0f / total;
    log_sums[row] = hn::GetLane(top) + std::log(total);
  }
}

template <bool kSoftcap, class Out>
void softmax_rows_backward(const ScoreTile& tile, const float* products, const float* dweights,
                           const float* log_sums, const float* mean_dweights, Out* weights,
                           Out* dproducts) {
  const TileTag d;
  for (size_t row = 0; row < tile.rows; ++row) {
    const VisibleColumns see(tile, row);
    const auto log_sum = hn::Set(d, log_sums[row]);
    const auto mean = hn::Set(d, mean_dweights[row]);
    const auto scale = hn::Set(d, tile.scale);
    std::fill(weights, weights + see.begin, Out{});
    std::fill(dproducts, dproducts + see.begin, Out{});
    for (size_t i = see.begin; i < see.end; i += hn::Lanes(d)) {
      const auto s = score<kSoftcap>(d, hn::LoadU(d, products + i), tile.scale, tile.softcap);
      const auto visible = see.mask(d, i);
      const auto p = hn::IfThenElseZero(visible, exponential(d, hn::Sub(s, log_sum)));
      // The select keeps whatever stands in the padding out of the sum.
      auto dscore = hn::IfThenElseZero(
          visible, hn::Mul(p, hn::Mul(hn::Sub(hn::LoadU(d, dweights + i), mean), scale)));
      if constexpr (kSoftcap) {
        const auto t = hn::Mul(s, hn::Set(d, 1.0f / tile.softcap));
        dscore = hn::Mul(dscore, hn::NegMulAdd(t, t, hn::Set(d, 1.0f)));
        dscore = hn::IfThenElseZero(visible, dscore);
      }
      store(d, p, weights + i);
      store(d, dscore, dproducts + i);
    }
    std::fill(weights + see.end, weights + tile.stride, Out{});
    std::fill(dproducts + see.end, dproducts + tile.stride, Out{});
    products += tile.stride;
    dweights += tile.stride;
    weights += tile.stride;
    dproducts += tile.stride;
  }
}

template <class Out>
HWY_INLINE void softmax_any(const ScoreTile& tile, const float* products, Out* out,
                            float* inverse_sums, float* log_sums) {
  if (tile.softcap > 0) return softmax_rows<true>(tile, products, out, inverse_sums, log_sums);
  softmax_rows<false>(tile, products, out, inverse_sums, log_sums);
}

template <class Out>
HWY_INLINE void backward_any(const ScoreTile& tile, const float* products, const float* dweights,
                             const float* log_sums, const float* mean_dweights, Out* weights,
                             Out* dproducts) {
  if (tile.softcap > 0) {
    return softmax_rows_backward<true>(tile, products, dweights, log_sums, mean_dweights, weights,
                                       dproducts);
  }
  softmax_rows_backward<false>(tile, products, dweights, log_sums, mean_dweights, weights,
                               dproducts);
}

void SoftmaxF32(const ScoreTile& tile, const float* products, float* out, float* inverse_sums,
                float* log_sums) {
  softmax_any(tile, products, out, inverse_sums, log_sums);
}
void SoftmaxBf16(const ScoreTile& tile, const float* products, Bf16* out, float* inverse_sums,
                 float* log_sums) {
  softmax_any(tile, products, out, inverse_sums, log_sums);
}
void SoftmaxBackwardF32(const ScoreTile& tile, const float* products, const float* dweights,
                        const float* log_sums, const float* mean_dweights, float* weights,
                        float* dproducts) {
  backward_any(tile, products, dweights, log_sums, mean_dweights, weights, dproducts);
}
void SoftmaxBackwardBf16(const ScoreTile& tile, const float* products, const float* dweights,
                         const float* log_sums, const float* mean_dweights, Bf16* weights,
                         Bf16* dproducts) {
  backward_any(tile, products, dweights, log_sums, mean_dweights, weights, dproducts);
}

// exp(logits - max) in place; returns 1 / sum, and the cross entropy of `target` in `loss`.
HWY_INLINE float exponentials(float* logits, size_t vocab, size_t target, double& loss) {
  const hn::ScalableTag<float> full;
  const size_t lanes = hn::Lanes(full);
  auto highest = hn::Set(full, std::numeric_limits<float>::lowest());
  size_t i = 0;
  for (; i + lanes <= vocab; i += lanes) highest = hn::Max(highest, hn::LoadU(full, logits + i));
  float top = hn::GetLane(hn::MaxOfLanes(full, highest));
  for (; i < vocab; ++i) top = std::max(top, logits[i]);
  const float wanted = logits[target];
  const float sum = sum_vectors(vocab, [&](auto d, size_t at) {
    const auto e = exponential(d, hn::Sub(hn::LoadU(d, logits + at), hn::Set(d, top)));
    hn::StoreU(e, d, logits + at);
    return e;
  });
  loss = std::log(static_cast<double>(sum)) - (static_cast<double>(wanted) - top);
  return 1.0f / sum;
}

double CrossEntropy(float* logits, const int64_t* targets, size_t rows, size_t vocab) {
  double total = 0, loss = 0;
  for (size_t row = 0; row < rows; ++row, logits += vocab) {
    if (targets[row] < 0) continue;
    exponentials(logits, vocab, static_cast<size_t>(targets[row]), loss);
    total += loss;
  }
  return total;
}

template <class Out>
double cross_entropy_rows(float* logits, const int64_t* targets, size_t rows, size_t vocab,
                          Out* gradient) {
  double total = 0, loss = 0;
  for (size_t row = 0; row < rows; ++row, logits += vocab, gradient += vocab) {
    if (targets[row] < 0) {
      std::fill_n(gradient, vocab, Out{});
      continue;
    }
    const auto target = static_cast<size_t>(targets[row]);
    const float inverse = exponentials(logits, vocab, target, loss);
    total += loss;
    const float at_target = logits[target] * inverse - 1.0f;
    for_vectors(vocab, [&](auto d, size_t i) {
      store(d, hn::Mul(hn::LoadU(d, logits + i), hn::Set(d, inverse)), gradient + i);
    });
    const hn::CappedTag<float, 1> one;
    store(one, hn::Set(one, at_target), gradient + target);
  }
  return total;
}

double CrossEntropyF32(float* logits, const int64_t* targets, size_t rows, size_t vocab,
                       float* gradient) {
  return cross_entropy_rows(logits, targets, rows, vocab, gradient);
}
double CrossEntropyBf16(float* logits, const int64_t* targets, size_t rows, size_t vocab,
                        Bf16* gradient) {
  return cross_entropy_rows(logits, targets, rows, vocab, gradient);
}

}  // namespace fewbit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit::kernels {

HWY_EXPORT(SoftmaxF32);
HWY_EXPORT(SoftmaxBf16);
HWY_EXPORT(SoftmaxBackwardF32);
HWY_EXPORT(SoftmaxBackwardBf16);
HWY_EXPORT(CrossEntropy);
HWY_EXPORT(CrossEntropyF32);
HWY_EXPORT(CrossEntropyBf16);

void softmax_tile(const ScoreTile& tile, const float* products, float* out, float* inverse_sums,
                  float* log_sums) {
  HWY_DYNAMIC_DISPATCH(SoftmaxF32)(tile, products, out, inverse_sums, log_sums);
}
void softmax_tile(const ScoreTile& tile, const float* products, Bf16* out, float* inverse_sums,
                  float* log_sums) {
  HWY_DYNAMIC_DISPATCH(SoftmaxBf16)(tile, products, out, inverse_sums, log_sums);
}

void softmax_tile_backward(const ScoreTile& tile, const float* products, const float* dweights,
                           const float* log_sums, const float* mean_dweights, float* weights,
                           float* dproducts) {
  HWY_DYNAMIC_DISPATCH(SoftmaxBackwardF32)
  (tile, products, dweights, log_sums, mean_dweights, weights, dproducts);
}
void softmax_tile_backward(const ScoreTile& tile, const float* products, const float* dweights,
                           const float* log_sums, const float* mean_dweights, Bf16* weights,
                           Bf16* dproducts) {
  HWY_DYNAMIC_DISPATCH(SoftmaxBackwardBf16)
  (tile, products, dweights, log_sums, mean_dweights, weights, dproducts);
}

double cross_entropy(float* logits, const int64_t* targets, size_t rows, size_t vocab) {
  return HWY_DYNAMIC_DISPATCH(CrossEntropy)(logits, targets, rows, vocab);
}
double cross_entropy_gradient(float* logits, const int64_t* targets, size_t rows, size_t vocab,
                              float* gradient) {
  return HWY_DYNAMIC_DISPATCH(CrossEntropyF32)(logits, targets, rows, vocab, gradient);
}
double cross_entropy_gradient(float* logits, const int64_t* targets, size_t rows, size_t vocab,
                              Bf16* gradient) {
  return HWY_DYNAMIC_DISPATCH(CrossEntropyBf16)(logits, targets, rows, vocab, gradient);
}

}  // namespace fewbit::kernels
#endif
