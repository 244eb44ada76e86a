#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "fewbit/base/error.h"
#include "fewbit/base/half.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/ggml_blocks_internal.h"
#include "fewbit/kernels/panel_pack.h"

namespace fewbit {
namespace {

constexpr size_t kMaxBlock = 256;
constexpr size_t kHalves = 2 * kPanelHeight;

// How one block type becomes panels. A block is one scale record of its row.
struct Packing {
  PanelFormat format;
  // Codes of a block, one a byte.
  void (*codes)(const uint8_t* block, uint8_t* codes);
  // Writes row `row` of the block's scale record.
  void (*scales)(const uint8_t* block, uint8_t* record, size_t row);
};

// The half at `block` becomes half `row` of `halves`.
void copy_half(const uint8_t* block, uint8_t* halves, size_t row) {
  std::memcpy(halves + 2 * row, block, 2);
}

void put_half(uint16_t bits, uint8_t* halves, size_t row) {
  std::memcpy(halves + 2 * row, &bits, sizeof bits);
}

// Byte j: element j low, element j + 16 high.
void nibbles_of_32(const uint8_t* qs, uint8_t* codes) {
  for (size_t j = 0; j < 16; ++j) {
    codes[j] = qs[j] & 15;
    codes[j + 16] = qs[j] >> 4;
  }
}

void fifth_bits_of_32(const uint8_t* high, uint8_t* codes) {
  for (size_t j = 0; j < 32; ++j) {
    codes[j] = static_cast<uint8_t>(codes[j] | ((high[j / 8] >> (j % 8)) & 1) << 4);
  }
}

// Element 128 h + 32 s + l: bits 2 s of byte 32 h + l.
void two_bits_of_256(const uint8_t* qs, uint8_t* codes) {
  for (size_t i = 0; i < 256; ++i) codes[i] = qs[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
}

// Element 64 p + l: low nibble of byte 32 p + l; element 64 p + 32 + l: its high one.
void nibbles_of_256(const uint8_t* qs, uint8_t* codes) {
  for (size_t i = 0; i < 256; ++i) codes[i] = qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
}

template <size_t kOffset>
void first_half(const uint8_t* block, uint8_t* record, size_t row) {
  copy_half(block + kOffset, record, row);
}
void two_halves(const uint8_t* block, uint8_t* record, size_t row) {
  copy_half(block, record, row);
  copy_half(block + 2, record + kHalves, row);
}

// Four six-bit numbers of one row, bytes a row's width apart.
void put_six_bits(const std::array<uint8_t, 4>& values, uint8_t* group, size_t row) {
  const auto bytes = pack_six_bits(values);
  for (size_t i = 0; i < bytes.size(); ++i) group[i * kPanelHeight + row] = bytes[i];
}

// d and dmin at the front, then 12 bytes of six-bit scales and mins.
void scales_k4(const uint8_t* block, uint8_t* record, size_t row) {
  two_halves(block, record, row);
  const uint8_t* packed = block + 4;
  std::array<uint8_t, 16> values;  // scale and min of each unit
  for (size_t j = 0; j < 8; ++j) {
    if (j < 4) {
      values[2 * j] = packed[j] & 63;
      values[2 * j + 1] = packed[j + 4] & 63;
    } else {
      values[2 * j] = static_cast<uint8_t>((packed[j + 4] & 15) | packed[j - 4] >> 6 << 4);
      values[2 * j + 1] = static_cast<uint8_t>(packed[j + 4] >> 4 | packed[j] >> 6 << 4);
    }
  }
  for (size_t i = 0; i < 16; i += 4) {
    put_six_bits({values[i], values[i + 1], values[i + 2], values[i + 3]},
                 record + 2 * kHalves + i / 4 * 3 * kPanelHeight, row);
  }
}

PanelFormat floats_format(CodeLayout codes, size_t unit, int offset,
                          MinLayout mins = MinLayout::none, Dtype dtype = Dtype::f16) {
  PanelFormat format;
  format.codes = codes;
  format.mins = mins;
  format.scale_dtype = dtype;
  format.unit_columns = unit;
  format.offset = offset;
  return format;
}

PanelFormat super_format(CodeLayout codes, ScaleLayout scales, size_t unit, int offset) {
  PanelFormat format = floats_format(codes, unit, offset);
  format.scales = scales;
  return format;
}

constexpr int kTableOffset = 128;

PanelFormat with_table(PanelFormat format, std::span<const int8_t> levels) {
  format.offset = kTableOffset;
  for (size_t i = 0; i < levels.size(); ++i) {
    format.table[i] = static_cast<uint8_t>(levels[i] + kTableOffset);
  }
  return format;
}

// Twice the values of E2M1.
constexpr std::array<int8_t, 16> kFp4Doubled = {0, 1,  2,  3,  4,  6,  8,  12,
                                                0, -1, -2, -3, -4, -6, -8, -12};

void trits_of_256(const uint8_t* block, uint8_t* codes) {
  const auto digit = [](uint8_t byte, size_t n) {
    for (; n > 0; --n) byte = static_cast<uint8_t>(byte * 3);
    return static_cast<uint8_t>(byte * 3 >> 8);
  };
  for (size_t i = 0; i < 160; ++i) codes[i] = digit(block[i % 32], i / 32);
  for (size_t i = 0; i < 80; ++i) codes[160 + i] = digit(block[32 + i % 16], i / 16);
  for (size_t i = 0; i < 16; ++i) codes[240 + i] = digit(block[48 + i % 4], i / 4);
}

std::optional<Packing> packing_of(GgmlType type) {
  using enum CodeLayout;
  switch (type) {
    case GgmlType::q4_0:
      return Packing{floats_format(bits4, 32, 8),
                     [](const uint8_t* b, uint8_t* codes) { nibbles_of_32(b + 2, codes); },
                     first_half<0>};
    case GgmlType::q4_1:
      return Packing{floats_format(bits4, 32, 0, MinLayout::mins),
                     [](const uint8_t* b, uint8_t* codes) { nibbles_of_32(b + 4, codes); },
                     two_halves};
    case GgmlType::q5_0:
      return Packing{floats_format(bits5, 32, 16),
                     [](const uint8_t* b, uint8_t* codes) {
                       nibbles_of_32(b + 6, codes);
                       fifth_bits_of_32(b + 2, codes);
                     },
                     first_half<0>};
    case GgmlType::q5_1:
      return Packing{floats_format(bits5, 32, 0, MinLayout::mins),
                     [](const uint8_t* b, uint8_t* codes) {
                       nibbles_of_32(b + 8, codes);
                       fifth_bits_of_32(b + 4, codes);
                     },
                     two_halves};
    case GgmlType::q8_0:
      return Packing{floats_format(bits8, 32, 128),
                     [](const uint8_t* b, uint8_t* codes) {
                       for (size_t j = 0; j < 32; ++j) codes[j] = b[2 + j] ^ 0x80;
                     },
                     first_half<0>};
    case GgmlType::q2_k:
      return Packing{super_format(bits2, ScaleLayout::k2, 16, 0),
                     [](const uint8_t* b, uint8_t* codes) { two_bits_of_256(b + 16, codes); },
                     [](const uint8_t* b, uint8_t* record, size_t row) {
                       two_halves(b + 80, record, row);
                       for (size_t i = 0; i < 16; ++i) {
                         record[2 * kHalves + i * kPanelHeight + row] = b[i];
                       }
                     }};
    case GgmlType::q3_k:
      return Packing{super_format(bits3, ScaleLayout::k3, 16, 4),
                     [](const uint8_t* b, uint8_t* codes) {
                       two_bits_of_256(b + 32, codes);
                       for (size_t i = 0; i < 256; ++i) {
                         codes[i] = static_cast<uint8_t>(codes[i] | (b[i % 32] >> i / 32 & 1) << 2);
                       }
                     },
                     [](const uint8_t* b, uint8_t* record, size_t row) {
                       copy_half(b + 108, record, row);
                       const uint8_t* packed = b + 96;
                       std::array<uint8_t, 16> s;
                       for (size_t i = 0; i < 16; ++i) {
                         const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
                         const int high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
                         s[i] = static_cast<uint8_t>(low | high << 4);
                       }
                       for (size_t i = 0; i < 16; i += 4) {
                         put_six_bits({s[i], s[i + 1], s[i + 2], s[i + 3]},
                                      record + kHalves + i / 4 * 3 * kPanelHeight, row);
                       }
                     }};
    case GgmlType::q4_k:
      return Packing{super_format(bits4, ScaleLayout::k4, 32, 0),
                     [](const uint8_t* b, uint8_t* codes) { nibbles_of_256(b + 16, codes); },
                     scales_k4};
    case GgmlType::q5_k:
      return Packing{super_format(bits5, ScaleLayout::k4, 32, 0),
                     [](const uint8_t* b, uint8_t* codes) {
                       nibbles_of_256(b + 48, codes);
                       for (size_t i = 0; i < 256; ++i) {
                         codes[i] =
                             static_cast<uint8_t>(codes[i] | (b[16 + i % 32] >> i / 32 & 1) << 4);
                       }
                     },
                     scales_k4};
    case GgmlType::q6_k:
      return Packing{super_format(bits6, ScaleLayout::k6, 16, 32),
                     [](const uint8_t* b, uint8_t* codes) {
                       for (size_t i = 0; i < 256; ++i) {
                         const size_t half = i / 128, part = i % 128 / 32, l = i % 32;
                         const uint8_t low = b[64 * half + part % 2 * 32 + l];
                         const uint8_t high = b[128 + 32 * half + l];
                         codes[i] = static_cast<uint8_t>((low >> (part / 2 * 4) & 15) |
                                                         (high >> (2 * part) & 3) << 4);
                       }
                     },
                     [](const uint8_t* b, uint8_t* record, size_t row) {
                       copy_half(b + 208, record, row);
                       for (size_t i = 0; i < 16; ++i) {
                         record[kHalves + i * kPanelHeight + row] = b[192 + i];
                       }
                     }};
    case GgmlType::iq4_nl:
      return Packing{with_table(floats_format(table4, 32, 0), ggml_blocks::kIq4Values),
                     [](const uint8_t* b, uint8_t* codes) { nibbles_of_32(b + 2, codes); },
                     first_half<0>};
    case GgmlType::iq4_xs:
      return Packing{
          with_table(super_format(table4, ScaleLayout::k3, 32, 0), ggml_blocks::kIq4Values),
          [](const uint8_t* b, uint8_t* codes) {
            for (size_t i = 0; i < 8; ++i) nibbles_of_32(b + 8 + 16 * i, codes + 32 * i);
          },
          [](const uint8_t* b, uint8_t* record, size_t row) {
            copy_half(b, record, row);
            const auto high = ggml_blocks::load<uint16_t>(b + 2);
            std::array<uint8_t, 8> s;
            for (size_t i = 0; i < 8; ++i) {
              s[i] = static_cast<uint8_t>((b[4 + i / 2] >> (4 * (i % 2)) & 15) |
                                          (high >> (2 * i) & 3) << 4);
            }
            for (size_t i = 0; i < 8; i += 4) {
              put_six_bits({s[i], s[i + 1], s[i + 2], s[i + 3]},
                           record + kHalves + i / 4 * 3 * kPanelHeight, row);
            }
          }};
    case GgmlType::mxfp4:
      return Packing{
          with_table(floats_format(table4, 32, 0, MinLayout::none, Dtype::bf16), kFp4Doubled),
          [](const uint8_t* b, uint8_t* codes) { nibbles_of_32(b + 1, codes); },
          [](const uint8_t* b, uint8_t* record, size_t row) {
            // 2^(e - 128), which a bfloat16 holds exactly.
            const uint32_t e = b[0];
            const uint32_t bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;
            put_half(static_cast<uint16_t>(bits >> 16), record, row);
          }};
    case GgmlType::tq1_0:
      return Packing{floats_format(bits2, 256, 1), trits_of_256, first_half<52>};
    case GgmlType::tq2_0:
      return Packing{floats_format(bits2, 256, 1),
                     [](const uint8_t* b, uint8_t* codes) { two_bits_of_256(b, codes); },
                     first_half<64>};
    case GgmlType::q1_0:
      return Packing{floats_format(bits1, 128, 1),
                     [](const uint8_t* b, uint8_t* codes) {
                       for (size_t j = 0; j < 128; ++j) codes[j] = b[2 + j / 8] >> (j % 8) & 1;
                     },
                     first_half<0>};
    case GgmlType::q2_0:
      return Packing{floats_format(bits2, 64, 1),
                     [](const uint8_t* b, uint8_t* codes) {
                       for (size_t j = 0; j < 64; ++j) codes[j] = b[2 + j / 4] >> (2 * (j % 4)) & 3;
                     },
                     first_half<0>};
    default:
      return std::nullopt;
  }
}

// Sub-blocks of 16 with a scale each: four records of a block.
void pack_nvfp4_scales(const uint8_t* block, uint8_t* records, size_t record_bytes, size_t row) {
  for (size_t s = 0; s < 4; ++s) {
    const int bits = block[s], exponent = bits >> 3 & 15, mantissa = bits & 7;
    float value = 0;
    if (bits != 0 && bits != 0x7f) {
      value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -10)
                            : std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 8);
    }
    put_half(float_to_f16(value), records + s * record_bytes, row);
  }
}

void nvfp4_codes(const uint8_t* block, uint8_t* codes) {
  for (size_t s = 0; s < 4; ++s) {
    for (size_t j = 0; j < 8; ++j) {
      codes[16 * s + j] = block[4 + 8 * s + j] & 15;
      codes[16 * s + 8 + j] = block[4 + 8 * s + j] >> 4;
    }
  }
}

}  // namespace

bool has_panels(GgmlType type) { return type == GgmlType::nvfp4 || packing_of(type).has_value(); }

PanelMatrix pack_ggml(GgmlType type, size_t rows, size_t cols, std::span<const std::byte> bytes,
                      bool dense_trits) {
  const GgmlTypeInfo& info = ggml_type_info(type);
  require(has_panels(type), "type {} has no packed layout", info.name);
  const bool nvfp4 = type == GgmlType::nvfp4;
  Packing packing = nvfp4
                        ? Packing{with_table(floats_format(CodeLayout::table4, 16, 0), kFp4Doubled),
                                  nvfp4_codes, nullptr}
                        : *packing_of(type);
  if (type == GgmlType::tq1_0 && dense_trits) packing.format.codes = CodeLayout::trits5;
  PanelMatrix matrix(rows, cols, packing.format);
  const size_t row_bytes = ggml_bytes(type, cols), blocks = cols / info.block_elements;
  require(bytes.size() == rows * row_bytes, "{} bytes of type {}; expected {}", bytes.size(),
          info.name, rows * row_bytes);
  const size_t record_bytes = scale_record(packing.format).bytes;
  const size_t block_records = nvfp4 ? 4 : 1;
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  parallel_for(matrix.panels(), [&](size_t panel) {
    BasicMatrix<uint8_t> codes(std::min(kPanelHeight, rows - panel * kPanelHeight), cols);
    for (size_t r = 0; r < codes.rows(); ++r) {
      const uint8_t* block = data + (panel * kPanelHeight + r) * row_bytes;
      uint8_t* record = matrix.panel_scales(panel);
      for (size_t i = 0; i < blocks; ++i, block += info.block_bytes) {
        packing.codes(block, &codes(r, i * info.block_elements));
        if (nvfp4) {
          pack_nvfp4_scales(block, record, record_bytes, r);
        } else {
          packing.scales(block, record, r);
        }
        record += block_records * record_bytes;
      }
    }
    matrix.set_panel_codes(panel, std::as_const(codes).view());
  });
  return matrix;
}

}  // namespace fewbit
