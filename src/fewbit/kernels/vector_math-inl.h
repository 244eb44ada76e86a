// Elementary functions on Highway vectors of float32, and loops over arrays of any length. Included
// once per target by the kernels.
#if defined(FEWBIT_KERNELS_VECTOR_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FEWBIT_KERNELS_VECTOR_MATH_INL_H_
#undef FEWBIT_KERNELS_VECTOR_MATH_INL_H_
#else
#define FEWBIT_KERNELS_VECTOR_MATH_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <utility>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Calls f(d, i) for consecutive stretches [i, i + Lanes(d)) of [0, count): whole vectors, then
// quarters, then single lanes.
template <class F>
HWY_INLINE void for_vectors(size_t count, F&& f) {
  const hn::ScalableTag<float> full;
  const size_t lanes = hn::Lanes(full);
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) f(full, i);
  const hn::CappedTag<float, 4> quarter;
  for (; i + hn::Lanes(quarter) <= count; i += hn::Lanes(quarter)) f(quarter, i);
  const hn::CappedTag<float, 1> one;
  for (; i < count; ++i) f(one, i);
}

// Sum over [0, count) of f(d, i), a vector of Lanes(d) terms.
template <class F>
HWY_INLINE float sum_vectors(size_t count, F&& f) {
  const hn::ScalableTag<float> full;
  const size_t lanes = hn::Lanes(full);
  auto even = hn::Zero(full), odd = hn::Zero(full);
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    even = hn::Add(even, f(full, i));
    odd = hn::Add(odd, f(full, i + lanes));
  }
  for (; i + lanes <= count; i += lanes) even = hn::Add(even, f(full, i));
  float sum = hn::GetLane(hn::SumOfLanes(full, hn::Add(even, odd)));
  const hn::CappedTag<float, 1> one;
  for (; i < count; ++i) sum += hn::GetLane(f(one, i));
  return sum;
}

// exp(x) with a relative error below 2e-7; zero below -87.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exponential(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V low = hn::Set(d, -87.0f);
  const auto vanishes = hn::Lt(x, low);
  const V clamped = hn::Min(hn::Max(x, low), hn::Set(d, 88.0f));
  const auto n = hn::NearestInt(hn::Mul(clamped, hn::Set(d, 1.44269504088896f)));
  const V whole = hn::ConvertTo(d, n);
  // ln 2 in two parts, the first exact in few bits.
  V r = hn::NegMulAdd(whole, hn::Set(d, 0.693359375f), clamped);
  r = hn::NegMulAdd(whole, hn::Set(d, -2.12194440e-4f), r);
  // Minimax polynomial of (exp(r) - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2].
  V p = hn::Set(d, 1.9875691500e-4f);
  p = hn::MulAdd(p, r, hn::Set(d, 1.3981999507e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 8.3334519073e-3f));
  p = hn::MulAdd(p, r, hn::Set(d, 4.1665795894e-2f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.6666665459e-1f));
  p = hn::MulAdd(p, r, hn::Set(d, 5.0000001201e-1f));
  p = hn::Add(hn::MulAdd(p, hn::Mul(r, r), r), hn::Set(d, 1.0f));
  const V power = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(n, hn::Set(di, 127))));
  return hn::IfThenZeroElse(vanishes, hn::Mul(p, power));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  return hn::Div(one, hn::Add(one, exponential(d, hn::Neg(x))));
}

// Absolute error below 2e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V hyperbolic_tangent(D d, V x) {
  const V one = hn::Set(d, 1.0f), two = hn::Set(d, 2.0f);
  return hn::Sub(one, hn::Div(two, hn::Add(one, exponential(d, hn::Add(x, x)))));
}

// Error function by Abramowitz and Stegun 7.1.26; absolute error below 3e-7.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V error_function(D d, V x) {
  const V one = hn::Set(d, 1.0f);
  const V magnitude = hn::Abs(x);
  const V t = hn::Div(one, hn::MulAdd(magnitude, hn::Set(d, 0.3275911f), one));
  V p = hn::Set(d, 1.061405429f);
  p = hn::MulAdd(p, t, hn::Set(d, -1.453152027f));
  p = hn::MulAdd(p, t, hn::Set(d, 1.421413741f));
  p = hn::MulAdd(p, t, hn::Set(d, -0.284496736f));
  p = hn::MulAdd(p, t, hn::Set(d, 0.254829592f));
  const V tail = hn::Mul(hn::Mul(p, t), exponential(d, hn::Neg(hn::Mul(x, x))));
  return hn::CopySign(hn::Sub(one, tail), x);
}

// Rounds to bfloat16, nearest even, and stores the bits. NaN stays NaN for the payloads that
// arithmetic makes.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store_bf16(D /*d*/, V x, uint16_t* out) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint16_t, D> d16;
  const auto bits = hn::BitCast(du, x);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, hn::ShiftRight<16>(rounded))), d16, out);
}

template <class D>
HWY_INLINE hn::Vec<D> load(D d, const float* x) {
  return hn::LoadU(d, x);
}
// Float32 of bfloat16 bits.
template <class D>
HWY_INLINE hn::Vec<D> load(D d, const uint16_t* x) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint16_t, D> d16;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(d16, x))));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE void store(D d, V x, float* out) {
  hn::StoreU(x, d, out);
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE void store(D d, V x, uint16_t* out) {
  store_bf16(d, x, out);
}

}  // namespace fewbit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
