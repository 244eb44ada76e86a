#include "fewbit/formats/hqq_grid_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/formats/hqq_grid_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, which includes this file once per target.
#include "fewbit/formats/panel_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using D = PanelTag;
using V = PanelVector;

// code - z.
HWY_INLINE V CenteredCode(V x, V scale, V zero, V largest) {
  const D d;
  const V code = hn::Round(hn::Add(hn::Div(x, scale), zero));
  return hn::Sub(hn::Min(hn::Max(code, hn::Zero(d)), largest), zero);
}

void HqqStep(const HqqRule& rule, Panel<const float> weights, const float* HWY_RESTRICT scales,
             const float* HWY_RESTRICT zeros, float* HWY_RESTRICT next,
             float* HWY_RESTRICT errors) {
  const D d;
  const V largest = hn::Set(d, rule.largest_code), power = hn::Set(d, rule.norm - 1);
  const V inverse_beta = hn::Set(d, rule.inverse_beta);
  const V count = hn::Set(d, static_cast<float>(weights.cols));
  for (size_t lane = 0; lane < kPanelRows; lane += hn::Lanes(d)) {
    const V scale = hn::Load(d, scales + lane), zero = hn::Load(d, zeros + lane);
    V error = hn::Zero(d), moved = hn::Zero(d);
    for (size_t c = 0; c < weights.cols; ++c) {
      const V x = hn::Load(d, weights.column(c) + lane);
      const V e = hn::NegMulAdd(scale, CenteredCode(x, scale, zero, largest), x);
      const V size = hn::Abs(e);
      const V shrink = hn::Mul(Power(size, power), inverse_beta);
      error = hn::Add(error, size);
      moved = hn::Add(moved, hn::CopySignToAbs(hn::Min(size, shrink), e));
    }
    hn::Store(error, d, errors + lane);
    hn::Store(hn::Sub(zero, hn::Div(moved, hn::Mul(count, scale))), d, next + lane);
  }
}

void AssignHqqColumn(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT scales,
                     const float* HWY_RESTRICT zeros, float largest_code,
                     uint8_t* HWY_RESTRICT codes, float* HWY_RESTRICT decoded) {
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> du8;
  const V largest = hn::Set(d, largest_code);
  for (size_t lane = 0; lane < kPanelRows; lane += hn::Lanes(d)) {
    const V scale = hn::Load(d, scales + lane), zero = hn::Load(d, zeros + lane);
    const V code = hn::Round(hn::Add(hn::Div(hn::Load(d, weights + lane), scale), zero));
    const V clamped = hn::Min(hn::Max(code, hn::Zero(d)), largest);
    hn::Store(hn::Mul(scale, hn::Sub(clamped, zero)), d, decoded + lane);
    hn::StoreU(hn::DemoteTo(du8, hn::ConvertTo(di, clamped)), du8, codes + lane);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(HqqStep);
HWY_EXPORT(AssignHqqColumn);

void hqq_step(const HqqRule& rule, Panel<const float> weights, const float* scales,
              const float* zeros, float* next, float* errors) {
  HWY_DYNAMIC_DISPATCH(HqqStep)(rule, weights, scales, zeros, next, errors);
}

void assign_hqq_column(const float* weights, const float* scales, const float* zeros,
                       float largest_code, uint8_t* codes, float* decoded) {
  HWY_DYNAMIC_DISPATCH(AssignHqqColumn)(weights, scales, zeros, largest_code, codes, decoded);
}

}  // namespace fewbit
#endif  // HWY_ONCE
