#include "fewbit/kernels/activation_kernels.h"

#ifndef FEWBIT_KERNELS_ACTIVATION_KERNELS_ONCE
#define FEWBIT_KERNELS_ACTIVATION_KERNELS_ONCE
namespace fewbit {
// Blocks below this count as zeros: 127 / magnitude must stay finite.
constexpr float kSmallest = 1e-36f;
}  // namespace fewbit
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/kernels/activation_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

float QuantizeActivations(std::span<const float> x, int8_t* HWY_RESTRICT codes) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int32_t, decltype(d)> di;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d);
  auto largest = hn::Zero(d), poison = hn::Zero(d);
  for (size_t i = 0; i < x.size(); i += lanes) {
    const auto value = hn::LoadU(d, x.data() + i);
    largest = hn::Max(largest, hn::Abs(value));
    poison = hn::MulAdd(value, hn::Zero(d), poison);
  }
  const float magnitude = hn::GetLane(hn::MaxOfLanes(d, largest));
  if (hn::GetLane(hn::SumOfLanes(d, poison)) != 0.0f) {
    for (size_t i = 0; i < x.size(); ++i) codes[i] = 0;
    return hn::GetLane(hn::SumOfLanes(d, poison));  // NaN
  }
  const auto inverse = hn::Set(d, magnitude > kSmallest ? 127.0f / magnitude : 0.0f);
  for (size_t i = 0; i < x.size(); i += lanes) {
    const auto value = hn::NearestInt(hn::Mul(hn::LoadU(d, x.data() + i), inverse));
    const auto bounded = hn::Min(hn::Max(value, hn::Set(di, -127)), hn::Set(di, 127));
    hn::StoreU(hn::DemoteTo(d8, bounded), d8, codes + i);
  }
  return magnitude / 127.0f;
}

int32_t SumCodes(std::span<const int8_t> codes) {
  const hn::CappedTag<int32_t, 16> di;
  const hn::Rebind<int8_t, decltype(di)> d8;
  auto sum = hn::Zero(di);
  for (size_t i = 0; i < codes.size(); i += hn::Lanes(di)) {
    sum = hn::Add(sum, hn::PromoteTo(di, hn::LoadU(d8, codes.data() + i)));
  }
  return hn::GetLane(hn::SumOfLanes(di, sum));
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <algorithm>
#include <cmath>
#include <limits>

namespace fewbit {
HWY_EXPORT(QuantizeActivations);
HWY_EXPORT(SumCodes);

float quantize_activations(std::span<const float> x, int8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(QuantizeActivations)(x, codes);
}

int32_t sum_codes(std::span<const int8_t> codes) { return HWY_DYNAMIC_DISPATCH(SumCodes)(codes); }

float quantize_activations_reference(std::span<const float> x, int8_t* codes) {
  float magnitude = 0;
  for (const float value : x) {
    if (!std::isfinite(value)) {
      std::fill_n(codes, x.size(), int8_t{0});
      return std::numeric_limits<float>::quiet_NaN();
    }
    magnitude = std::max(magnitude, std::abs(value));
  }
  const float inverse = magnitude > kSmallest ? 127.0f / magnitude : 0.0f;
  for (size_t i = 0; i < x.size(); ++i) {
    codes[i] = static_cast<int8_t>(std::clamp(std::nearbyint(x[i] * inverse), -127.0f, 127.0f));
  }
  return magnitude / 127.0f;
}

}  // namespace fewbit
#endif  // HWY_ONCE
