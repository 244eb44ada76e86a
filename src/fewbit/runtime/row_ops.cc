#include "fewbit/runtime/row_ops.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/runtime/row_ops.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "fewbit/kernels/activation_math-inl.h"
#include "fewbit/kernels/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit::HWY_NAMESPACE {
using namespace kernels::HWY_NAMESPACE;

void RmsNormRow(std::span<const float> x, std::span<const float> weight, bool plus_one,
                float epsilon, float* y) {
  const size_t n = x.size();
  const float squares = sum_vectors(n, [&](auto d, size_t i) {
    const auto v = hn::LoadU(d, x.data() + i);
    return hn::Mul(v, v);
  });
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
  const float added = plus_one ? 1.0f : 0.0f;
  for_vectors(n, [&](auto d, size_t i) {
    const auto w = hn::Add(hn::LoadU(d, weight.data() + i), hn::Set(d, added));
    const auto v = hn::Mul(hn::LoadU(d, x.data() + i), hn::Set(d, inverse));
    hn::StoreU(hn::Mul(v, w), d, y + i);
  });
}

void LayerNormRow(std::span<const float> x, std::span<const float> weight,
                  std::span<const float> bias, float epsilon, float* y) {
  const size_t n = x.size();
  const float mean = sum_vectors(n, [&](auto d, size_t i) { return hn::LoadU(d, x.data() + i); }) /
                     static_cast<float>(n);
  const float squares = sum_vectors(n, [&](auto d, size_t i) {
    const auto v = hn::Sub(hn::LoadU(d, x.data() + i), hn::Set(d, mean));
    return hn::Mul(v, v);
  });
  const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(n) + epsilon);
  for_vectors(n, [&](auto d, size_t i) {
    const auto centred = hn::Sub(hn::LoadU(d, x.data() + i), hn::Set(d, mean));
    const auto w = hn::LoadU(d, weight.data() + i);
    auto v = hn::Mul(hn::Mul(centred, hn::Set(d, inverse)), w);
    if (!bias.empty()) v = hn::Add(v, hn::LoadU(d, bias.data() + i));
    hn::StoreU(v, d, y + i);
  });
}

void RotateHead(const float* cosine, const float* sine, size_t half, float* head) {
  for_vectors(half, [&](auto d, size_t i) {
    const auto c = hn::LoadU(d, cosine + i), s = hn::LoadU(d, sine + i);
    const auto x = hn::LoadU(d, head + i), y = hn::LoadU(d, head + half + i);
    hn::StoreU(hn::Sub(hn::Mul(x, c), hn::Mul(y, s)), d, head + i);
    hn::StoreU(hn::MulAdd(y, c, hn::Mul(x, s)), d, head + half + i);
  });
}

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

void ActivateRow(Activation activation, std::span<float> x) {
  with_activation(activation, [&](auto f) {
    for_vectors(x.size(), [&](auto d, size_t i) {
      hn::StoreU(decltype(f)::value(d, hn::LoadU(d, x.data() + i)), d, x.data() + i);
    });
  });
}

void GateRow(Activation activation, std::span<float> gate, const float* up) {
  with_activation(activation, [&](auto f) {
    for_vectors(gate.size(), [&](auto d, size_t i) {
      const auto a = decltype(f)::value(d, hn::LoadU(d, gate.data() + i));
      hn::StoreU(hn::Mul(a, hn::LoadU(d, up + i)), d, gate.data() + i);
    });
  });
}

void AddRow(std::span<float> x, const float* y, float factor) {
  for_vectors(x.size(), [&](auto d, size_t i) {
    const auto sum =
        hn::MulAdd(hn::LoadU(d, y + i), hn::Set(d, factor), hn::LoadU(d, x.data() + i));
    hn::StoreU(sum, d, x.data() + i);
  });
}

void ScaleRow(std::span<float> x, float factor) {
  for_vectors(x.size(), [&](auto d, size_t i) {
    hn::StoreU(hn::Mul(hn::LoadU(d, x.data() + i), hn::Set(d, factor)), d, x.data() + i);
  });
}

void SoftcapRow(std::span<float> x, float cap) {
  for_vectors(x.size(), [&](auto d, size_t i) {
    const auto v = hn::Mul(hn::LoadU(d, x.data() + i), hn::Set(d, 1.0f / cap));
    hn::StoreU(hn::Mul(hyperbolic_tangent(d, v), hn::Set(d, cap)), d, x.data() + i);
  });
}

void SoftmaxRow(std::span<float> x) {
  const float largest = *std::max_element(x.begin(), x.end());
  const float sum = sum_vectors(x.size(), [&](auto d, size_t i) {
    const auto e = exponential(d, hn::Sub(hn::LoadU(d, x.data() + i), hn::Set(d, largest)));
    hn::StoreU(e, d, x.data() + i);
    return e;
  });
  ScaleRow(x, 1.0f / sum);
}

}  // namespace fewbit::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {

HWY_EXPORT(RmsNormRow);
HWY_EXPORT(LayerNormRow);
HWY_EXPORT(RotateHead);
HWY_EXPORT(ActivateRow);
HWY_EXPORT(GateRow);
HWY_EXPORT(AddRow);
HWY_EXPORT(ScaleRow);
HWY_EXPORT(SoftcapRow);
HWY_EXPORT(SoftmaxRow);

void rms_norm_row(std::span<const float> x, std::span<const float> weight, bool plus_one,
                  float epsilon, float* y) {
  HWY_DYNAMIC_DISPATCH(RmsNormRow)(x, weight, plus_one, epsilon, y);
}
void layer_norm_row(std::span<const float> x, std::span<const float> weight,
                    std::span<const float> bias, float epsilon, float* y) {
  HWY_DYNAMIC_DISPATCH(LayerNormRow)(x, weight, bias, epsilon, y);
}
void rotate_head(const float* cosine, const float* sine, size_t half, float* head) {
  HWY_DYNAMIC_DISPATCH(RotateHead)(cosine, sine, half, head);
}
void activate_row(Activation activation, std::span<float> x) {
  HWY_DYNAMIC_DISPATCH(ActivateRow)(activation, x);
}
void gate_row(Activation activation, std::span<float> gate, const float* up) {
  HWY_DYNAMIC_DISPATCH(GateRow)(activation, gate, up);
}
void add_row(std::span<float> x, const float* y, float factor) {
  HWY_DYNAMIC_DISPATCH(AddRow)(x, y, factor);
}
void scale_row(std::span<float> x, float factor) { HWY_DYNAMIC_DISPATCH(ScaleRow)(x, factor); }
void softcap_row(std::span<float> x, float cap) { HWY_DYNAMIC_DISPATCH(SoftcapRow)(x, cap); }
void softmax_row(std::span<float> x) { HWY_DYNAMIC_DISPATCH(SoftmaxRow)(x); }

}  // namespace fewbit
#endif
