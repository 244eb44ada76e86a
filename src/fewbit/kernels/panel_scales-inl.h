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

FEWBIT_PANEL_INLINE void StoreScale(VF value, float* target, size_t unit, size_t part) {
  hn::StoreU(value, DF(), target + unit * kPanelHeight + part * kPartRows);
}

FEWBIT_PANEL_ATTR inline void ExpandFloats(const PanelFormat& format, const uint8_t* scale_bytes,
                                           size_t first, size_t count, float* scales, float* mins) {
  const DF d;
  const size_t width = format.scale_dtype == Dtype::f32 ? 4 : 2;
  const size_t record_bytes = scale_record(format).bytes;
  const uint8_t* record = scale_bytes + first / format.units_per_scale * record_bytes;
  size_t left = format.units_per_scale - first % format.units_per_scale;
  for (size_t u = 0; u < count; ++u) {
    for (size_t part = 0; part < kParts; ++part) {
      const VF scale = LoadFloats(record, format.scale_dtype, part);
      StoreScale(hn::Mul(scale, hn::Set(d, format.scale_multiplier)), scales, u, part);
      const uint8_t* beside = record + kPanelHeight * width;
      switch (format.mins) {
        case MinLayout::none:
          break;
        case MinLayout::mins:
          StoreScale(LoadFloats(beside, format.scale_dtype, part), mins, u, part);
          break;
        case MinLayout::real_zeros:
          StoreScale(hn::Neg(hn::Mul(scale, LoadFloats(beside, format.scale_dtype, part))), mins, u,
                     part);
          break;
        case MinLayout::code_zeros:
          StoreScale(hn::Neg(hn::Mul(scale, hn::ConvertTo(d, LoadBytes(beside, part)))), mins, u,
                     part);
          break;
      }
    }
    if (--left == 0) {
      record += record_bytes;
      left = format.units_per_scale;
    }
  }
}

// Super-blocks: `first` and `count` are multiples of the record's units.
FEWBIT_PANEL_ATTR inline void ExpandSuperBlocks(const PanelFormat& format,
                                                const uint8_t* scale_bytes, size_t first,
                                                size_t count, float* scales, float* mins) {
  const DF d;
  constexpr size_t kHalves = 2 * kPanelHeight, kSixBits = 3 * kPanelHeight;
  const ScaleRecord layout = scale_record(format);
  const uint8_t* record = scale_bytes + first / layout.units * layout.bytes;
  for (size_t u = 0; u < count; u += layout.units, record += layout.bytes) {
    for (size_t part = 0; part < kParts; ++part) {
      const VF scale = LoadFloats(record, Dtype::f16, part);
      const auto scaled = [&](VF factor, V32 integer) FEWBIT_PANEL_ATTR {
        return hn::Mul(factor, hn::ConvertTo(DF(), integer));
      };
      // a, b, c and d of three bytes.
      const auto six_bits = [&](const uint8_t* bytes, V32* values) FEWBIT_PANEL_ATTR {
        const D32 di;
        const V32 a = LoadBytes(bytes, part), b = LoadBytes(bytes + kPanelHeight, part);
        const V32 c = LoadBytes(bytes + 2 * kPanelHeight, part), mask = hn::Set(di, 63);
        values[0] = hn::And(a, mask);
        values[1] = hn::And(b, mask);
        values[2] = hn::And(c, mask);
        values[3] = hn::Or(hn::ShiftRight<6>(a), hn::Or(hn::ShiftLeft<2>(hn::ShiftRight<6>(b)),
                                                        hn::ShiftLeft<4>(hn::ShiftRight<6>(c))));
      };
      switch (format.scales) {
        case ScaleLayout::k2: {
          const VF step = hn::Neg(LoadFloats(record + kHalves, Dtype::f16, part));
          for (size_t i = 0; i < layout.units; ++i) {
            const V32 both = LoadBytes(record + 2 * kHalves + i * kPanelHeight, part);
            StoreScale(scaled(scale, hn::And(both, hn::Set(D32(), 15))), scales, u + i, part);
            StoreScale(scaled(step, hn::ShiftRight<4>(both)), mins, u + i, part);
          }
          break;
        }
        case ScaleLayout::k4: {
          const VF step = hn::Neg(LoadFloats(record + kHalves, Dtype::f16, part));
          for (size_t i = 0; i < layout.units; i += 2) {
            V32 values[4];
            six_bits(record + 2 * kHalves + i / 2 * kSixBits, values);
            StoreScale(scaled(scale, values[0]), scales, u + i, part);
            StoreScale(scaled(step, values[1]), mins, u + i, part);
            StoreScale(scaled(scale, values[2]), scales, u + i + 1, part);
            StoreScale(scaled(step, values[3]), mins, u + i + 1, part);
          }
          break;
        }
        case ScaleLayout::k3:
          for (size_t i = 0; i < layout.units; i += 4) {
            V32 values[4];
            six_bits(record + kHalves + i / 4 * kSixBits, values);
            for (size_t j = 0; j < 4; ++j) {
              StoreScale(scaled(scale, hn::Sub(values[j], hn::Set(D32(), 32))), scales, u + i + j,
                         part);
            }
          }
          break;
        case ScaleLayout::k6:
          for (size_t i = 0; i < layout.units; ++i) {
            const V32 bytes = LoadBytes(record + kHalves + i * kPanelHeight, part);
            const V32 value = hn::ShiftRight<24>(hn::ShiftLeft<24>(bytes));
            StoreScale(scaled(scale, value), scales, u + i, part);
          }
          break;
        case ScaleLayout::floats:
          break;
      }
    }
  }
  (void)d;
}

FEWBIT_PANEL_ATTR inline void ExpandScales(const PanelFormat& format, const uint8_t* scale_bytes,
                                           size_t first, size_t count, float* scales, float* mins) {
  if (format.scales == ScaleLayout::floats) {
    ExpandFloats(format, scale_bytes, first, count, scales, mins);
  } else {
    ExpandSuperBlocks(format, scale_bytes, first, count, scales, mins);
  }
}

#endif  // FEWBIT_PANEL_SIMD
}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#endif  // include guard
