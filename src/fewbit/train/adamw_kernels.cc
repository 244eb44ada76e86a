#include "fewbit/train/adamw_kernels.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/train/adamw_kernels.cc"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "fewbit/kernels/vector_math-inl.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit::kernels::HWY_NAMESPACE {

double AddParts(float* total, const float* const* parts, size_t part_count, size_t count) {
  // Squares are summed in float over short runs, and those sums in double.
  constexpr size_t kRun = 512;
  double squares = 0;
  for (size_t first = 0; first < count; first += kRun) {
    squares += sum_vectors(std::min(kRun, count - first), [&](auto d, size_t i) {
      auto sum = hn::LoadU(d, total + first + i);
      for (size_t p = 0; p < part_count; ++p) {
        sum = hn::Add(sum, hn::LoadU(d, parts[p] + first + i));
      }
      if (part_count > 0) hn::StoreU(sum, d, total + first + i);
      return hn::Mul(sum, sum);
    });
  }
  return squares;
}

void AdamW(const AdamWConstants& constants, const float* gradient, size_t count, float* value,
           float* first_moment, float* second_moment) {
  for_vectors(count, [&](auto d, size_t i) {
    const auto g = hn::Mul(hn::LoadU(d, gradient + i), hn::Set(d, constants.clip));
    const auto m = hn::MulAdd(hn::Set(d, constants.beta1), hn::LoadU(d, first_moment + i),
                              hn::Mul(hn::Set(d, 1 - constants.beta1), g));
    const auto v = hn::MulAdd(hn::Set(d, constants.beta2), hn::LoadU(d, second_moment + i),
                              hn::Mul(hn::Set(d, 1 - constants.beta2), hn::Mul(g, g)));
    const auto root = hn::MulAdd(hn::Sqrt(v), hn::Set(d, constants.root_correction),
                                 hn::Set(d, constants.epsilon));
    const auto kept = hn::Mul(hn::LoadU(d, value + i), hn::Set(d, constants.keep));
    hn::StoreU(m, d, first_moment + i);
    hn::StoreU(v, d, second_moment + i);
    hn::StoreU(hn::NegMulAdd(hn::Set(d, constants.rate), hn::Div(m, root), kept), d, value + i);
  });
}

}  // namespace fewbit::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit::kernels {

HWY_EXPORT(AddParts);
HWY_EXPORT(AdamW);

double add_parts(float* total, std::span<const float* const> parts, size_t count) {
  return HWY_DYNAMIC_DISPATCH(AddParts)(total, parts.data(), parts.size(), count);
}

void adamw(const AdamWConstants& constants, const float* gradient, size_t count, float* value,
           float* first_moment, float* second_moment) {
  HWY_DYNAMIC_DISPATCH(AdamW)
  (constants, gradient, count, value, first_moment, second_moment);
}

}  // namespace fewbit::kernels
#endif
