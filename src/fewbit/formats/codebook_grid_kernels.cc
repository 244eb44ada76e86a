#include "fewbit/formats/codebook_grid_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/formats/codebook_grid_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

void AssignCodebookColumn(const SortedLevels& sorted, const float* HWY_RESTRICT weights,
                          const float* HWY_RESTRICT inverses, const float* HWY_RESTRICT absmax,
                          uint8_t* HWY_RESTRICT positions, float* HWY_RESTRICT decoded) {
  const hn::CappedTag<float, kPanelRows> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<uint8_t, decltype(d)> du8;
  const auto one = hn::Set(d, 1.0f);
  const size_t half = sorted.levels.size() / 2;
  for (size_t lane = 0; lane < kPanelRows; lane += hn::Lanes(d)) {
    const auto scaled = hn::Mul(hn::Load(d, weights + lane), hn::Load(d, inverses + lane));
    const auto x = hn::Min(hn::Max(scaled, hn::Neg(one)), one);
    // Binary search: the number of midpoints below x is position; 2^bits - 1 midpoints.
    auto position = hn::Zero(di);
    for (size_t step = half; step > 0; step /= 2) {
      const auto jump = hn::Set(di, static_cast<int32_t>(step));
      const auto probe = hn::Add(position, hn::Set(di, static_cast<int32_t>(step) - 1));
      const auto midpoint = hn::GatherIndex(d, sorted.midpoints.data(), probe);
      const auto below = hn::RebindMask(di, hn::Lt(midpoint, x));
      position = hn::Add(position, hn::IfThenElseZero(below, jump));
    }
    const auto level = hn::GatherIndex(d, sorted.levels.data(), position);
    hn::Store(hn::Mul(level, hn::Load(d, absmax + lane)), d, decoded + lane);
    hn::StoreU(hn::DemoteTo(du8, position), du8, positions + lane);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(AssignCodebookColumn);

void assign_codebook_column(const SortedLevels& sorted, const float* weights, const float* inverses,
                            const float* absmax, uint8_t* positions, float* decoded) {
  HWY_DYNAMIC_DISPATCH(AssignCodebookColumn)(sorted, weights, inverses, absmax, positions, decoded);
}

}  // namespace fewbit
#endif  // HWY_ONCE
