#include "fewbit/kernels/activation_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

void QuantizeRow(const ActivationLayout& layout, const float* HWY_RESTRICT x,
                 int8_t* HWY_RESTRICT codes, float* HWY_RESTRICT scales,
                 int32_t* HWY_RESTRICT sums) {
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<int32_t, decltype(d)> di;
  const hn::Rebind<int8_t, decltype(d)> d8;
  const size_t lanes = hn::Lanes(d), units_per_block = layout.block / layout.unit_columns;
  const auto low = hn::Set(di, -127), high = hn::Set(di, 127);
  for (size_t unit = 0; unit < layout.units; unit += units_per_block, x += layout.block) {
    auto largest = hn::Zero(d), poison = hn::Zero(d);
    for (size_t i = 0; i < layout.block; i += lanes) {
      const auto value = hn::LoadU(d, x + i);
      largest = hn::Max(largest, hn::Abs(value));
      poison = hn::MulAdd(value, hn::Zero(d), poison);
    }
    const float magnitude = hn::GetLane(hn::MaxOfLanes(d, largest));
    // An infinity or NaN times 0 is NaN.
    const bool finite = hn::AllTrue(d, hn::Eq(poison, hn::Zero(d)));
    const bool zero = !finite || magnitude <= kSmallest;
    const auto inverse = hn::Set(d, zero ? 0.0f : 127.0f / magnitude);
    const float scale = finite ? magnitude / 127.0f : std::numeric_limits<float>::quiet_NaN();
    const float* from = x;
    for (size_t u = 0; u < units_per_block; ++u) {
      auto sum = hn::Zero(di);
      for (size_t i = 0; i < layout.unit_columns; i += lanes) {
        const auto value = hn::NearestInt(hn::Mul(hn::LoadU(d, from + i), inverse));
        const auto code = finite ? hn::Min(hn::Max(value, low), high) : hn::Zero(di);
        sum = hn::Add(sum, code);
        hn::StoreU(hn::DemoteTo(d8, code), d8, codes + i);
      }
      from += layout.unit_columns;
      codes += layout.unit_columns;
      scales[unit + u] = scale;
      sums[unit + u] = hn::GetLane(hn::SumOfLanes(di, sum));
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(QuantizeRow);

void quantize_activation_row(const ActivationLayout& layout, const float* x, int8_t* codes,
                             float* scales, int32_t* sums) {
  HWY_DYNAMIC_DISPATCH(QuantizeRow)(layout, x, codes, scales, sums);
}

void quantize_activation_row_reference(const ActivationLayout& layout, const float* x,
                                       int8_t* codes, float* scales, int32_t* sums) {
  for (size_t unit = 0; unit < layout.units; ++unit) {
    const size_t first = unit * layout.unit_columns;
    const float* block = x + first / layout.block * layout.block;
    float magnitude = 0;
    bool finite = true;
    for (size_t i = 0; i < layout.block; ++i) {
      finite = finite && std::isfinite(block[i]);
      magnitude = std::max(magnitude, std::abs(block[i]));
    }
    const float inverse = finite && magnitude > kSmallest ? 127.0f / magnitude : 0.0f;
    scales[unit] = finite ? magnitude / 127.0f : std::numeric_limits<float>::quiet_NaN();
    sums[unit] = 0;
    for (size_t i = first; i < first + layout.unit_columns; ++i) {
      const float rounded = finite ? std::nearbyint(x[i] * inverse) : 0.0f;
      codes[i] = static_cast<int8_t>(std::clamp(rounded, -127.0f, 127.0f));
      sums[unit] += codes[i];
    }
  }
}

}  // namespace fewbit
#endif  // HWY_ONCE
