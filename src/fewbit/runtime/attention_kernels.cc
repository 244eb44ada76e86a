#include "fewbit/runtime/attention_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/runtime/attention_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "fewbit/kernels/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit::HWY_NAMESPACE {
using namespace kernels::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> load_element(D d, const float* x) {
  return hn::LoadU(d, x);
}
template <class D>
HWY_INLINE hn::Vec<D> load_element(D d, const uint16_t* x) {
  const hn::Rebind<hwy::float16_t, D> half;
  return hn::PromoteTo(d, hn::LoadU(half, reinterpret_cast<const hwy::float16_t*>(x)));
}

// `kRows` rows, `kVectors` vectors from column `col` on: all sums stay in registers.
template <size_t kRows, size_t kVectors, class D, class T>
HWY_INLINE void panel_columns(D d, const PanelProduct& p, size_t row, size_t col, const T* b) {
  const size_t lanes = hn::Lanes(d);
  hn::Vec<D> sums[kRows][kVectors];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = p.accumulate ? hn::LoadU(d, p.c[row + r] + col + v * lanes) : hn::Zero(d);
    }
  }
  for (size_t i = p.first; i < p.last; ++i) {
    const T* line = b + i * p.cols + col;
    hn::Vec<D> values[kVectors];
    for (size_t v = 0; v < kVectors; ++v) values[v] = load_element(d, line + v * lanes);
    for (size_t r = 0; r < kRows; ++r) {
      const auto factor = hn::Set(d, p.a[row + r][i]);
      for (size_t v = 0; v < kVectors; ++v) sums[r][v] = hn::MulAdd(factor, values[v], sums[r][v]);
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(sums[r][v], d, p.c[row + r] + col + v * lanes);
    }
  }
}

template <size_t kRows, class T>
HWY_INLINE void panel_rows(const PanelProduct& p, size_t row, const T* b) {
  const hn::ScalableTag<float> full;
  // With the vectors of b and one factor, sums of kRows x kVectors fit the registers: 32 of them on
  // the 512-bit targets, 16 elsewhere.
  constexpr size_t kVectors = HWY_MAX_BYTES >= 64 ? 4 : 2;
  const size_t lanes = hn::Lanes(full);
  size_t col = 0;
  for (; col + kVectors * lanes <= p.cols; col += kVectors * lanes) {
    panel_columns<kRows, kVectors>(full, p, row, col, b);
  }
  for (; col + lanes <= p.cols; col += lanes) panel_columns<kRows, 1>(full, p, row, col, b);
  const hn::CappedTag<float, 4> quarter;
  for (; col + hn::Lanes(quarter) <= p.cols; col += hn::Lanes(quarter)) {
    panel_columns<kRows, 1>(quarter, p, row, col, b);
  }
  const hn::CappedTag<float, 1> one;
  for (; col < p.cols; ++col) panel_columns<kRows, 1>(one, p, row, col, b);
}

template <class T>
HWY_INLINE void panel_any(const PanelProduct& p, const T* b) {
  constexpr size_t kRows = HWY_MAX_BYTES >= 64 ? 4 : 3;
  size_t row = 0;
  for (; row + kRows <= p.rows; row += kRows) panel_rows<kRows>(p, row, b);
  if (p.rows - row == 3) return panel_rows<3>(p, row, b);
  if (p.rows - row == 2) return panel_rows<2>(p, row, b);
  if (p.rows - row == 1) return panel_rows<1>(p, row, b);
}

void PanelF32(const PanelProduct& p, const float* b) { panel_any(p, b); }
void PanelF16(const PanelProduct& p, const uint16_t* b) { panel_any(p, b); }

void RunningSoftmaxTile(float* scores, size_t first, size_t last, float scale, float softcap,
                        RunningSoftmax& state, float* mixture, size_t size) {
  if (first >= last) {
    std::fill_n(scores, kCacheTile, 0.0f);
    return;
  }
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  static_assert(kCacheTile * sizeof(float) % HWY_MAX_BYTES == 0);
  for (size_t i = 0; i < kCacheTile; i += lanes) {
    auto s = hn::Mul(hn::LoadU(d, scores + i), hn::Set(d, scale));
    if (softcap != 0) {
      const auto inner = hn::Mul(s, hn::Set(d, 1.0f / softcap));
      s = hn::Mul(hyperbolic_tangent(d, inner), hn::Set(d, softcap));
    }
    hn::StoreU(s, d, scores + i);
  }
  // exp of it is 0, so that whole vectors can be handled below.
  constexpr float kMasked = -std::numeric_limits<float>::infinity();
  std::fill_n(scores, first, kMasked);
  std::fill(scores + last, scores + kCacheTile, kMasked);
  auto highest = hn::LoadU(d, scores);
  for (size_t i = lanes; i < kCacheTile; i += lanes) {
    highest = hn::Max(highest, hn::LoadU(d, scores + i));
  }
  float largest = hn::GetLane(hn::MaxOfLanes(d, highest));
  if (state.sum > 0 && largest <= state.largest) {
    largest = state.largest;
  } else {
    const float factor = state.sum > 0 ? std::exp(state.largest - largest) : 0.0f;
    state.sum *= factor;
    for_vectors(size, [&](auto dm, size_t i) {
      hn::StoreU(hn::Mul(hn::LoadU(dm, mixture + i), hn::Set(dm, factor)), dm, mixture + i);
    });
    state.largest = largest;
  }
  state.sum += sum_vectors(kCacheTile, [&](auto ds, size_t i) {
    const auto e = exponential(ds, hn::Sub(hn::LoadU(ds, scores + i), hn::Set(ds, largest)));
    hn::StoreU(e, ds, scores + i);
    return e;
  });
}

void StoreF16(const float* x, size_t count, uint16_t* out) {
  for_vectors(count, [&](auto d, size_t i) {
    const hn::Rebind<hwy::float16_t, decltype(d)> half;
    hn::StoreU(hn::DemoteTo(half, hn::LoadU(d, x + i)), half,
               reinterpret_cast<hwy::float16_t*>(out + i));
  });
}

void LoadF16(const uint16_t* x, size_t count, float* out) {
  for_vectors(count, [&](auto d, size_t i) { hn::StoreU(load_element(d, x + i), d, out + i); });
}

}  // namespace fewbit::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {

HWY_EXPORT(PanelF32);
HWY_EXPORT(PanelF16);
HWY_EXPORT(RunningSoftmaxTile);
HWY_EXPORT(StoreF16);
HWY_EXPORT(LoadF16);

void panel_product(const PanelProduct& product, const float* b) {
  HWY_DYNAMIC_DISPATCH(PanelF32)(product, b);
}
void panel_product(const PanelProduct& product, const uint16_t* b) {
  HWY_DYNAMIC_DISPATCH(PanelF16)(product, b);
}
void running_softmax(float* scores, size_t first, size_t last, float scale, float softcap,
                     RunningSoftmax& state, float* mixture, size_t size) {
  HWY_DYNAMIC_DISPATCH(RunningSoftmaxTile)
  (scores, first, last, scale, softcap, state, mixture, size);
}
void load_f16(const uint16_t* x, size_t count, float* out) {
  HWY_DYNAMIC_DISPATCH(LoadF16)(x, count, out);
}
void store_f16(const float* x, size_t count, uint16_t* out) {
  HWY_DYNAMIC_DISPATCH(StoreF16)(x, count, out);
}

}  // namespace fewbit
#endif
