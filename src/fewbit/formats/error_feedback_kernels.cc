#include "fewbit/formats/error_feedback_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/formats/error_feedback_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Vectors summed side by side: enough chains to hide the latency of a multiply-add.
constexpr size_t kVectors = 4;
using D = hn::CappedTag<float, kPanelRows / kVectors>;

void SubtractErrors(const float* HWY_RESTRICT factors, const float* HWY_RESTRICT errors,
                    size_t count, float* HWY_RESTRICT w) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  for (size_t lane = 0; lane < kPanelRows; lane += kVectors * lanes) {
    hn::Vec<D> sums[kVectors];
    for (size_t v = 0; v < kVectors; ++v) sums[v] = hn::Load(d, w + lane + v * lanes);
    for (size_t k = 0; k < count; ++k) {
      const auto factor = hn::Set(d, factors[k]);
      for (size_t v = 0; v < kVectors; ++v) {
        const auto error = hn::Load(d, errors + k * kPanelRows + lane + v * lanes);
        sums[v] = hn::NegMulAdd(factor, error, sums[v]);
      }
    }
    for (size_t v = 0; v < kVectors; ++v) hn::Store(sums[v], d, w + lane + v * lanes);
  }
}

void ScaledError(const float* HWY_RESTRICT w, const float* HWY_RESTRICT q, float diagonal,
                 float* HWY_RESTRICT error, float* HWY_RESTRICT squares) {
  const D d;
  const auto divisor = hn::Set(d, diagonal);
  for (size_t lane = 0; lane < kPanelRows; lane += hn::Lanes(d)) {
    const auto e = hn::Div(hn::Sub(hn::Load(d, w + lane), hn::Load(d, q + lane)), divisor);
    hn::Store(e, d, error + lane);
    hn::Store(hn::MulAdd(e, e, hn::Load(d, squares + lane)), d, squares + lane);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(SubtractErrors);
HWY_EXPORT(ScaledError);

void subtract_errors(const float* factors, const float* errors, size_t count, float* w) {
  HWY_DYNAMIC_DISPATCH(SubtractErrors)(factors, errors, count, w);
}

void scaled_error(const float* w, const float* q, float diagonal, float* error, float* squares) {
  HWY_DYNAMIC_DISPATCH(ScaledError)(w, q, diagonal, error, squares);
}

}  // namespace fewbit
#endif  // HWY_ONCE
