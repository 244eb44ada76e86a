#include "fewbit/formats/uniform_grid_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/formats/uniform_grid_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h, which includes this file once per target.
#include "fewbit/formats/panel_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The smallest range of AWQ's rule.
constexpr float kMinRange = 1e-5f;
constexpr float kMinNormal = 1.17549435e-38f;
// Columns between two looks at whether a candidate has lost already.
constexpr size_t kLookEvery = 32;

using D = PanelTag;
using V = PanelVector;

// Nearest value of the stored type, ties to even, at least its smallest positive value.
V RoundScale(Dtype dtype, V scale) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  if (dtype == Dtype::f32) return hn::Max(scale, hn::Set(d, kMinNormal));
  const auto bits = hn::BitCast(du, scale);
  const auto one = hn::Set(du, 1u);
  if (dtype == Dtype::bf16) {
    const auto odd = hn::And(hn::ShiftRight<16>(bits), one);
    const auto sum = hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd);
    return hn::Max(hn::BitCast(d, hn::And(sum, hn::Set(du, 0xffff0000u))), hn::Set(d, kMinNormal));
  }
  const auto odd = hn::And(hn::ShiftRight<13>(bits), one);
  const auto sum = hn::Add(hn::Add(bits, hn::Set(du, 0xfffu)), odd);
  const auto normal = hn::BitCast(d, hn::And(sum, hn::Set(du, ~0x1fffu)));
  // Below 2^-14 f16 holds multiples of 2^-24, which are the spacing of floats around 0.5.
  const auto half = hn::Set(d, 0.5f);
  const auto subnormal = hn::Sub(hn::Add(scale, half), half);
  const auto rounded = hn::IfThenElse(hn::Lt(scale, hn::Set(d, 0x1p-14f)), subnormal, normal);
  return hn::Max(rounded, hn::Set(d, 0x1p-24f));
}

struct Candidate {
  V scale, zero;
};

// Parameters for the range [lo, hi].
Candidate CandidateOf(const UniformFitRule& rule, V lo, V hi) {
  const D d;
  const V zero = hn::Zero(d), midpoint = hn::Set(d, rule.midpoint);
  const V largest = hn::Set(d, rule.largest_code);
  if (rule.symmetry == UniformGridOptions::Symmetry::sym_signed) {
    return {RoundScale(rule.scale_dtype, hn::Div(hi, hn::Set(d, rule.midpoint - 1))), midpoint};
  }
  const V scale = RoundScale(rule.scale_dtype, hn::Div(hn::Sub(hi, lo), largest));
  if (rule.symmetry == UniformGridOptions::Symmetry::sym_offset) return {scale, midpoint};
  const V ideal = hn::Round(hn::Div(hn::Neg(lo), scale));
  return {scale, hn::Min(hn::Max(ideal, zero), largest)};
}

// sum importance_c |quantised - x|^norm; stops early, with a partial sum, once no row is below
// `best`. kSquare: norm 2.
template <bool kSquare>
V ErrorOf(const UniformFitRule& rule, const Panel<const float>& weights, size_t lane,
          std::span<const float> importance, Candidate candidate, V best) {
  const D d;
  const V inverse = hn::Div(hn::Set(d, 1.0f), candidate.scale);
  const V low = hn::Neg(candidate.zero);
  const V high = hn::Sub(hn::Set(d, rule.largest_code), candidate.zero);
  const V norm = hn::Set(d, rule.norm);
  V sum = hn::Zero(d);
  for (size_t c = 0; c < weights.cols; ++c) {
    const V x = hn::Load(d, weights.column(c) + lane);
    const V code = hn::Min(hn::Max(hn::Round(hn::Mul(x, inverse)), low), high);
    const V error = hn::Sub(hn::Mul(code, candidate.scale), x);
    V power;
    if constexpr (kSquare) {
      power = hn::Mul(error, error);
    } else {
      power = Power(hn::Abs(error), norm);
    }
    if (importance.empty()) {
      sum = hn::Add(sum, power);
    } else {
      sum = hn::MulAdd(hn::Set(d, importance[c]), power, sum);
    }
    if (c % kLookEvery == kLookEvery - 1 && hn::AllFalse(d, hn::Lt(sum, best))) break;
  }
  return sum;
}

template <bool kSquare>
Candidate Search(const UniformFitRule& rule, const Panel<const float>& weights, size_t lane,
                 std::span<const float> importance, V lo, V hi) {
  const D d;
  Candidate chosen = CandidateOf(rule, lo, hi);
  V best = hn::Set(d, hwy::HighestValue<float>());
  const auto consider = [&](Candidate candidate) HWY_ATTR {
    const V error = ErrorOf<kSquare>(rule, weights, lane, importance, candidate, best);
    const auto better = hn::Lt(error, best);
    best = hn::IfThenElse(better, error, best);
    chosen.scale = hn::IfThenElse(better, candidate.scale, chosen.scale);
    chosen.zero = hn::IfThenElse(better, candidate.zero, chosen.zero);
  };
  for (const float shrink : rule.shrinks) {
    const V p = hn::Set(d, shrink), low = hn::Mul(p, lo), high = hn::Mul(p, hi);
    Candidate candidate = CandidateOf(rule, low, high);
    consider(candidate);
    if (!rule.zero_neighbour) continue;
    const V ideal = hn::Div(hn::Neg(low), candidate.scale);
    const V one = hn::Set(d, 1.0f);
    const V step = hn::IfThenElse(hn::Gt(ideal, candidate.zero), one, hn::Neg(one));
    candidate.zero =
        hn::Min(hn::Max(hn::Add(candidate.zero, step), hn::Zero(d)), hn::Set(d, rule.largest_code));
    consider(candidate);
  }
  return chosen;
}

void FitUniformPanel(const UniformFitRule& rule, Panel<const float> weights,
                     std::span<const float> importance, float* HWY_RESTRICT scales,
                     float* HWY_RESTRICT zeros) {
  const D d;
  const V zero = hn::Zero(d), one = hn::Set(d, 1.0f);
  const bool asymmetric = rule.symmetry == UniformGridOptions::Symmetry::asymmetric;
  const bool with_zero = rule.range == UniformGridOptions::Range::with_zero;
  for (size_t lane = 0; lane < kPanelRows; lane += hn::Lanes(d)) {
    const V first = weights.cols == 0 ? zero : hn::Load(d, weights.column(0) + lane);
    V lo = with_zero ? hn::Min(first, zero) : first, hi = with_zero ? hn::Max(first, zero) : first;
    for (size_t c = 1; c < weights.cols; ++c) {
      const V x = hn::Load(d, weights.column(c) + lane);
      lo = hn::Min(lo, x);
      hi = hn::Max(hi, x);
    }
    if (!asymmetric) {
      hi = hn::Max(hn::Neg(lo), hi);
      if (!with_zero) hi = hn::Max(hi, hn::Set(d, kMinRange));
      lo = hn::Neg(hi);
    } else if (!with_zero) {
      hi = hn::Max(hi, hn::Add(lo, hn::Set(d, kMinRange)));
    }
    // A group of zeros would have no scale.
    const auto empty = hn::Eq(lo, hi);
    lo = hn::IfThenElse(empty, hn::Neg(one), lo);
    hi = hn::IfThenElse(empty, one, hi);

    Candidate chosen;
    if (rule.shrinks.size() <= 1) {
      chosen = CandidateOf(rule, lo, hi);
    } else if (rule.norm == 2.0f) {
      chosen = Search<true>(rule, weights, lane, importance, lo, hi);
    } else {
      chosen = Search<false>(rule, weights, lane, importance, lo, hi);
    }
    hn::Store(chosen.scale, d, scales + lane);
    hn::Store(chosen.zero, d, zeros + lane);
  }
}

void AssignUniformColumn(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT scales,
                         const float* HWY_RESTRICT zeros, float largest_code,
                         uint8_t* HWY_RESTRICT codes, float* HWY_RESTRICT decoded) {
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::Rebind<uint8_t, D> du8;
  const V largest = hn::Set(d, largest_code);
  for (size_t lane = 0; lane < kPanelRows; lane += hn::Lanes(d)) {
    const V scale = hn::Load(d, scales + lane), zero = hn::Load(d, zeros + lane);
    const V steps = hn::Round(hn::Div(hn::Load(d, weights + lane), scale));
    const V code = hn::Min(hn::Max(hn::Add(steps, zero), hn::Zero(d)), largest);
    hn::Store(hn::Mul(scale, hn::Sub(code, zero)), d, decoded + lane);
    hn::StoreU(hn::DemoteTo(du8, hn::ConvertTo(di, code)), du8, codes + lane);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(FitUniformPanel);
HWY_EXPORT(AssignUniformColumn);

void fit_uniform_panel(const UniformFitRule& rule, Panel<const float> weights,
                       std::span<const float> importance, float* scales, float* zeros) {
  HWY_DYNAMIC_DISPATCH(FitUniformPanel)(rule, weights, importance, scales, zeros);
}

void assign_uniform_column(const float* weights, const float* scales, const float* zeros,
                           float largest_code, uint8_t* codes, float* decoded) {
  HWY_DYNAMIC_DISPATCH(AssignUniformColumn)(weights, scales, zeros, largest_code, codes, decoded);
}

}  // namespace fewbit
#endif  // HWY_ONCE
