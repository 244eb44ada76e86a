// Vectors whose lanes are rows of a panel, and what the kernels of several grids compute with them.
// Included once per target.
#if defined(FEWBIT_FORMATS_PANEL_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FEWBIT_FORMATS_PANEL_MATH_INL_H_
#undef FEWBIT_FORMATS_PANEL_MATH_INL_H_
#else
#define FEWBIT_FORMATS_PANEL_MATH_INL_H_
#endif

#include "fewbit/formats/grid.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using PanelTag = hn::CappedTag<float, kPanelRows>;
using PanelVector = hn::Vec<PanelTag>;

// Near-minimax polynomials, lowest power first: log2(1 + t) / t on [sqrt(1/2) - 1, sqrt(2) - 1]
// (error 3e-7) and 2^t on [-1/2, 1/2] (error 8e-8).
constexpr float kLog[] = {1.442694958f,  -0.7213527588f, 0.4809240386f, -0.3602419859f,
                          0.2870756112f, -0.2488218056f, 0.2342098512f, -0.1462035342f};
constexpr float kExp[] = {1.0000000755f, 0.6931472067f, 0.2402210736f,
                          0.0555032721f, 0.0096760371f, 0.0013400432f};

// x^power for x >= 0 as 2^(power * log2 x), at least 2^-126; 0 counts as 2^-127.
HWY_INLINE PanelVector Power(PanelVector x, PanelVector power) {
  const PanelTag d;
  const hn::RebindToSigned<PanelTag> di;
  const auto bits = hn::BitCast(di, x);
  const auto exponent = hn::ShiftRight<23>(hn::Sub(bits, hn::Set(di, 0x3f3504f3)));
  const PanelVector t =
      hn::Sub(hn::BitCast(d, hn::Sub(bits, hn::ShiftLeft<23>(exponent))), hn::Set(d, 1.0f));
  PanelVector p = hn::Set(d, kLog[7]);
  p = hn::MulAdd(p, t, hn::Set(d, kLog[6]));
  p = hn::MulAdd(p, t, hn::Set(d, kLog[5]));
  p = hn::MulAdd(p, t, hn::Set(d, kLog[4]));
  p = hn::MulAdd(p, t, hn::Set(d, kLog[3]));
  p = hn::MulAdd(p, t, hn::Set(d, kLog[2]));
  p = hn::MulAdd(p, t, hn::Set(d, kLog[1]));
  p = hn::MulAdd(p, t, hn::Set(d, kLog[0]));
  const PanelVector logarithm = hn::MulAdd(p, t, hn::ConvertTo(d, exponent));
  const PanelVector y = hn::Max(hn::Mul(logarithm, power), hn::Set(d, -126.0f));
  const PanelVector whole = hn::Round(y);
  const PanelVector f = hn::Sub(y, whole);
  PanelVector e = hn::Set(d, kExp[5]);
  e = hn::MulAdd(e, f, hn::Set(d, kExp[4]));
  e = hn::MulAdd(e, f, hn::Set(d, kExp[3]));
  e = hn::MulAdd(e, f, hn::Set(d, kExp[2]));
  e = hn::MulAdd(e, f, hn::Set(d, kExp[1]));
  e = hn::MulAdd(e, f, hn::Set(d, kExp[0]));
  const auto scaled = hn::Add(hn::BitCast(di, e), hn::ShiftLeft<23>(hn::ConvertTo(di, whole)));
  return hn::BitCast(d, scaled);
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
