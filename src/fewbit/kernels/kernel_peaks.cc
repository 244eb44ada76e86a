#include "fewbit/kernels/kernel_peaks.h"

#include <algorithm>
#include <chrono>

#define HWY_WANT_AVX3_DL
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/kernels/kernel_peaks.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "fewbit/kernels/panel_unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

uint64_t SumOfWords(const std::byte* bytes, size_t size) {
  namespace hw = hwy::HWY_NAMESPACE;
  const hw::ScalableTag<uint64_t> d;
  const size_t lanes = hw::Lanes(d), step = 4 * lanes * sizeof(uint64_t);
  const auto* words = reinterpret_cast<const uint64_t*>(bytes);
  auto a = hw::Zero(d), b = a, c = a, e = a;
  for (size_t i = 0; i + step <= size; i += step, words += 4 * lanes) {
    a = hw::Add(a, hw::LoadU(d, words));
    b = hw::Add(b, hw::LoadU(d, words + lanes));
    c = hw::Add(c, hw::LoadU(d, words + 2 * lanes));
    e = hw::Add(e, hw::LoadU(d, words + 3 * lanes));
  }
  return hw::GetLane(hw::SumOfLanes(d, hw::Add(hw::Add(a, b), hw::Add(c, e))));
}

#if FEWBIT_PANEL_SIMD

// Independent sums: enough to hide the latency of the dot product.
constexpr size_t kPeakSums = 12;

FEWBIT_PANEL_ATTR double DotOperations(size_t rounds, int32_t* result) {
  const D32 di;
  const V8 u = hn::Set(D8(), uint8_t{3});
  const V32 x = hn::Set(di, 0x01020304);
  V32 sums[kPeakSums];
  for (V32& sum : sums) sum = hn::Zero(di);
  for (size_t i = 0; i < rounds; ++i) {
    for (V32& sum : sums) sum = DotUnsigned(sum, u, x);
  }
  for (size_t i = 1; i < kPeakSums; ++i) sums[0] = hn::Add(sums[0], sums[i]);
  *result = hn::GetLane(sums[0]);
  return 2.0 * kVectorBytes * kPeakSums * static_cast<double>(rounds);
}

#else

double DotOperations(size_t rounds, int32_t* result) {
  int32_t sum = 0;
  for (size_t i = 0; i < rounds; ++i) sum += static_cast<int8_t>(i) * static_cast<int8_t>(i + 1);
  *result = sum;
  return 2.0 * static_cast<double>(rounds);
}

#endif

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(SumOfWords);
HWY_EXPORT(DotOperations);

uint64_t sum_of_words(std::span<const std::byte> bytes) {
  return HWY_DYNAMIC_DISPATCH(SumOfWords)(bytes.data(), bytes.size());
}

double dot_product_peak() {
  using Clock = std::chrono::steady_clock;
  constexpr int kTries = 20;
  constexpr size_t kRounds = 100000;
  double best = 0;
  for (int i = 0; i < kTries; ++i) {
    volatile int32_t sink;
    int32_t result;
    const Clock::time_point start = Clock::now();
    const double operations = HWY_DYNAMIC_DISPATCH(DotOperations)(kRounds, &result);
    sink = result;
    (void)sink;
    best = std::max(best, operations / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace fewbit
#endif  // HWY_ONCE
