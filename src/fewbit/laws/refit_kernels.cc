#include "fewbit/laws/refit_kernels.h"

#include <limits>
#include <numbers>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/laws/refit_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<double, kRefitRowAlignment>;
using V = hn::Vec<D>;

// e^x, to a relative error below 3e-16: x = k ln 2 + r with |r| <= ln(2) / 2, and the Taylor series
// of e^r, whose rest is below 1e-17. Infinite above kLargestExponent, and below its negative as if
// there: so 2^k and the result are never subnormal and k only has to be added to an exponent.
constexpr double kLargestExponent = 700;

HWY_INLINE V Exponential(V x) {
  const D d;
  const hn::RebindToSigned<D> di;
  // Added to a number it rounds it to an integer, found in the sum's lowest bits.
  constexpr double kRound = 0x1.8p52;
  // The upper part has zeros enough at its end for exact products with k.
  constexpr double kLn2Upper = 0x1.62e42feep-1, kLn2Lower = 0x1.a39ef35793c76p-33;
  constexpr int kExponentShift = 52;
  const auto set = [](double value) HWY_ATTR { return hn::Set(D(), value); };
  const V bounded = hn::Max(x, set(-kLargestExponent));
  const V shifted = hn::MulAdd(bounded, set(std::numbers::log2e), set(kRound));
  const V k = hn::Sub(shifted, set(kRound));
  const V r = hn::NegMulAdd(k, set(kLn2Lower), hn::NegMulAdd(k, set(kLn2Upper), bounded));
  // Estrin's scheme: independent pairs instead of one long chain.
  const V r2 = hn::Mul(r, r), r4 = hn::Mul(r2, r2), r8 = hn::Mul(r4, r4);
  const auto pair = [&](double low, double high)
                        HWY_ATTR { return hn::MulAdd(set(1 / high), r, set(1 / low)); };
  // The coefficients 1 / 2! to 1 / 13!.
  const V from2 = hn::MulAdd(pair(24, 120), r2, pair(2, 6));
  const V from6 = hn::MulAdd(pair(40320, 362880), r2, pair(720, 5040));
  const V from10 = hn::MulAdd(pair(479001600, 6227020800), r2, pair(3628800, 39916800));
  const V tail = hn::MulAdd(from10, r8, hn::MulAdd(from6, r4, from2));
  const V power = hn::Add(hn::MulAdd(tail, r2, r), set(1));
  const V scaled = hn::BitCast(
      d, hn::Add(hn::BitCast(di, power), hn::ShiftLeft<kExponentShift>(hn::BitCast(di, shifted))));
  return hn::IfThenElse(hn::Gt(x, set(kLargestExponent)),
                        set(std::numeric_limits<double>::infinity()), scaled);
}

struct RowTerms {
  V objective, slope, curvature;
};

template <size_t P, bool kWeighted>
HWY_INLINE RowTerms TermsAt(const RefitRows& rows, const double* HWY_RESTRICT z, size_t row,
                            V (&x)[P]) {
  const D d;
  V eta = hn::Zero(d);
  for (size_t j = 0; j < P; ++j) {
    x[j] = hn::Load(d, rows.design + j * rows.rows + row);
    eta = hn::MulAdd(x[j], hn::Set(d, z[j]), eta);
  }
  const V p = Exponential(eta);
  const V r = hn::Sub(p, hn::Load(d, rows.values + row));
  if (!kWeighted) return {hn::Mul(r, r), hn::Mul(r, p), hn::Mul(p, hn::Add(p, r))};
  const V scatter = hn::Mul(hn::Set(d, rows.squared_scatter), hn::Mul(p, p));
  const V w = hn::Div(hn::Set(d, 1.0), hn::Add(hn::Load(d, rows.variances + row), scatter));
  const V wp = hn::Mul(w, p);
  // 1 - 2 s^2 p^2 w
  const V share = hn::NegMulAdd(hn::Mul(hn::Set(d, 2.0), scatter), w, hn::Set(d, 1.0));
  return {hn::Mul(w, hn::Mul(r, r)), hn::Mul(r, wp), hn::Mul(wp, hn::MulAdd(r, share, p))};
}

template <size_t P>
HWY_INLINE void AddVector(V scale, const V (&x)[P], V (&sums)[P]) {
  for (size_t j = 0; j < P; ++j) sums[j] = hn::MulAdd(scale, x[j], sums[j]);
}

// The lower triangle of scale x x'.
template <size_t P>
HWY_INLINE void AddOuter(V scale, const V (&x)[P], V (&sums)[P * (P + 1) / 2]) {
  for (size_t i = 0; i < P; ++i) {
    const V scaled = hn::Mul(scale, x[i]);
    for (size_t j = 0; j < P; ++j) {
      if (j > i) continue;
      V& sum = sums[i * (i + 1) / 2 + j];
      sum = hn::MulAdd(scaled, x[j], sum);
    }
  }
}

template <size_t kCount>
HWY_INLINE void SetZero(V (&sums)[kCount]) {
  for (V& sum : sums) sum = hn::Zero(D());
}

template <size_t kCount>
HWY_INLINE void Reduce(const V (&sums)[kCount], double* result) {
  for (size_t i = 0; i < kCount; ++i) result[i] = hn::GetLane(hn::SumOfLanes(D(), sums[i]));
}

template <size_t P, bool kWeighted>
void FillTerms(const RefitRows& rows, const double* z, const RefitTerms& terms) {
  const D d;
  for (size_t row = 0; row < rows.rows; row += hn::Lanes(d)) {
    V x[P];
    const RowTerms at = TermsAt<P, kWeighted>(rows, z, row, x);
    hn::Store(at.objective, d, terms.objective + row);
    hn::Store(at.slope, d, terms.slope + row);
    hn::Store(at.curvature, d, terms.curvature + row);
  }
}

template <size_t P, bool kWeighted>
void SumRows(const RefitRows& rows, const double* z, const double* counts, RefitSums& sums) {
  const D d;
  V objective[1], gradient[P], hessian[P * (P + 1) / 2];
  SetZero(objective);
  SetZero(gradient);
  SetZero(hessian);
  for (size_t row = 0; row < rows.rows; row += hn::Lanes(d)) {
    V x[P];
    const RowTerms at = TermsAt<P, kWeighted>(rows, z, row, x);
    const V count = hn::Load(d, counts + row);
    objective[0] = hn::MulAdd(count, at.objective, objective[0]);
    AddVector(hn::Mul(count, at.slope), x, gradient);
    AddOuter(hn::Mul(count, at.curvature), x, hessian);
  }
  Reduce(objective, &sums.objective);
  Reduce(gradient, sums.gradient.data());
  Reduce(hessian, sums.hessian.data());
}

template <size_t P>
void SumTerms(const RefitRows& rows, const RefitTerms& terms, const uint32_t* counts,
              double* real_counts, RefitSums& sums, double* gram_sums) {
  const D d;
  const hn::Rebind<int32_t, D> di;
  V objective[1], gradient[P], hessian[P * (P + 1) / 2], gram[P * (P + 1) / 2];
  SetZero(objective);
  SetZero(gradient);
  SetZero(hessian);
  SetZero(gram);
  for (size_t row = 0; row < rows.rows; row += hn::Lanes(d)) {
    V x[P];
    for (size_t j = 0; j < P; ++j) x[j] = hn::Load(d, rows.design + j * rows.rows + row);
    const V count = hn::PromoteTo(d, hn::Load(di, reinterpret_cast<const int32_t*>(counts + row)));
    hn::Store(count, d, real_counts + row);
    objective[0] = hn::MulAdd(count, hn::Load(d, terms.objective + row), objective[0]);
    AddVector(hn::Mul(count, hn::Load(d, terms.slope + row)), x, gradient);
    AddOuter(hn::Mul(count, hn::Load(d, terms.curvature + row)), x, hessian);
    AddOuter(count, x, gram);
  }
  Reduce(objective, &sums.objective);
  Reduce(gradient, sums.gradient.data());
  Reduce(hessian, sums.hessian.data());
  Reduce(gram, gram_sums);
}

// Calls `function` with the number of parameters as a constant.
template <size_t P = 1, class Function>
HWY_INLINE void ForParameters(size_t parameters, const Function& function) {
  if (parameters == P) {
    function(std::integral_constant<size_t, P>());
  } else if constexpr (P < kMaxRefitParameters) {
    ForParameters<P + 1>(parameters, function);
  }
}

void FillTermsAny(const RefitRows& rows, const double* z, const RefitTerms& terms) {
  ForParameters(rows.parameters, [&](auto p) {
    rows.variances != nullptr ? FillTerms<p, true>(rows, z, terms)
                              : FillTerms<p, false>(rows, z, terms);
  });
}

void SumRowsAny(const RefitRows& rows, const double* z, const double* counts, RefitSums& sums) {
  ForParameters(rows.parameters, [&](auto p) {
    rows.variances != nullptr ? SumRows<p, true>(rows, z, counts, sums)
                              : SumRows<p, false>(rows, z, counts, sums);
  });
}

void SumTermsAny(const RefitRows& rows, const RefitTerms& terms, const uint32_t* counts,
                 double* real_counts, RefitSums& sums, double* gram) {
  ForParameters(rows.parameters,
                [&](auto p) { SumTerms<p>(rows, terms, counts, real_counts, sums, gram); });
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(FillTermsAny);
HWY_EXPORT(SumRowsAny);
HWY_EXPORT(SumTermsAny);

void fill_refit_terms(const RefitRows& rows, const double* z, const RefitTerms& terms) {
  HWY_DYNAMIC_DISPATCH(FillTermsAny)(rows, z, terms);
}

void sum_refit_terms(const RefitRows& rows, const RefitTerms& terms, const uint32_t* counts,
                     double* real_counts, RefitSums& sums,
                     std::array<double, kMaxRefitPairs>& gram) {
  HWY_DYNAMIC_DISPATCH(SumTermsAny)(rows, terms, counts, real_counts, sums, gram.data());
}

void sum_refit_rows(const RefitRows& rows, const double* z, const double* counts, RefitSums& sums) {
  HWY_DYNAMIC_DISPATCH(SumRowsAny)(rows, z, counts, sums);
}

}  // namespace fewbit
#endif  // HWY_ONCE
