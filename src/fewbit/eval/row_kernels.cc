#include "fewbit/eval/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/eval/row_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR

RowPeak peak(const float* row, size_t count) {
  RowPeak result{row[0], 0, false};
  for (size_t i = 0; i < count; ++i) {
    result.has_nan |= std::isnan(row[i]);
    if (row[i] > result.max) {
      result.max = row[i];
      result.argmax = i;
    }
  }
  return result;
}

double exp_sum(const float* row, size_t count, float max) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += std::exp(double{row[i]} - double{max});
  return sum;
}

PairSums pair_sums(const float* p, const float* q, size_t count, float p_max, float q_max) {
  PairSums sums;
  for (size_t i = 0; i < count; ++i) {
    const double zp = double{p[i]} - double{p_max}, zq = double{q[i]} - double{q_max};
    const double e = std::exp(zp);
    sums.base += e;
    sums.quantized += std::exp(zq);
    if (e > 0) sums.weighted_difference += e * (zp - zq);
  }
  return sums;
}

#else

namespace hn = hwy::HWY_NAMESPACE;

// exp of non-positive arguments. Below about -708 the library's scaling would leave the range of
// normal numbers; there the result is 0, which no sum that holds exp(0) = 1 can notice.
template <class D, class V>
HWY_INLINE V exp_nonpositive(D d, V x) {
  constexpr double kSmallest = -700.0;
  const auto large = hn::Ge(x, hn::Set(d, kSmallest));
  return hn::IfThenElseZero(large, hn::Exp(d, hn::Max(x, hn::Set(d, kSmallest))));
}

RowPeak peak(const float* HWY_RESTRICT row, size_t count) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  RowPeak result{row[0], 0, false};
  size_t i = 0;
  if (count >= lanes) {
    auto best = hn::LoadU(d, row);
    auto ordered = hn::Eq(best, best);
    for (; i + lanes <= count; i += lanes) {
      const auto v = hn::LoadU(d, row + i);
      best = hn::Max(best, v);
      ordered = hn::And(ordered, hn::Eq(v, v));
    }
    result.max = hn::GetLane(hn::MaxOfLanes(d, best));
    result.has_nan = !hn::AllTrue(d, ordered);
  }
  for (; i < count; ++i) {
    result.has_nan |= std::isnan(row[i]);
    result.max = std::max(result.max, row[i]);
  }
  if (result.has_nan) return result;
  const auto target = hn::Set(d, result.max);
  for (i = 0; i + lanes <= count; i += lanes) {
    const auto found = hn::FindFirstTrue(d, hn::Eq(hn::LoadU(d, row + i), target));
    if (found >= 0) {
      result.argmax = i + static_cast<size_t>(found);
      return result;
    }
  }
  while (row[i] != result.max) ++i;
  result.argmax = i;
  return result;
}

double exp_sum(const float* HWY_RESTRICT row, size_t count, float max) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  const size_t lanes = hn::Lanes(d);
  const auto shift = hn::Set(d, double{max});
  const auto term = [&](const float* from) HWY_ATTR {
    return exp_nonpositive(d, hn::Sub(hn::PromoteTo(d, hn::LoadU(df, from)), shift));
  };
  // Two chains hide the latency of the polynomial.
  auto even = hn::Zero(d), odd = hn::Zero(d);
  size_t i = 0;
  for (; i + 2 * lanes <= count; i += 2 * lanes) {
    even = hn::Add(even, term(row + i));
    odd = hn::Add(odd, term(row + i + lanes));
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  for (; i < count; ++i) sum += std::exp(double{row[i]} - double{max});
  return sum;
}

PairSums pair_sums(const float* HWY_RESTRICT p, const float* HWY_RESTRICT q, size_t count,
                   float p_max, float q_max) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  const size_t lanes = hn::Lanes(d);
  const auto p_shift = hn::Set(d, double{p_max}), q_shift = hn::Set(d, double{q_max});
  const auto zero = hn::Zero(d);
  auto base = zero, quantized = zero, weighted = zero;
  size_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto zp = hn::Sub(hn::PromoteTo(d, hn::LoadU(df, p + i)), p_shift);
    const auto zq = hn::Sub(hn::PromoteTo(d, hn::LoadU(df, q + i)), q_shift);
    const auto e = exp_nonpositive(d, zp);
    base = hn::Add(base, e);
    quantized = hn::Add(quantized, exp_nonpositive(d, zq));
    weighted = hn::Add(weighted, hn::IfThenElseZero(hn::Gt(e, zero), hn::Mul(e, hn::Sub(zp, zq))));
  }
  PairSums sums{hn::GetLane(hn::SumOfLanes(d, base)), hn::GetLane(hn::SumOfLanes(d, quantized)),
                hn::GetLane(hn::SumOfLanes(d, weighted))};
  for (; i < count; ++i) {
    const double zp = double{p[i]} - double{p_max}, zq = double{q[i]} - double{q_max};
    const double e = std::exp(zp);
    sums.base += e;
    sums.quantized += std::exp(zq);
    if (e > 0) sums.weighted_difference += e * (zp - zq);
  }
  return sums;
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {

HWY_EXPORT(peak);
HWY_EXPORT(exp_sum);
HWY_EXPORT(pair_sums);

RowPeak row_peak(const float* row, size_t count) { return HWY_DYNAMIC_DISPATCH(peak)(row, count); }

double row_exp_sum(const float* row, size_t count, float max) {
  return HWY_DYNAMIC_DISPATCH(exp_sum)(row, count, max);
}

PairSums row_pair_sums(const float* p, const float* q, size_t count, float p_max, float q_max) {
  return HWY_DYNAMIC_DISPATCH(pair_sums)(p, q, count, p_max, q_max);
}

}  // namespace fewbit
#endif  // HWY_ONCE
