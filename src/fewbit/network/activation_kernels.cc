#include <stdexcept>

#include "fewbit/network/row_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/network/activation_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "fewbit/kernels/activation_math-inl.h"
#include "fewbit/kernels/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit::kernels::HWY_NAMESPACE {

// Calls f(activation's struct).
template <class F>
HWY_INLINE void with_activation(Activation activation, F&& f) {
  switch (activation) {
    case Activation::silu:
      return f(Silu{});
    case Activation::gelu:
      return f(Gelu{});
    case Activation::gelu_tanh:
      return f(GeluTanh{});
    case Activation::relu:
      return f(Relu{});
    case Activation::relu_squared:
      return f(ReluSquared{});
  }
  throw std::logic_error("activation");
}

void Activate(Activation activation, const float* x, size_t count, float* y) {
  with_activation(activation, [&](auto f) {
    for_vectors(count, [&](auto d, size_t i) {
      hn::StoreU(decltype(f)::value(d, hn::LoadU(d, x + i)), d, y + i);
    });
  });
}

void ActivateBackward(Activation activation, const float* x, const float* dy, size_t count,
                      float* dx) {
  with_activation(activation, [&](auto f) {
    for_vectors(count, [&](auto d, size_t i) {
      const auto result = decltype(f)::both(d, hn::LoadU(d, x + i));
      hn::StoreU(hn::Mul(result.slope, hn::LoadU(d, dy + i)), d, dx + i);
    });
  });
}

template <class T>
HWY_INLINE void gated_any(Activation activation, const T* gate, const T* up, size_t count, T* y) {
  with_activation(activation, [&](auto f) {
    for_vectors(count, [&](auto d, size_t i) {
      const auto a = decltype(f)::value(d, load(d, gate + i));
      store(d, hn::Mul(a, load(d, up + i)), y + i);
    });
  });
}

template <class T>
HWY_INLINE void gated_backward_any(Activation activation, const T* gate, const T* up, const T* dy,
                                   size_t count, T* dgate, T* dup) {
  with_activation(activation, [&](auto f) {
    for_vectors(count, [&](auto d, size_t i) {
      const auto result = decltype(f)::both(d, load(d, gate + i));
      const auto u = load(d, up + i), out = load(d, dy + i);
      store(d, hn::Mul(hn::Mul(out, u), result.slope), dgate + i);
      store(d, hn::Mul(out, result.value), dup + i);
    });
  });
}

void GatedF32(Activation activation, const float* gate, const float* up, size_t count, float* y) {
  gated_any(activation, gate, up, count, y);
}
void GatedBf16(Activation activation, const Bf16* gate, const Bf16* up, size_t count, Bf16* y) {
  gated_any(activation, gate, up, count, y);
}
void GatedBackwardF32(Activation activation, const float* gate, const float* up, const float* dy,
                      size_t count, float* dgate, float* dup) {
  gated_backward_any(activation, gate, up, dy, count, dgate, dup);
}
void GatedBackwardBf16(Activation activation, const Bf16* gate, const Bf16* up, const Bf16* dy,
                       size_t count, Bf16* dgate, Bf16* dup) {
  gated_backward_any(activation, gate, up, dy, count, dgate, dup);
}

}  // namespace fewbit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit::kernels {

HWY_EXPORT(Activate);
HWY_EXPORT(ActivateBackward);
HWY_EXPORT(GatedF32);
HWY_EXPORT(GatedBf16);
HWY_EXPORT(GatedBackwardF32);
HWY_EXPORT(GatedBackwardBf16);

void activate(Activation activation, const float* x, size_t count, float* y) {
  HWY_DYNAMIC_DISPATCH(Activate)(activation, x, count, y);
}

void activate_backward(Activation activation, const float* x, const float* dy, size_t count,
                       float* dx) {
  HWY_DYNAMIC_DISPATCH(ActivateBackward)(activation, x, dy, count, dx);
}

void gated(Activation activation, const float* gate, const float* up, size_t count, float* y) {
  HWY_DYNAMIC_DISPATCH(GatedF32)(activation, gate, up, count, y);
}
void gated(Activation activation, const Bf16* gate, const Bf16* up, size_t count, Bf16* y) {
  HWY_DYNAMIC_DISPATCH(GatedBf16)(activation, gate, up, count, y);
}

void gated_backward(Activation activation, const float* gate, const float* up, const float* dy,
                    size_t count, float* dgate, float* dup) {
  HWY_DYNAMIC_DISPATCH(GatedBackwardF32)(activation, gate, up, dy, count, dgate, dup);
}
void gated_backward(Activation activation, const Bf16* gate, const Bf16* up, const Bf16* dy,
                    size_t count, Bf16* dgate, Bf16* dup) {
  HWY_DYNAMIC_DISPATCH(GatedBackwardBf16)(activation, gate, up, dy, count, dgate, dup);
}

}  // namespace fewbit::kernels
#endif
