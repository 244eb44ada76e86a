#include "fewbit/laws/stream_kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/laws/stream_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<uint64_t, kStreamValues / 2>;
using V = hn::Vec<D>;

// Philox 4x32-10: see base/random.h.
constexpr uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
constexpr size_t kRounds = 10;

// Product of the lower halves.
HWY_INLINE V MulLower(V a, V b) {
#if HWY_TARGET == HWY_SCALAR
  constexpr uint64_t kLower = 0xFFFFFFFF;
  return hn::Set(D(), (hn::GetLane(a) & kLower) * (hn::GetLane(b) & kLower));
#else
  const hn::Repartition<uint32_t, D> d32;
  return hn::MulEven(hn::BitCast(d32, a), hn::BitCast(d32, b));
#endif
}

void Fill(const uint32_t* key, uint64_t block, uint64_t* HWY_RESTRICT values, size_t count) {
  const D d;
  V keys0[kRounds], keys1[kRounds];
  uint32_t key0 = key[0], key1 = key[1];
  for (size_t round = 0; round < kRounds; ++round, key0 += kWeyl0, key1 += kWeyl1) {
    keys0[round] = hn::Set(d, uint64_t{key0});
    keys1[round] = hn::Set(d, uint64_t{key1});
  }
  const V multiplier0 = hn::Set(d, uint64_t{kMultiplier0});
  const V multiplier1 = hn::Set(d, uint64_t{kMultiplier1});
  const V lower = hn::Set(d, uint64_t{0xFFFFFFFF});
  for (size_t i = 0; i < count; i += 2 * hn::Lanes(d)) {
    // Words are the lower halves of lanes, whose upper halves hold anything.
    V word0 = hn::Iota(d, block + i / 2), word1 = hn::ShiftRight<32>(word0);
    V word2 = hn::Zero(d), word3 = hn::Zero(d);
    for (size_t round = 0; round < kRounds; ++round) {
      const V product0 = MulLower(word0, multiplier0), product1 = MulLower(word2, multiplier1);
      word0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), word1), keys0[round]);
      word2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), word3), keys1[round]);
      word1 = product1;
      word3 = product0;
    }
    const V first = hn::Or(hn::And(word0, lower), hn::ShiftLeft<32>(word1));
    const V second = hn::Or(hn::And(word2, lower), hn::ShiftLeft<32>(word3));
    hn::StoreInterleaved2(first, second, d, values + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(Fill);

void fill_stream_values(std::array<uint32_t, 2> key, uint64_t block, std::span<uint64_t> values) {
  HWY_DYNAMIC_DISPATCH(Fill)(key.data(), block, values.data(), values.size());
}

}  // namespace fewbit
#endif  // HWY_ONCE
