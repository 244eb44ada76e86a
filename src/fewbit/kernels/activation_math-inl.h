// Activation functions on Highway vectors of float32, with their slopes. Included once per target.
#if defined(FEWBIT_KERNELS_ACTIVATION_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FEWBIT_KERNELS_ACTIVATION_MATH_INL_H_
#undef FEWBIT_KERNELS_ACTIVATION_MATH_INL_H_
#else
#define FEWBIT_KERNELS_ACTIVATION_MATH_INL_H_
#endif

#include "fewbit/kernels/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit::kernels::HWY_NAMESPACE {

template <class V>
struct ValueAndSlope {
  V value, slope;
};

struct Silu {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V value(D d, V x) {
    return hn::Mul(x, sigmoid(d, x));
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE ValueAndSlope<V> both(D d, V x) {
    const V s = sigmoid(d, x);
    const V y = hn::Mul(x, s);
    return {y, hn::Add(s, hn::NegMulAdd(y, s, y))};
  }
};

struct Gelu {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V cumulative(D d, V x) {
    const V half = hn::Set(d, 0.5f);
    return hn::MulAdd(half, error_function(d, hn::Mul(x, hn::Set(d, 0.70710678118f))), half);
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V value(D d, V x) {
    return hn::Mul(x, cumulative(d, x));
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE ValueAndSlope<V> both(D d, V x) {
    constexpr float kInverseRootTwoPi = 0.3989422804f;
    const V c = cumulative(d, x);
    const V density = hn::Mul(hn::Set(d, kInverseRootTwoPi),
                              exponential(d, hn::Mul(hn::Mul(x, x), hn::Set(d, -0.5f))));
    return {hn::Mul(x, c), hn::MulAdd(x, density, c)};
  }
};

struct GeluTanh {
  static constexpr float kRootTwoOverPi = 0.7978845608f, kCubic = 0.044715f;
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V tangent(D d, V x) {
    const V inner = hn::MulAdd(hn::Mul(x, x), hn::Set(d, kCubic), hn::Set(d, 1.0f));
    return hyperbolic_tangent(d, hn::Mul(hn::Mul(x, inner), hn::Set(d, kRootTwoOverPi)));
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V value(D d, V x) {
    return hn::Mul(hn::Mul(x, hn::Set(d, 0.5f)), hn::Add(hn::Set(d, 1.0f), tangent(d, x)));
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE ValueAndSlope<V> both(D d, V x) {
    const V one = hn::Set(d, 1.0f), half = hn::Set(d, 0.5f);
    const V t = tangent(d, x);
    const V share = hn::Mul(half, hn::Add(one, t));
    const V inner =
        hn::Mul(hn::Set(d, kRootTwoOverPi), hn::MulAdd(hn::Mul(x, x), hn::Set(d, 3 * kCubic), one));
    const V bend = hn::Mul(hn::Mul(half, x), hn::Mul(hn::NegMulAdd(t, t, one), inner));
    return {hn::Mul(x, share), hn::Add(share, bend)};
  }
};

struct Relu {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V value(D d, V x) {
    return hn::Max(x, hn::Zero(d));
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE ValueAndSlope<V> both(D d, V x) {
    const auto positive = hn::Gt(x, hn::Zero(d));
    return {value(d, x), hn::IfThenElseZero(positive, hn::Set(d, 1.0f))};
  }
};

struct ReluSquared {
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE V value(D d, V x) {
    const V r = hn::Max(x, hn::Zero(d));
    return hn::Mul(r, r);
  }
  template <class D, class V = hn::Vec<D>>
  static HWY_INLINE ValueAndSlope<V> both(D d, V x) {
    const V r = hn::Max(x, hn::Zero(d));
    return {hn::Mul(r, r), hn::Add(r, r)};
  }
};

}  // namespace fewbit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
