// Per-target code: scales and mins of a panel's units as floats (PanelMatrix::expand_scales).
#if defined(FEWBIT_KERNELS_PANEL_SCALES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef FEWBIT_KERNELS_PANEL_SCALES_INL_H_
#undef FEWBIT_KERNELS_PANEL_SCALES_INL_H_
#else
#define FEWBIT_KERNELS_PANEL_SCALES_INL_H_
#endif

#include "fewbit/kernels/panel_unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {
#if FEWBIT_PANEL_SIMD

// Lanes are rows, as in a part of a quad.
FEWBIT_PANEL_INLINE VF LoadFloats(const uint8_t* bytes, Dtype dtype, size_t part) {
  const DF d;
  const size_t first = part * kPartRows;
  if (dtype == Dtype::f32) return hn::LoadU(d, reinterpret_cast<const float*>(bytes) + first);
  const auto* halves = reinterpret_cast<const uint16_t*>(bytes) + first;
  if (dtype == Dtype::bf16) {
    const hn::Rebind<hwy::bfloat16_t, DF> d16;
    const hn::Rebind<uint16_t, DF> du16;
    return hn::PromoteTo(d, hn::BitCast(d16, hn::LoadU(du16, halves)));
  }
  const hn::Rebind<hwy::float16_t, DF> d16;
  const hn::Rebind<uint16_t, DF> du16;
  return hn::PromoteTo(d, hn::BitCast(d16, hn::LoadU(du16, halves)));
}

FEWBIT_PANEL_INLINE V32 LoadBytes(const uint8_t* bytes, size_t part) {
  const hn::Rebind<uint8_t, D32> d8;
  return hn::PromoteTo(D32(), hn::LoadU(d8, bytes + part * kPartRows));
}

// Scales of a panel, record after record. Begin() moves to a record, Get() gives scale and min of
// the record's unit `unit`; kMins: whether there are mins.

template <MinLayout kKind>
class FloatScales {
 public:
  static constexpr bool kMins = kKind != MinLayout::none;
  FEWBIT_PANEL_INLINE explicit FloatScales(const PanelFormat& format) : format_(format) {}
  FEWBIT_PANEL_INLINE void Begin(const uint8_t* record) {
    const DF d;
    const Dtype dtype = format_.scale_dtype;
    const uint8_t* beside = record + kPanelHeight * (dtype == Dtype::f32 ? 4 : 2);
    for (size_t part = 0; part < kParts; ++part) {
      const VF scale = LoadFloats(record, dtype, part);
      scales_[part] = hn::Mul(scale, hn::Set(d, format_.scale_multiplier));
      if constexpr (kKind == MinLayout::mins) mins_[part] = LoadFloats(beside, dtype, part);
      if constexpr (kKind == MinLayout::real_zeros) {
        mins_[part] = hn::Neg(hn::Mul(scale, LoadFloats(beside, dtype, part)));
      }
      if constexpr (kKind == MinLayout::code_zeros) {
        mins_[part] = hn::Neg(hn::Mul(scale, hn::ConvertTo(d, LoadBytes(beside, part))));
      }
    }
  }
  FEWBIT_PANEL_INLINE void Get(size_t, size_t part, VF& scale, VF& min) const {
    scale = scales_[part];
    if constexpr (kMins) min = mins_[part];
  }

 private:
  const PanelFormat& format_;
  VF scales_[kParts], mins_[kParts];
};

// d, and dmin if there are mins, in front of a super-block's record.
template <bool kHasMins>
class SuperBlockScales {
 public:
  static constexpr bool kMins = kHasMins;
  FEWBIT_PANEL_INLINE explicit SuperBlockScales(const PanelFormat&) {}
  FEWBIT_PANEL_INLINE void Begin(const uint8_t* record) {
    constexpr size_t kHalves = 2 * kPanelHeight;
    for (size_t part = 0; part < kParts; ++part) {
      d_[part] = LoadFloats(record, Dtype::f16, part);
      if constexpr (kMins) {
        minus_dmin_[part] = hn::Neg(LoadFloats(record + kHalves, Dtype::f16, part));
      }
    }
    packed_ = record + (kMins ? 2 : 1) * kHalves;
  }

 protected:
  FEWBIT_PANEL_INLINE VF ScaleOf(V32 integer, size_t part) const {
    return hn::Mul(d_[part], hn::ConvertTo(DF(), integer));
  }
  FEWBIT_PANEL_INLINE VF MinOf(V32 integer, size_t part) const {
    return hn::Mul(minus_dmin_[part], hn::ConvertTo(DF(), integer));
  }
  FEWBIT_PANEL_INLINE V32 Byte(size_t index, size_t part) const {
    return LoadBytes(packed_ + index * kPanelHeight, part);
  }
  // Six-bit number `index`: four of them in three bytes.
  FEWBIT_PANEL_INLINE V32 SixBits(size_t index, size_t part) const {
    const size_t first = index / 4 * 3;
    if (index % 4 < 3) return hn::And(Byte(first + index % 4, part), hn::Set(D32(), 63));
    return hn::Or(hn::ShiftRight<6>(Byte(first, part)),
                  hn::Or(hn::ShiftLeft<2>(hn::ShiftRight<6>(Byte(first + 1, part))),
                         hn::ShiftLeft<4>(hn::ShiftRight<6>(Byte(first + 2, part)))));
  }

  const uint8_t* packed_ = nullptr;
  VF d_[kParts], minus_dmin_[kParts];
};

struct ScalesK2 : SuperBlockScales<true> {
  FEWBIT_PANEL_INLINE explicit ScalesK2(const PanelFormat& format) : SuperBlockScales(format) {}
  FEWBIT_PANEL_INLINE void Get(size_t unit, size_t part, VF& scale, VF& min) const {
    const V32 both = Byte(unit, part);
    scale = ScaleOf(hn::And(both, hn::Set(D32(), 15)), part);
    min = MinOf(hn::ShiftRight<4>(both), part);
  }
};

struct ScalesK3 : SuperBlockScales<false> {
  FEWBIT_PANEL_INLINE explicit ScalesK3(const PanelFormat& format) : SuperBlockScales(format) {}
  FEWBIT_PANEL_INLINE void Get(size_t unit, size_t part, VF& scale, VF&) const {
    scale = ScaleOf(hn::Sub(SixBits(unit, part), hn::Set(D32(), 32)), part);
  }
};

struct ScalesK4 : SuperBlockScales<true> {
  FEWBIT_PANEL_INLINE explicit ScalesK4(const PanelFormat& format) : SuperBlockScales(format) {}
  FEWBIT_PANEL_INLINE void Get(size_t unit, size_t part, VF& scale, VF& min) const {
    scale = ScaleOf(SixBits(2 * unit, part), part);
    min = MinOf(SixBits(2 * unit + 1, part), part);
  }
};

struct ScalesK6 : SuperBlockScales<false> {
  FEWBIT_PANEL_INLINE explicit ScalesK6(const PanelFormat& format) : SuperBlockScales(format) {}
  FEWBIT_PANEL_INLINE void Get(size_t unit, size_t part, VF& scale, VF&) const {
    const hn::Rebind<int8_t, D32> d8;
    const auto* bytes = reinterpret_cast<const int8_t*>(packed_ + unit * kPanelHeight);
    scale = ScaleOf(hn::PromoteTo(D32(), hn::LoadU(d8, bytes + part * kPartRows)), part);
  }
};

// Calls `body` with the reader of a format's scales.
template <class Body>
FEWBIT_PANEL_INLINE void WithScales(const PanelFormat& format, const Body& body) {
  switch (format.scales) {
    case ScaleLayout::k2:
      return body(ScalesK2(format));
    case ScaleLayout::k3:
      return body(ScalesK3(format));
    case ScaleLayout::k4:
      return body(ScalesK4(format));
    case ScaleLayout::k6:
      return body(ScalesK6(format));
    case ScaleLayout::floats:
      break;
  }
  switch (format.mins) {
    case MinLayout::none:
      return body(FloatScales<MinLayout::none>(format));
    case MinLayout::mins:
      return body(FloatScales<MinLayout::mins>(format));
    case MinLayout::real_zeros:
      return body(FloatScales<MinLayout::real_zeros>(format));
    case MinLayout::code_zeros:
      return body(FloatScales<MinLayout::code_zeros>(format));
  }
}

template <class Scales>
FEWBIT_PANEL_ATTR void ExpandWith(Scales reader, const ScaleRecord& layout,
                                  const uint8_t* scale_bytes, size_t first, size_t count,
                                  float* scales, float* mins) {
  const DF d;
  const uint8_t* record = scale_bytes + first / layout.units * layout.bytes;
  size_t unit = first % layout.units;
  reader.Begin(record);
  for (size_t u = 0; u < count; ++u) {
    for (size_t part = 0; part < kParts; ++part) {
      VF scale, min;
      reader.Get(unit, part, scale, min);
      const size_t place = u * kPanelHeight + part * kPartRows;
      hn::StoreU(scale, d, scales + place);
      if constexpr (Scales::kMins) hn::StoreU(min, d, mins + place);
    }
    if (++unit == layout.units && u + 1 < count) {
      unit = 0;
      record += layout.bytes;
      reader.Begin(record);
    }
  }
}

// PanelMatrix::expand_scales of a panel whose scales are at `scale_bytes`.
FEWBIT_PANEL_ATTR inline void ExpandScales(const PanelFormat& format, const uint8_t* scale_bytes,
                                           size_t first, size_t count, float* scales, float* mins) {
  const ScaleRecord layout = scale_record(format);
  WithScales(format, [&](const auto& reader) FEWBIT_PANEL_ATTR {
    ExpandWith(reader, layout, scale_bytes, first, count, scales, mins);
  });
}

#endif  // FEWBIT_PANEL_SIMD
}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#endif  // include guard
