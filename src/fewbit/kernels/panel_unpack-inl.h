// Per-target code: how codes of a panel become bytes, and the dot product of bytes. Included once
// for each target; every function must carry FEWBIT_PANEL_ATTR.
#if defined(FEWBIT_KERNELS_PANEL_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FEWBIT_KERNELS_PANEL_UNPACK_INL_H_
#undef FEWBIT_KERNELS_PANEL_UNPACK_INL_H_
#else
#define FEWBIT_KERNELS_PANEL_UNPACK_INL_H_
#endif

#include <cstring>

#include "fewbit/kernels/panel_matrix.h"
#include "hwy/cache_control.h"
#include "hwy/highway.h"

// Targets that compile the vector code; the others call the scalar reference. Scalable vectors
// cannot stand in arrays.
#undef FEWBIT_PANEL_SIMD
#if HWY_TARGET == HWY_SCALAR || HWY_HAVE_SCALABLE
#define FEWBIT_PANEL_SIMD 0
#else
#define FEWBIT_PANEL_SIMD 1
#endif

// Highway 1.0.3 chooses AVX3_DL only where the processor has VNNI, yet does not tell the compiler.
#undef FEWBIT_PANEL_VNNI
#undef FEWBIT_PANEL_ATTR
#if HWY_TARGET == HWY_AVX3_DL
#define FEWBIT_PANEL_VNNI 1
#define FEWBIT_PANEL_ATTR __attribute__((target("avx512vnni")))
#else
#define FEWBIT_PANEL_VNNI 0
#define FEWBIT_PANEL_ATTR
#endif
#undef FEWBIT_PANEL_INLINE
#define FEWBIT_PANEL_INLINE FEWBIT_PANEL_ATTR inline __attribute__((always_inline))

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {
#if FEWBIT_PANEL_SIMD

namespace hn = hwy::HWY_NAMESPACE;

// A quad is kParts vectors.
using D8 = hn::ScalableTag<uint8_t>;
using D16 = hn::Repartition<uint16_t, D8>;
using D32 = hn::Repartition<int32_t, D8>;
using DF = hn::Repartition<float, D8>;
using V8 = hn::Vec<D8>;
using V32 = hn::Vec<D32>;
using VF = hn::Vec<DF>;
constexpr size_t kVectorBytes = HWY_MAX_BYTES;
constexpr size_t kParts = kQuadBytes / kVectorBytes;
constexpr size_t kPartRows = kPanelHeight / kParts;

// Bytes ahead of the code stream that are asked for. Measured on Zen 4 with huge pages: streams of
// 4 bits and more gain a tenth, those of 2 bits, which the processor's own prefetcher keeps up
// with, lose a tenth.
constexpr size_t kPrefetchAhead = 4096;

// Whether bytes above 127 may be multiplied as they are.
constexpr bool kUnsignedDot = FEWBIT_PANEL_VNNI;

// acc + the dot product of each 4 bytes u with the 4 signed bytes x of the same lane; u is
// unsigned, and at most 128 unless kUnsignedDot; x is at least -127.
FEWBIT_PANEL_INLINE V32 DotUnsigned(V32 acc, V8 u, V32 x) {
#if FEWBIT_PANEL_VNNI
  // Not the intrinsic: GCC 12 copies the sum before and after it, which costs a third of the speed.
  asm("vpdpbusd %2, %1, %0" : "+v"(acc.raw) : "v"(u.raw), "v"(x.raw));
  return acc;
#elif HWY_TARGET == HWY_AVX3
  const auto pairs = _mm512_maddubs_epi16(u.raw, x.raw);
  return hn::Add(acc, V32{_mm512_madd_epi16(pairs, _mm512_set1_epi16(1))});
#elif HWY_TARGET == HWY_AVX2
  const auto pairs = _mm256_maddubs_epi16(u.raw, x.raw);
  return hn::Add(acc, V32{_mm256_madd_epi16(pairs, _mm256_set1_epi16(1))});
#elif HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
  const auto pairs = _mm_maddubs_epi16(u.raw, x.raw);
  return hn::Add(acc, V32{_mm_madd_epi16(pairs, _mm_set1_epi16(1))});
#else
  const D32 d;
  const auto mask = hn::Set(d, 255);
  const V32 codes = hn::BitCast(d, u);
  const auto place = [&](auto up, auto right) HWY_ATTR {
    return hn::Mul(hn::And(hn::ShiftRight<decltype(right)::value>(codes), mask),
                   hn::ShiftRight<24>(hn::ShiftLeft<decltype(up)::value>(x)));
  };
  const V32 low =
      hn::Add(place(std::integral_constant<int, 24>{}, std::integral_constant<int, 0>{}),
              place(std::integral_constant<int, 16>{}, std::integral_constant<int, 8>{}));
  const V32 high =
      hn::Add(place(std::integral_constant<int, 8>{}, std::integral_constant<int, 16>{}),
              place(std::integral_constant<int, 0>{}, std::integral_constant<int, 24>{}));
  return hn::Add(acc, hn::Add(low, high));
#endif
}

// The same for codes of the whole byte range. They are unsigned where kUnsignedDot, otherwise
// signed (less 128).
FEWBIT_PANEL_INLINE V32 DotWide(V32 acc, V8 w, V32 x) {
#if FEWBIT_PANEL_VNNI
  return DotUnsigned(acc, w, x);
#else
  // |w| times x with the sign of w.
  const hn::Repartition<int8_t, D8> ds;
  const D32 d;
  const auto weight = hn::BitCast(ds, w);
  const auto value = hn::BitCast(ds, x);
  const auto turned = hn::IfThenElse(hn::Lt(weight, hn::Zero(ds)), hn::Neg(value), value);
  // |-128| wraps to the byte 128, which DotUnsigned still multiplies exactly.
  return DotUnsigned(acc, hn::BitCast(D8(), hn::Abs(weight)), hn::BitCast(d, turned));
#endif
}

template <int kBits>
FEWBIT_PANEL_INLINE V8 ShiftBytesRight(V8 v) {
  return hn::BitCast(D8(), hn::ShiftRight<kBits>(hn::BitCast(D16(), v)));
}

// --- Layouts -------------------------------------------------------------------------------------
// Each gives the kQuads quads of step `step` (kColumns columns) of a panel's codes, part `part` of
// each. kWide: codes span the byte range, so that DotWide multiplies them. kPower: with kRaw, quad
// q comes multiplied by 2^kPower[q], which saves the shifts where DotUnsigned allows it. kPrefetch:
// whether to ask for codes ahead.

FEWBIT_PANEL_INLINE V8 LoadCodes(const uint8_t* codes, size_t offset, size_t part) {
  return hn::LoadU(D8(), codes + offset + part * kVectorBytes);
}

// Part of a plane of one bit in half a quad's bytes: bits 0 to 3 of each byte belong to quads 0 to
// 3; what stands above is to be ignored.
FEWBIT_PANEL_INLINE V8 LoadHalfPlane(const uint8_t* plane, size_t part) {
  constexpr size_t kLowParts = kParts / 2;
  const V8 bytes = hn::LoadU(D8(), plane + part % kLowParts * kVectorBytes);
  return part < kLowParts ? bytes : ShiftBytesRight<4>(bytes);
}

// Bit kQuad of each byte at place kTo, among others.
template <int kQuad, int kTo>
FEWBIT_PANEL_INLINE V8 MovePlaneBit(V8 plane) {
  if constexpr (kQuad > kTo) return ShiftBytesRight<kQuad - kTo>(plane);
  if constexpr (kQuad < kTo) {
    return hn::BitCast(D8(), hn::ShiftLeft<kTo - kQuad>(hn::BitCast(D16(), plane)));
  }
  return plane;
}

FEWBIT_PANEL_INLINE void SplitNibbles(V8 v, V8* quads) {
  const V8 mask = hn::Set(D8(), uint8_t{15});
  quads[0] = hn::And(v, mask);
  quads[1] = hn::And(ShiftBytesRight<4>(v), mask);
}

FEWBIT_PANEL_INLINE void SplitTwoBits(V8 v, V8* quads) {
  const V8 mask = hn::Set(D8(), uint8_t{3});
  quads[0] = hn::And(v, mask);
  quads[1] = hn::And(ShiftBytesRight<2>(v), mask);
  quads[2] = hn::And(ShiftBytesRight<4>(v), mask);
  quads[3] = hn::And(ShiftBytesRight<6>(v), mask);
}

struct UnpackBits1 {
  static constexpr size_t kColumns = 32, kQuads = 8, kBytes = kQuadBytes;
  static constexpr bool kWide = false, kPrefetch = false;
  static constexpr int kPower[] = {-1, 0, 1, 2, 3, 4, 5, 6};
  template <bool kRaw>
  FEWBIT_PANEL_INLINE void Step(const uint8_t* codes, size_t step, size_t part, V8* quads) const {
    const D8 d;
    const V8 v = LoadCodes(codes, step * kBytes, part);
    if constexpr (kRaw) {
      for (size_t q = 0; q < kQuads; ++q) {
        quads[q] = hn::And(v, hn::Set(d, static_cast<uint8_t>(1u << q)));
      }
      return;
    }
    const V8 two = hn::Set(d, uint8_t{2});
    quads[0] = hn::And(hn::Add(v, v), two);
    quads[1] = hn::And(v, two);
    quads[2] = hn::And(ShiftBytesRight<1>(v), two);
    quads[3] = hn::And(ShiftBytesRight<2>(v), two);
    quads[4] = hn::And(ShiftBytesRight<3>(v), two);
    quads[5] = hn::And(ShiftBytesRight<4>(v), two);
    quads[6] = hn::And(ShiftBytesRight<5>(v), two);
    quads[7] = hn::And(ShiftBytesRight<6>(v), two);
  }
};

struct UnpackBits2 {
  static constexpr size_t kColumns = 16, kQuads = 4, kBytes = kQuadBytes;
  static constexpr bool kWide = false, kPrefetch = false;
  static constexpr int kPower[] = {0, 2, 4, 6};
  template <bool kRaw>
  FEWBIT_PANEL_INLINE void Step(const uint8_t* codes, size_t step, size_t part, V8* quads) const {
    const V8 v = LoadCodes(codes, step * kBytes, part);
    if constexpr (kRaw) {
      const D8 d;
      quads[0] = hn::And(v, hn::Set(d, uint8_t{0x03}));
      quads[1] = hn::And(v, hn::Set(d, uint8_t{0x0c}));
      quads[2] = hn::And(v, hn::Set(d, uint8_t{0x30}));
      quads[3] = hn::And(v, hn::Set(d, uint8_t{0xc0}));
    } else {
      SplitTwoBits(v, quads);
    }
  }
};

struct UnpackBits3 {
  static constexpr size_t kColumns = 16, kQuads = 4, kBytes = 3 * kQuadBytes / 2;
  static constexpr bool kWide = false, kPrefetch = true;
  static constexpr int kPower[] = {0, 0, 0, 0};
  template <bool kRaw>
  FEWBIT_PANEL_INLINE void Step(const uint8_t* codes, size_t step, size_t part, V8* quads) const {
    const uint8_t* pair = codes + step / 2 * (2 * kBytes);
    SplitTwoBits(LoadCodes(pair, step % 2 * kQuadBytes, part), quads);
    const V8 plane = LoadHalfPlane(pair + 2 * kQuadBytes + step % 2 * (kQuadBytes / 2), part);
    const V8 bit = hn::Set(D8(), uint8_t{4});
    quads[0] = hn::OrAnd(quads[0], MovePlaneBit<0, 2>(plane), bit);
    quads[1] = hn::OrAnd(quads[1], MovePlaneBit<1, 2>(plane), bit);
    quads[2] = hn::OrAnd(quads[2], MovePlaneBit<2, 2>(plane), bit);
    quads[3] = hn::OrAnd(quads[3], MovePlaneBit<3, 2>(plane), bit);
  }
};

struct UnpackBits4 {
  static constexpr size_t kColumns = 16, kQuads = 4, kBytes = 2 * kQuadBytes;
  static constexpr bool kWide = false, kPrefetch = true;
  static constexpr int kPower[] = {0, 4, 0, 4};
  template <bool kRaw>
  FEWBIT_PANEL_INLINE void Step(const uint8_t* codes, size_t step, size_t part, V8* quads) const {
    for (size_t half = 0; half < 2; ++half) {
      const V8 v = LoadCodes(codes, step * kBytes + half * kQuadBytes, part);
      if constexpr (kRaw) {
        quads[2 * half] = hn::And(v, hn::Set(D8(), uint8_t{0x0f}));
        quads[2 * half + 1] = hn::And(v, hn::Set(D8(), uint8_t{0xf0}));
      } else {
        SplitNibbles(v, quads + 2 * half);
      }
    }
  }
};

struct UnpackBits5 {
  static constexpr size_t kColumns = 16, kQuads = 4, kBytes = 5 * kQuadBytes / 2;
  static constexpr bool kWide = false, kPrefetch = true;
  static constexpr int kPower[] = {0, 0, 0, 0};
  template <bool kRaw>
  FEWBIT_PANEL_INLINE void Step(const uint8_t* codes, size_t step, size_t part, V8* quads) const {
    const uint8_t* pair = codes + step / 2 * (2 * kBytes);
    SplitNibbles(LoadCodes(pair, step % 2 * 2 * kQuadBytes, part), quads);
    SplitNibbles(LoadCodes(pair, (step % 2 * 2 + 1) * kQuadBytes, part), quads + 2);
    const V8 plane = LoadHalfPlane(pair + 4 * kQuadBytes + step % 2 * (kQuadBytes / 2), part);
    const V8 bit = hn::Set(D8(), uint8_t{16});
    quads[0] = hn::OrAnd(quads[0], MovePlaneBit<0, 4>(plane), bit);
    quads[1] = hn::OrAnd(quads[1], MovePlaneBit<1, 4>(plane), bit);
    quads[2] = hn::OrAnd(quads[2], MovePlaneBit<2, 4>(plane), bit);
    quads[3] = hn::OrAnd(quads[3], MovePlaneBit<3, 4>(plane), bit);
  }
};

struct UnpackBits6 {
  static constexpr size_t kColumns = 16, kQuads = 4, kBytes = 3 * kQuadBytes;
  static constexpr bool kWide = false, kPrefetch = true;
  static constexpr int kPower[] = {0, 0, 0, 0};
  template <bool kRaw>
  FEWBIT_PANEL_INLINE void Step(const uint8_t* codes, size_t step, size_t part, V8* quads) const {
    const D8 d;
    SplitNibbles(LoadCodes(codes, step * kBytes, part), quads);
    SplitNibbles(LoadCodes(codes, step * kBytes + kQuadBytes, part), quads + 2);
    const V8 high = LoadCodes(codes, step * kBytes + 2 * kQuadBytes, part);
    const V8 mask = hn::Set(d, uint8_t{0x30});
    const D16 d16;
    const auto up = hn::BitCast(d16, high);
    quads[0] = hn::OrAnd(quads[0], hn::BitCast(d, hn::ShiftLeft<4>(up)), mask);
    quads[1] = hn::OrAnd(quads[1], hn::BitCast(d, hn::ShiftLeft<2>(up)), mask);
    quads[2] = hn::OrAnd(quads[2], high, mask);
    quads[3] = hn::OrAnd(quads[3], ShiftBytesRight<2>(high), mask);
  }
};

struct UnpackBits8 {
  static constexpr size_t kColumns = 16, kQuads = 4, kBytes = 4 * kQuadBytes;
  static constexpr bool kWide = true, kPrefetch = true;
  static constexpr int kPower[] = {0, 0, 0, 0};
  template <bool kRaw>
  FEWBIT_PANEL_INLINE void Step(const uint8_t* codes, size_t step, size_t part, V8* quads) const {
    for (size_t q = 0; q < kQuads; ++q) {
      quads[q] = LoadCodes(codes, step * kBytes + q * kQuadBytes, part);
      if constexpr (!kUnsignedDot) quads[q] = hn::Xor(quads[q], hn::Set(D8(), uint8_t{0x80}));
    }
  }
};

struct UnpackTable4 {
  static constexpr size_t kColumns = 16, kQuads = 4, kBytes = 2 * kQuadBytes;
  static constexpr bool kWide = true, kPrefetch = true;
  static constexpr int kPower[] = {0, 0, 0, 0};
  V8 table;
  FEWBIT_PANEL_INLINE explicit UnpackTable4(const std::array<uint8_t, 16>& levels)
      : table(hn::LoadDup128(D8(), levels.data())) {
    if constexpr (!kUnsignedDot) table = hn::Xor(table, hn::Set(D8(), uint8_t{0x80}));
  }
  template <bool kRaw>
  FEWBIT_PANEL_INLINE void Step(const uint8_t* codes, size_t step, size_t part, V8* quads) const {
    SplitNibbles(LoadCodes(codes, step * kBytes, part), quads);
    SplitNibbles(LoadCodes(codes, step * kBytes + kQuadBytes, part), quads + 2);
    for (size_t q = 0; q < kQuads; ++q) quads[q] = hn::TableLookupBytes(table, quads[q]);
  }
};

// The trits of one vector of a unit: digit n of byte b is (3 b - b') / 256 where b' = 3 b mod 256
// holds the digits that follow.
constexpr size_t kTritVectors = 13, kLastTritQuads = 4;

FEWBIT_PANEL_INLINE V8 TripleBytes(V8 v) { return hn::Add(hn::Add(v, v), v); }

// The leading digit: bytes up to 85 hold 0, up to 170 hold 1.
FEWBIT_PANEL_INLINE V8 LeadingTrit(V8 v) {
  const D8 d;
  const V8 one = hn::Set(d, uint8_t{1});
  return hn::Add(hn::Min(hn::SaturatedSub(v, hn::Set(d, uint8_t{85})), one),
                 hn::Min(hn::SaturatedSub(v, hn::Set(d, uint8_t{170})), one));
}

#endif  // FEWBIT_PANEL_SIMD
}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#endif  // include guard
