// The layout of the integer kernels: codes of 32 rows interleaved, so that a vector lane is a row
// and no sum ever crosses lanes (docs/formats/packed-kernels.md).
//
// A panel is 32 rows. A quad is 4 consecutive columns of a panel: 128 bytes once unpacked, byte
// 4 r + i holding row r, column i. A unit is a run of columns with one scale per row; the codes of
// a panel are one contiguous stream of quads, unit after unit. Codes are unsigned, and
//
//   w = scale * (value(code) - offset) + min
//
// where value is the code itself, 2 * code (one bit) or a level of a table.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/kernels/packed_bytes.h"

namespace fewbit {

inline constexpr size_t kPanelHeight = 32;
inline constexpr size_t kQuadColumns = 4;
inline constexpr size_t kQuadBytes = kPanelHeight * kQuadColumns;
// Rows are padded to a multiple of this many columns, at least.
inline constexpr size_t kColumnPadding = 32;

enum class CodeLayout : uint8_t {
  bits1,   // value 2 * code
  bits2,   // four quads in 128 bytes
  bits3,   // bits2 and a plane of the third bit
  bits4,   // two quads in 128 bytes
  bits5,   // bits4 and a plane of the fifth bit
  bits6,   // bits4 and bits2
  bits8,   // a byte each
  table4,  // bits4, value = table[code]
  trits5,  // five quads in 128 bytes, base 3
};

// Where the scales of a unit come from.
enum class ScaleLayout : uint8_t {
  floats,  // one stored float per scale group
  // The units of 256 columns share d and, with mins, dmin:
  k2,  // ggml's Q2_K: 4-bit scale and min each
  k3,  // Q3_K, IQ4_XS: 6-bit scale less 32 each
  k4,  // Q4_K, Q5_K: 6-bit scale and min each
  k6,  // Q6_K: signed 8-bit scale each
};

// What is stored beside the scale of a group (ScaleLayout::floats).
enum class MinLayout : uint8_t {
  none,
  mins,        // min, of the scales' type
  real_zeros,  // z, of the scales' type: min = -scale * z
  code_zeros,  // z as a byte: min = -scale * z
};

struct PanelFormat {
  CodeLayout codes = CodeLayout::bits8;
  ScaleLayout scales = ScaleLayout::floats;
  MinLayout mins = MinLayout::none;
  Dtype scale_dtype = Dtype::f16;
  size_t unit_columns = 0;
  size_t units_per_scale = 1;       // floats: units that share one stored scale
  int offset = 0;                   // in values
  float scale_multiplier = 1;       // floats: a power of two on every stored scale
  std::array<uint8_t, 16> table{};  // table4: level + 128
  std::vector<float> levels;        // table4: the exact levels, where the table rounds them

  bool has_mins() const {
    return mins != MinLayout::none || scales == ScaleLayout::k2 || scales == ScaleLayout::k4;
  }
  friend bool operator==(const PanelFormat&, const PanelFormat&) = default;
};

// "2-bit codes", for reports.
std::string describe_codes(CodeLayout layout);

// Columns after which a layout's byte pattern repeats, and the bytes of a panel they take.
struct CodePeriod {
  size_t columns, bytes;
};
CodePeriod code_period(CodeLayout layout);

class PanelMatrix {
 public:
  // Codes and scales 0. Error unless the unit is a multiple of 16 columns (32 at one bit, 256 for
  // trits) and the format is consistent.
  PanelMatrix(size_t rows, size_t cols, PanelFormat format);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  const PanelFormat& format() const { return format_; }
  size_t panels() const { return (rows_ + kPanelHeight - 1) / kPanelHeight; }
  // Units of a row, the padding included.
  size_t units() const { return units_; }
  size_t padded_cols() const { return units_ * format_.unit_columns; }
  size_t bytes() const { return codes_.size() + scales_.size(); }

  // Bytes of one panel's codes and scales.
  size_t panel_code_bytes() const { return panel_code_bytes_; }
  size_t panel_scale_bytes() const { return panel_scale_bytes_; }
  const uint8_t* panel_codes(size_t panel) const {
    return codes_.data() + panel * panel_code_bytes_;
  }
  const uint8_t* panel_scales(size_t panel) const {
    return scales_.data() + panel * panel_scale_bytes_;
  }
  uint8_t* panel_scales(size_t panel) { return scales_.data() + panel * panel_scale_bytes_; }

  // Packs the codes of a panel: [rows of it, cols], one code a byte. Padding columns get code 0.
  void set_panel_codes(size_t panel, MatrixView<const uint8_t> codes);
  // Codes of row `row` of a panel; `codes` has padded_cols() elements.
  void get_row_codes(size_t panel, size_t row, std::span<uint8_t> codes) const;

  // Scalar: scales and mins of units [first, first + count) of a panel, [count][kPanelHeight];
  // `mins` is not written if the format has none. Products in the order of the formats' reference
  // decoders.
  void expand_scales(size_t panel, size_t first, size_t count, float* scales, float* mins) const;
  // Scalar: rows as floats, bit-equal to the decoder of the format they were packed from.
  void decode(size_t first_row, MatrixView<float> out) const;

 private:
  size_t rows_, cols_;
  PanelFormat format_;
  size_t units_, panel_code_bytes_, panel_scale_bytes_;
  PackedBytes codes_, scales_;
};

// The units of a panel that share a record of scales, and its bytes.
struct ScaleRecord {
  size_t units, bytes;
};
ScaleRecord scale_record(const PanelFormat& format);

// Six-bit numbers a, b, c, d in three bytes: the low six bits of each byte are a, b, c, its high
// two are d's, lowest first.
inline std::array<uint8_t, 3> pack_six_bits(const std::array<uint8_t, 4>& values) {
  return {static_cast<uint8_t>(values[0] | (values[3] & 3) << 6),
          static_cast<uint8_t>(values[1] | (values[3] >> 2 & 3) << 6),
          static_cast<uint8_t>(values[2] | (values[3] >> 4) << 6)};
}
inline std::array<uint8_t, 4> unpack_six_bits(uint8_t a, uint8_t b, uint8_t c) {
  return {static_cast<uint8_t>(a & 63), static_cast<uint8_t>(b & 63), static_cast<uint8_t>(c & 63),
          static_cast<uint8_t>(a >> 6 | (b >> 6) << 2 | (c >> 6) << 4)};
}

// Trits of a byte, most significant first: sum t_n 3^(4 - n) = q is stored as ceil(256 q / 243),
// so that multiplying by 3^n (and dropping the carry) moves trit n to the front.
inline constexpr size_t kTritsPerByte = 5;
inline constexpr size_t kTritUnit = 256;  // 12 times 128 bytes of 5 quads, once of 4

}  // namespace fewbit
