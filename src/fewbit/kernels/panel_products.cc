#include "fewbit/kernels/panel_products.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#define HWY_WANT_AVX3_DL
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "fewbit/kernels/panel_products.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
//
#include "fewbit/kernels/panel_scales-inl.h"
#include "fewbit/kernels/panel_unpack-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fewbit {
namespace HWY_NAMESPACE {
#if FEWBIT_PANEL_SIMD

FEWBIT_PANEL_INLINE V32 BroadcastQuad(const int8_t* x, size_t index) {
  int32_t quad;
  std::memcpy(&quad, x + kQuadColumns * index, sizeof quad);
  return hn::Set(D32(), quad);
}

template <int kPower>
FEWBIT_PANEL_INLINE V32 DividePower(V32 v) {
  if constexpr (kPower < 0) return hn::ShiftLeft<-kPower>(v);
  if constexpr (kPower > 0) return hn::ShiftRight<kPower>(v);
  return v;
}

template <class Unpack, size_t... kQuad>
FEWBIT_PANEL_INLINE V32 CombineRaw(const V32* acc, std::index_sequence<kQuad...>) {
  V32 total = hn::Zero(D32());
  ((total = hn::Add(total, DividePower<Unpack::kPower[kQuad]>(acc[kQuad]))), ...);
  return total;
}

FEWBIT_PANEL_INLINE void PrefetchCodes(const uint8_t* codes, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) hwy::Prefetch(codes + kPrefetchAhead + i);
}

// Parts of a quad that share the registers: with long vectors a broadcast quad of activations then
// serves twice.
constexpr size_t kTogether = kVectorBytes == 64 ? 2 : 1;

// acc += codes * x for a quad of activations.
template <class Unpack>
FEWBIT_PANEL_INLINE void AddDot(V32& acc, V8 codes, V32 x) {
  acc = Unpack::kWide ? DotWide(acc, codes, x) : DotUnsigned(acc, codes, x);
}

// Sums of value * x over one unit.
template <bool kRaw, class Unpack>
FEWBIT_PANEL_INLINE void UnitDotOf(const Unpack& unpack, const uint8_t* codes, size_t unit,
                                   size_t unit_columns, const int8_t* x, V32* totals) {
  // Several sums hide the latency of the dot product, and with kRaw keep powers of two apart.
  constexpr size_t kSums = kRaw ? Unpack::kQuads : 4;
  const size_t steps = unit_columns / Unpack::kColumns;
  for (size_t first_part = 0; first_part < kParts; first_part += kTogether) {
    V32 sums[kTogether][kSums];
    for (size_t p = 0; p < kTogether; ++p) {
      for (size_t i = 0; i < kSums; ++i) sums[p][i] = hn::Zero(D32());
    }
    for (size_t s = unit * steps; s < (unit + 1) * steps; ++s) {
      if (Unpack::kPrefetch && first_part == 0) {
        PrefetchCodes(codes + s * Unpack::kBytes, Unpack::kBytes);
      }
      V8 quads[kTogether][Unpack::kQuads];
      for (size_t p = 0; p < kTogether; ++p) {
        unpack.template Step<kRaw>(codes, s, first_part + p, quads[p]);
      }
      for (size_t q = 0; q < Unpack::kQuads; ++q) {
        const V32 activations = BroadcastQuad(x, s * Unpack::kQuads + q);
        for (size_t p = 0; p < kTogether; ++p) {
          AddDot<Unpack>(sums[p][q % kSums], quads[p][q], activations);
        }
      }
    }
    for (size_t p = 0; p < kTogether; ++p) {
      if constexpr (kRaw) {
        totals[first_part + p] = CombineRaw<Unpack>(sums[p], std::make_index_sequence<kSums>());
      } else {
        totals[first_part + p] =
            hn::Add(hn::Add(sums[p][0], sums[p][1]), hn::Add(sums[p][2], sums[p][3]));
      }
    }
  }
}

// UnitDot of a unit that is one step.
template <class Unpack>
FEWBIT_PANEL_INLINE void UnitDotOfStep(const Unpack& unpack, const uint8_t* codes, size_t unit,
                                       const int8_t* x, V32* totals) {
  if (Unpack::kPrefetch) PrefetchCodes(codes + unit * Unpack::kBytes, Unpack::kBytes);
  x += unit * Unpack::kColumns;
  for (size_t first_part = 0; first_part < kParts; first_part += kTogether) {
    V8 quads[kTogether][Unpack::kQuads];
    for (size_t p = 0; p < kTogether; ++p) {
      unpack.template Step<false>(codes, unit, first_part + p, quads[p]);
      totals[first_part + p] = hn::Zero(D32());
    }
    for (size_t q = 0; q < Unpack::kQuads; ++q) {
      const V32 activations = BroadcastQuad(x, q);
      for (size_t p = 0; p < kTogether; ++p) {
        AddDot<Unpack>(totals[first_part + p], quads[p][q], activations);
      }
    }
  }
}

template <class Unpack>
FEWBIT_PANEL_INLINE void UnitDot(const Unpack& unpack, const uint8_t* codes, size_t unit,
                                 size_t unit_columns, const int8_t* x, V32* totals) {
  // A single step: shifting the codes costs less than shifting and adding the sums.
  constexpr bool kRaw = kUnsignedDot && !Unpack::kWide;
  if (kRaw && unit_columns > Unpack::kColumns) {
    UnitDotOf<kRaw>(unpack, codes, unit, unit_columns, x, totals);
  } else if (unit_columns > Unpack::kColumns) {
    UnitDotOf<false>(unpack, codes, unit, unit_columns, x, totals);
  } else {
    UnitDotOfStep(unpack, codes, unit, x, totals);
  }
}

// Trits: with unsigned dot products the digits need not be isolated,
// sum t x = (3 sum b x - sum b' x) / 256.
struct UnpackTrits {
  static constexpr bool kWide = false;
};
FEWBIT_PANEL_INLINE void UnitDot(const UnpackTrits&, const uint8_t* codes, size_t unit, size_t,
                                 const int8_t* x, V32* totals) {
  const D32 di;
  codes += unit * kTritVectors * kQuadBytes;
  x += unit * kTritUnit;
  for (size_t first_part = 0; first_part < kParts; first_part += kTogether) {
    V32 sums[kTogether], next_sums[kTogether];
    for (size_t p = 0; p < kTogether; ++p) sums[p] = next_sums[p] = hn::Zero(di);
    for (size_t v = 0; v < kTritVectors; ++v) {
      V8 bytes[kTogether];
      for (size_t p = 0; p < kTogether; ++p) {
        bytes[p] = LoadCodes(codes, v * kQuadBytes, first_part + p);
      }
      const size_t count = v + 1 < kTritVectors ? kTritsPerByte : kLastTritQuads;
      for (size_t n = 0; n < count; ++n) {
        const V32 activations = BroadcastQuad(x, v * kTritsPerByte + n);
        for (size_t p = 0; p < kTogether; ++p) {
          const V8 next = TripleBytes(bytes[p]);
          if constexpr (kUnsignedDot) {
            sums[p] = DotUnsigned(sums[p], bytes[p], activations);
            next_sums[p] = DotUnsigned(next_sums[p], next, activations);
          } else {
            sums[p] = DotUnsigned(sums[p], LeadingTrit(bytes[p]), activations);
          }
          bytes[p] = next;
        }
      }
    }
    for (size_t p = 0; p < kTogether; ++p) {
      totals[first_part + p] = sums[p];
      if constexpr (kUnsignedDot) {
        const V32 thrice = hn::Add(hn::Add(sums[p], sums[p]), sums[p]);
        totals[first_part + p] = hn::ShiftRight<8>(hn::Sub(thrice, next_sums[p]));
      }
    }
  }
}

// Codes of wide layouts come less 128 where the dot product is signed.
template <class Unpack>
FEWBIT_PANEL_INLINE int32_t EffectiveOffset(const PanelFormat& format) {
  return Unpack::kWide && !kUnsignedDot ? format.offset - 128 : format.offset;
}

template <class Unpack, class Scales>
FEWBIT_PANEL_ATTR void Matvec(const Unpack& unpack, Scales scales, const PanelMatrix& weights,
                              size_t first_panel, size_t last_panel, const ActivationTile& x,
                              float* HWY_RESTRICT y) {
  const DF d;
  const D32 di;
  const PanelFormat& format = weights.format();
  const size_t unit_columns = format.unit_columns, units = weights.units();
  const ScaleRecord layout = scale_record(format);
  const int32_t offset = EffectiveOffset<Unpack>(format);
  for (size_t panel = first_panel; panel < last_panel; ++panel, y += kPanelHeight) {
    const uint8_t* codes = weights.panel_codes(panel);
    const uint8_t* record = weights.panel_scales(panel);
    VF sums[kParts];
    for (size_t part = 0; part < kParts; ++part) sums[part] = hn::Zero(d);
    for (size_t first = 0; first < units; first += layout.units, record += layout.bytes) {
      scales.Begin(record);
      const size_t count = HWY_MIN(layout.units, units - first);
      for (size_t i = 0; i < count; ++i) {
        const size_t unit = first + i;
        V32 totals[kParts];
        UnitDot(unpack, codes, unit, unit_columns, x.codes, totals);
        const V32 shift = hn::Set(di, offset * x.sums[unit]);
        const VF activation = hn::Set(d, x.scales[unit]);
        const VF scaled_sum = hn::Set(d, x.scaled_sums[unit]);
        for (size_t part = 0; part < kParts; ++part) {
          VF scale, min;
          scales.Get(i, part, scale, min);
          const VF dot = hn::ConvertTo(d, hn::Sub(totals[part], shift));
          sums[part] = hn::MulAdd(dot, hn::Mul(scale, activation), sums[part]);
          if constexpr (Scales::kMins) sums[part] = hn::MulAdd(min, scaled_sum, sums[part]);
        }
      }
    }
    for (size_t part = 0; part < kParts; ++part) hn::StoreU(sums[part], d, y + part * kPartRows);
  }
}

// Calls `body` with the unpacker of a layout.
template <class Body>
FEWBIT_PANEL_INLINE void WithUnpacker(const PanelFormat& format, const Body& body) {
  switch (format.codes) {
    case CodeLayout::bits1:
      return body(UnpackBits1{});
    case CodeLayout::bits2:
      return body(UnpackBits2{});
    case CodeLayout::bits3:
      return body(UnpackBits3{});
    case CodeLayout::bits4:
      return body(UnpackBits4{});
    case CodeLayout::bits5:
      return body(UnpackBits5{});
    case CodeLayout::bits6:
      return body(UnpackBits6{});
    case CodeLayout::bits8:
      return body(UnpackBits8{});
    case CodeLayout::table4:
      return body(UnpackTable4(format.table));
    case CodeLayout::trits5:
      return body(UnpackTrits{});
  }
}

FEWBIT_PANEL_ATTR void MultiplyOne(const PanelMatrix& weights, size_t first_panel,
                                   size_t last_panel, const ActivationTile& x, float* y) {
  WithUnpacker(weights.format(), [&](const auto& unpack) FEWBIT_PANEL_ATTR {
    WithScales(weights.format(), [&](const auto& scales) FEWBIT_PANEL_ATTR {
      Matvec(unpack, scales, weights, first_panel, last_panel, x, y);
    });
  });
}

// --- Several tokens ------------------------------------------------------------------------------

// Tokens of a tile and parts of a panel that are multiplied together: their sums fill the
// registers.
constexpr size_t kTileTokens = kVectorBytes == 64 ? 6 : 4;
constexpr size_t kTileParts = 2;
// Columns decoded at a time: they take half of the first-level cache.
constexpr size_t kDecodedColumns = 512;

// One unit as bytes, quad after quad.
template <class Unpack>
FEWBIT_PANEL_INLINE void DecodeUnit(const Unpack& unpack, const uint8_t* codes, size_t unit,
                                    size_t unit_columns, uint8_t* HWY_RESTRICT target) {
  const size_t steps = unit_columns / Unpack::kColumns;
  for (size_t s = 0; s < steps; ++s) {
    for (size_t part = 0; part < kParts; ++part) {
      V8 quads[Unpack::kQuads];
      unpack.template Step<false>(codes, unit * steps + s, part, quads);
      for (size_t q = 0; q < Unpack::kQuads; ++q) {
        hn::StoreU(quads[q], D8(),
                   target + (s * Unpack::kQuads + q) * kQuadBytes + part * kVectorBytes);
      }
    }
  }
}

FEWBIT_PANEL_INLINE void DecodeUnit(const UnpackTrits&, const uint8_t* codes, size_t unit, size_t,
                                    uint8_t* HWY_RESTRICT target) {
  codes += unit * kTritVectors * kQuadBytes;
  for (size_t v = 0; v < kTritVectors; ++v) {
    for (size_t part = 0; part < kParts; ++part) {
      V8 bytes = LoadCodes(codes, v * kQuadBytes, part);
      const size_t count = v + 1 < kTritVectors ? kTritsPerByte : kLastTritQuads;
      for (size_t n = 0; n < count; ++n) {
        hn::StoreU(LeadingTrit(bytes), D8(),
                   target + (v * kTritsPerByte + n) * kQuadBytes + part * kVectorBytes);
        bytes = TripleBytes(bytes);
      }
    }
  }
}

// Decoded columns of a panel.
struct DecodedBlock {
  size_t units, quads_per_unit;
  const uint8_t* codes;
  const float *scales, *mins;  // mins: null if there are none
  int32_t offset;
};

// sums [kTokens][kPanelHeight] += block times the tile's columns.
template <size_t kTokens, bool kWide>
FEWBIT_PANEL_ATTR void MultiplyTile(const DecodedBlock& block, const int8_t* HWY_RESTRICT x,
                                    const float* HWY_RESTRICT x_scales,
                                    const int32_t* HWY_RESTRICT x_sums,
                                    const float* HWY_RESTRICT x_scaled_sums,
                                    float* HWY_RESTRICT sums) {
  const DF d;
  const D32 di;
  constexpr size_t kTileRows = kTileParts * kPartRows;
  for (size_t row = 0; row < kPanelHeight; row += kTileRows) {
    VF totals[kTokens][kTileParts];
    for (size_t t = 0; t < kTokens; ++t) {
      for (size_t p = 0; p < kTileParts; ++p) {
        totals[t][p] = hn::LoadU(d, sums + t * kPanelHeight + row + p * kPartRows);
      }
    }
    for (size_t u = 0; u < block.units; ++u) {
      V32 dots[kTokens][kTileParts];
      for (size_t t = 0; t < kTokens; ++t) {
        const V32 start = hn::Set(di, -block.offset * x_sums[u * kTokens + t]);
        for (size_t p = 0; p < kTileParts; ++p) dots[t][p] = start;
      }
      const uint8_t* codes =
          block.codes + u * block.quads_per_unit * kQuadBytes + row * kQuadColumns;
      const int8_t* quads = x + u * block.quads_per_unit * kTokens * kQuadColumns;
      for (size_t k = 0; k < block.quads_per_unit; ++k) {
        V8 weights[kTileParts];
        for (size_t p = 0; p < kTileParts; ++p) {
          weights[p] = hn::LoadU(D8(), codes + k * kQuadBytes + p * kVectorBytes);
        }
        for (size_t t = 0; t < kTokens; ++t) {
          const V32 activations = BroadcastQuad(quads, k * kTokens + t);
          for (size_t p = 0; p < kTileParts; ++p) {
            dots[t][p] = kWide ? DotWide(dots[t][p], weights[p], activations)
                               : DotUnsigned(dots[t][p], weights[p], activations);
          }
        }
      }
      for (size_t p = 0; p < kTileParts; ++p) {
        const size_t place = u * kPanelHeight + row + p * kPartRows;
        const VF scale = hn::LoadU(d, block.scales + place);
        for (size_t t = 0; t < kTokens; ++t) {
          const VF factor = hn::Mul(scale, hn::Set(d, x_scales[u * kTokens + t]));
          totals[t][p] = hn::MulAdd(hn::ConvertTo(d, dots[t][p]), factor, totals[t][p]);
        }
        if (block.mins) {
          const VF min = hn::LoadU(d, block.mins + place);
          for (size_t t = 0; t < kTokens; ++t) {
            totals[t][p] =
                hn::MulAdd(min, hn::Set(d, x_scaled_sums[u * kTokens + t]), totals[t][p]);
          }
        }
      }
    }
    for (size_t t = 0; t < kTokens; ++t) {
      for (size_t p = 0; p < kTileParts; ++p) {
        hn::StoreU(totals[t][p], d, sums + t * kPanelHeight + row + p * kPartRows);
      }
    }
  }
}

template <bool kWide>
FEWBIT_PANEL_ATTR void MultiplyTileOf(size_t width, const DecodedBlock& block, const int8_t* x,
                                      const float* x_scales, const int32_t* x_sums,
                                      const float* x_scaled_sums, float* sums) {
  static_assert(kTileTokens <= 6);
  switch (width) {
    case 1:
      return MultiplyTile<1, kWide>(block, x, x_scales, x_sums, x_scaled_sums, sums);
    case 2:
      return MultiplyTile<2, kWide>(block, x, x_scales, x_sums, x_scaled_sums, sums);
    case 3:
      return MultiplyTile<3, kWide>(block, x, x_scales, x_sums, x_scaled_sums, sums);
    case 4:
      return MultiplyTile<4, kWide>(block, x, x_scales, x_sums, x_scaled_sums, sums);
    case 5:
      return MultiplyTile<5, kWide>(block, x, x_scales, x_sums, x_scaled_sums, sums);
    default:
      return MultiplyTile<6, kWide>(block, x, x_scales, x_sums, x_scaled_sums, sums);
  }
}

template <class Unpack>
FEWBIT_PANEL_ATTR void Matmul(const Unpack& unpack, const PanelMatrix& weights, size_t first_panel,
                              size_t last_panel, const QuantizedActivations& x, size_t first_tile,
                              size_t last_tile, MatrixView<float> y) {
  const PanelFormat& format = weights.format();
  const size_t unit_columns = format.unit_columns, units = weights.units();
  // Trit units of 256 and rows of one long unit decide the block; super-blocks divide it.
  const size_t chunk = HWY_MAX(size_t{1}, kDecodedColumns / unit_columns);
  std::vector<uint8_t, PanelAllocator<uint8_t>> codes(chunk * unit_columns * kPanelHeight);
  AlignedFloats scales(chunk * kPanelHeight), mins(format.has_mins() ? scales.size() : 0);
  AlignedFloats sums(y.rows() * kPanelHeight);
  for (size_t panel = first_panel; panel < last_panel; ++panel) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (size_t first = 0; first < units; first += chunk) {
      const size_t count = HWY_MIN(chunk, units - first);
      for (size_t u = 0; u < count; ++u) {
        DecodeUnit(unpack, weights.panel_codes(panel), first + u, unit_columns,
                   &codes[u * unit_columns * kPanelHeight]);
      }
      ExpandScales(format, weights.panel_scales(panel), first, count, scales.data(), mins.data());
      const DecodedBlock block{
          count,         unit_columns / kQuadColumns,          codes.data(),
          scales.data(), mins.empty() ? nullptr : mins.data(), EffectiveOffset<Unpack>(format)};
      size_t token = 0;
      for (size_t i = first_tile; i < last_tile; ++i) {
        const ActivationTile tile = x.tile(i);
        const size_t place = first * tile.width;
        MultiplyTileOf<Unpack::kWide>(tile.width, block, tile.codes + place * unit_columns,
                                      tile.scales + place, tile.sums + place,
                                      tile.scaled_sums + place, &sums[token * kPanelHeight]);
        token += tile.width;
      }
    }
    for (size_t t = 0; t < y.rows(); ++t) {
      std::copy_n(&sums[t * kPanelHeight], kPanelHeight,
                  &y(t, (panel - first_panel) * kPanelHeight));
    }
  }
}

FEWBIT_PANEL_ATTR void MultiplyTokens(const PanelMatrix& weights, size_t first_panel,
                                      size_t last_panel, const QuantizedActivations& x,
                                      size_t first_tile, size_t last_tile, MatrixView<float> y) {
  WithUnpacker(weights.format(), [&](const auto& unpack) FEWBIT_PANEL_ATTR {
    Matmul(unpack, weights, first_panel, last_panel, x, first_tile, last_tile, y);
  });
}

size_t TileWidth() { return kTileTokens; }

#else

size_t TileWidth() { return 4; }

void MultiplyOne(const PanelMatrix& weights, size_t first_panel, size_t last_panel,
                 const ActivationTile& x, float* y) {
  multiply_panels_reference(weights, first_panel, last_panel, x, 0, y);
}

void MultiplyTokens(const PanelMatrix& weights, size_t first_panel, size_t last_panel,
                    const QuantizedActivations& x, size_t first_tile, size_t last_tile,
                    MatrixView<float> y) {
  size_t row = 0;
  for (size_t i = first_tile; i < last_tile; ++i) {
    const ActivationTile tile = x.tile(i);
    for (size_t t = 0; t < tile.width; ++t) {
      multiply_panels_reference(weights, first_panel, last_panel, tile, t, y.row(row++).data());
    }
  }
}

#endif  // FEWBIT_PANEL_SIMD
}  // namespace HWY_NAMESPACE
}  // namespace fewbit
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fewbit {
HWY_EXPORT(MultiplyOne);
HWY_EXPORT(MultiplyTokens);
HWY_EXPORT(TileWidth);

size_t product_tile_width() { return HWY_DYNAMIC_DISPATCH(TileWidth)(); }

void multiply_panels(const PanelMatrix& weights, size_t first_panel, size_t last_panel,
                     const ActivationTile& x, float* y) {
  HWY_DYNAMIC_DISPATCH(MultiplyOne)(weights, first_panel, last_panel, x, y);
}

void multiply_panels(const PanelMatrix& weights, size_t first_panel, size_t last_panel,
                     const QuantizedActivations& x, size_t first_tile, size_t last_tile,
                     MatrixView<float> y) {
  HWY_DYNAMIC_DISPATCH(MultiplyTokens)
  (weights, first_panel, last_panel, x, first_tile, last_tile, y);
}

}  // namespace fewbit
#endif  // HWY_ONCE
