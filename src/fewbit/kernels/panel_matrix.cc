#include "fewbit/kernels/panel_matrix.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/half.h"

namespace fewbit {
namespace {

constexpr size_t kSuperBlockColumns = 256;

// A field of a code inside its period: `bits` bits at `shift` of byte `byte`.
struct Field {
  uint16_t byte;
  uint8_t shift, bits;
};
// A code's low and high field; the high one may be empty.
struct CodeFields {
  Field low, high;
};

uint16_t narrow(size_t value) { return static_cast<uint16_t>(value); }
uint8_t narrow8(size_t value) { return static_cast<uint8_t>(value); }

// A bit plane of 16 columns in 64 bytes: byte 4 (r mod 16) + i holds the bits of quads 0 to 3 of
// row r in its low half and those of row r + 16 in its high half.
Field half_plane_field(size_t base, size_t row, size_t quad, size_t i) {
  constexpr size_t kHalf = kPanelHeight / 2;
  return {narrow(base + 4 * (row % kHalf) + i), narrow8(quad + (row < kHalf ? 0 : 4)), 1};
}

// Where the code of `row` and `col` stands inside a period of 32 columns.
CodeFields fields_of(CodeLayout layout, size_t row, size_t col) {
  const size_t step = col / 16, quad = col % 16 / kQuadColumns, i = col % kQuadColumns;
  const size_t lane = 4 * row + i;
  const auto nibble = [&](size_t base) {
    return Field{narrow(base + quad / 2 * kQuadBytes + lane), narrow8(quad % 2 * 4), 4};
  };
  const auto two_bits = [&](size_t base) {
    return Field{narrow(base + lane), narrow8(2 * quad), 2};
  };
  switch (layout) {
    case CodeLayout::bits1:
      return {{narrow(lane), narrow8(col / kQuadColumns), 1}, {}};
    case CodeLayout::bits2:
      return {two_bits(step * kQuadBytes), {}};
    case CodeLayout::bits3:
      return {two_bits(step * kQuadBytes),
              half_plane_field(2 * kQuadBytes + step * kQuadBytes / 2, row, quad, i)};
    case CodeLayout::bits4:
    case CodeLayout::table4:
      return {nibble(step * 2 * kQuadBytes), {}};
    case CodeLayout::bits5:
      return {nibble(step * 2 * kQuadBytes),
              half_plane_field(4 * kQuadBytes + step * kQuadBytes / 2, row, quad, i)};
    case CodeLayout::bits6:
      return {nibble(step * 3 * kQuadBytes), two_bits((step * 3 + 2) * kQuadBytes)};
    case CodeLayout::bits8:
      return {{narrow(col / kQuadColumns * kQuadBytes + lane), 0, 8}, {}};
    case CodeLayout::trits5:
      break;
  }
  throw std::logic_error("codes without fields");
}

constexpr size_t kFieldPeriod = 32;
using FieldTable = std::array<std::array<CodeFields, kFieldPeriod>, kPanelHeight>;

FieldTable make_fields(CodeLayout layout) {
  FieldTable table;
  for (size_t r = 0; r < kPanelHeight; ++r) {
    for (size_t c = 0; c < kFieldPeriod; ++c) table[r][c] = fields_of(layout, r, c);
  }
  return table;
}

const FieldTable& field_table(CodeLayout layout) {
  static const std::array<FieldTable, 8> tables = {
      make_fields(CodeLayout::bits1), make_fields(CodeLayout::bits2),
      make_fields(CodeLayout::bits3), make_fields(CodeLayout::bits4),
      make_fields(CodeLayout::bits5), make_fields(CodeLayout::bits6),
      make_fields(CodeLayout::bits8), make_fields(CodeLayout::table4)};
  return tables[static_cast<size_t>(layout)];
}

uint8_t get_field(const uint8_t* bytes, Field field) {
  return static_cast<uint8_t>(bytes[field.byte] >> field.shift & ((1 << field.bits) - 1));
}

// Trit `quad` of a unit is digit quad % 5 of vector quad / 5.
struct TritPlace {
  size_t byte, digit;
};
TritPlace trit_place(size_t row, size_t col) {
  const size_t quad = col % kTritUnit / kQuadColumns;
  return {quad / kTritsPerByte * kQuadBytes + 4 * row + col % kQuadColumns, quad % kTritsPerByte};
}
constexpr std::array<uint8_t, kTritsPerByte> kPowersOf3 = {1, 3, 9, 27, 81};

float load_scale(const uint8_t* bytes, Dtype dtype) {
  if (dtype == Dtype::f32) {
    float value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return dtype == Dtype::f16 ? f16_to_float(bits) : bf16_to_float(bits);
}

float load_half(const uint8_t* bytes, size_t index) {
  return load_scale(bytes + 2 * index, Dtype::f16);
}

}  // namespace

std::string describe_codes(CodeLayout layout) {
  switch (layout) {
    case CodeLayout::bits1:
      return "1-bit codes";
    case CodeLayout::bits2:
      return "2-bit codes";
    case CodeLayout::bits3:
      return "3-bit codes";
    case CodeLayout::bits4:
      return "4-bit codes";
    case CodeLayout::bits5:
      return "5-bit codes";
    case CodeLayout::bits6:
      return "6-bit codes";
    case CodeLayout::bits8:
      return "8-bit codes";
    case CodeLayout::table4:
      return "4-bit codes of a table";
    case CodeLayout::trits5:
      return "5 trits a byte";
  }
  return "codes";
}

CodePeriod code_period(CodeLayout layout) {
  switch (layout) {
    case CodeLayout::bits1:
      return {kFieldPeriod, kQuadBytes};
    case CodeLayout::bits2:
      return {kFieldPeriod, 2 * kQuadBytes};
    case CodeLayout::bits3:
      return {kFieldPeriod, 3 * kQuadBytes};
    case CodeLayout::bits4:
    case CodeLayout::table4:
      return {kFieldPeriod, 4 * kQuadBytes};
    case CodeLayout::bits5:
      return {kFieldPeriod, 5 * kQuadBytes};
    case CodeLayout::bits6:
      return {kFieldPeriod, 6 * kQuadBytes};
    case CodeLayout::bits8:
      return {kFieldPeriod, 8 * kQuadBytes};
    case CodeLayout::trits5:
      return {kTritUnit, 13 * kQuadBytes};
  }
  throw std::logic_error("unknown code layout");
}

ScaleRecord scale_record(const PanelFormat& format) {
  const size_t halves = 2 * kPanelHeight, units = kSuperBlockColumns / format.unit_columns;
  switch (format.scales) {
    case ScaleLayout::k2:  // d, dmin, then a byte (scale | min << 4) per unit
      return {units, 2 * halves + units * kPanelHeight};
    case ScaleLayout::k3:  // d, then three bytes for four units
      return {units, halves + units / 4 * 3 * kPanelHeight};
    case ScaleLayout::k4:  // d, dmin, then three bytes (scale, min, scale; min) for two units
      return {units, 2 * halves + units / 2 * 3 * kPanelHeight};
    case ScaleLayout::k6:  // d, then a byte per unit
      return {units, halves + units * kPanelHeight};
    case ScaleLayout::floats:
      break;
  }
  const size_t float_bytes = dtype_bytes(format.scale_dtype);
  const size_t min_bytes = format.mins == MinLayout::none         ? 0
                           : format.mins == MinLayout::code_zeros ? 1
                                                                  : float_bytes;
  return {format.units_per_scale, kPanelHeight * (float_bytes + min_bytes)};
}

PanelMatrix::PanelMatrix(size_t rows, size_t cols, PanelFormat format)
    : rows_(rows), cols_(cols), format_(std::move(format)) {
  const CodePeriod period = code_period(format_.codes);
  const size_t multiple = format_.codes == CodeLayout::trits5  ? kTritUnit
                          : format_.codes == CodeLayout::bits1 ? kColumnPadding
                                                               : kColumnPadding / 2;
  require(format_.unit_columns > 0 && format_.unit_columns % multiple == 0,
          "units of {} columns for {}; expected a multiple of {}", format_.unit_columns,
          describe_codes(format_.codes), multiple);
  require(format_.units_per_scale > 0, "0 units per scale");
  // Units of 16 columns come in pairs.
  const size_t padded_unit = std::lcm(format_.unit_columns, kColumnPadding);
  units_ = (cols + padded_unit - 1) / padded_unit * (padded_unit / format_.unit_columns);
  panel_code_bytes_ = padded_cols() / period.columns * period.bytes;
  const ScaleRecord record = scale_record(format_);
  require(format_.scales == ScaleLayout::floats || cols % kSuperBlockColumns == 0,
          "{} columns of super-blocks; expected a multiple of {}", cols, kSuperBlockColumns);
  panel_scale_bytes_ = (units_ + record.units - 1) / record.units * record.bytes;
  codes_ = PackedBytes(panels() * panel_code_bytes_);
  scales_ = PackedBytes(panels() * panel_scale_bytes_);
}

void PanelMatrix::set_panel_codes(size_t panel, MatrixView<const uint8_t> codes) {
  uint8_t* target = codes_.data() + panel * panel_code_bytes_;
  std::fill_n(target, panel_code_bytes_, uint8_t{0});
  const CodePeriod period = code_period(format_.codes);
  if (format_.codes == CodeLayout::trits5) {
    std::vector<uint8_t> sums(panel_code_bytes_);
    for (size_t r = 0; r < codes.rows(); ++r) {
      for (size_t c = 0; c < codes.cols(); ++c) {
        const TritPlace place = trit_place(r, c);
        uint8_t& sum = sums[c / kTritUnit * period.bytes + place.byte];
        sum = static_cast<uint8_t>(sum + codes(r, c) * kPowersOf3[kTritsPerByte - 1 - place.digit]);
      }
    }
    for (size_t i = 0; i < sums.size(); ++i) {
      target[i] = static_cast<uint8_t>((sums[i] * 256 + 242) / 243);
    }
    return;
  }
  const FieldTable& table = field_table(format_.codes);
  for (size_t c = 0; c < codes.cols(); c += kFieldPeriod) {
    const size_t count = std::min(kFieldPeriod, codes.cols() - c);
    uint8_t* bytes = target + c / kFieldPeriod * period.bytes;
    for (size_t r = 0; r < codes.rows(); ++r) {
      const uint8_t* row = &codes(r, c);
      for (size_t i = 0; i < count; ++i) {
        const auto& [low, high] = table[r][i];
        const unsigned code = row[i];
        bytes[low.byte] =
            static_cast<uint8_t>(bytes[low.byte] | (code & ((1u << low.bits) - 1)) << low.shift);
        if (high.bits) {
          bytes[high.byte] =
              static_cast<uint8_t>(bytes[high.byte] | (code >> low.bits) << high.shift);
        }
      }
    }
  }
}

void PanelMatrix::get_row_codes(size_t panel, size_t row, std::span<uint8_t> codes) const {
  const uint8_t* source = panel_codes(panel);
  const CodePeriod period = code_period(format_.codes);
  if (format_.codes == CodeLayout::trits5) {
    for (size_t c = 0; c < codes.size(); ++c) {
      const TritPlace place = trit_place(row, c);
      const uint8_t byte = source[c / kTritUnit * period.bytes + place.byte];
      codes[c] =
          static_cast<uint8_t>(static_cast<uint8_t>(byte * kPowersOf3[place.digit]) * 3 >> 8);
    }
    return;
  }
  const FieldTable& table = field_table(format_.codes);
  for (size_t c = 0; c < codes.size(); ++c) {
    const uint8_t* bytes = source + c / kFieldPeriod * period.bytes;
    const auto& [low, high] = table[row][c % kFieldPeriod];
    codes[c] = get_field(bytes, low);
    if (high.bits) codes[c] = static_cast<uint8_t>(codes[c] | get_field(bytes, high) << low.bits);
  }
}

void PanelMatrix::expand_scales(size_t panel, size_t first, size_t count, float* scales,
                                float* mins) const {
  const ScaleRecord layout = scale_record(format_);
  constexpr size_t kHalves = 2 * kPanelHeight;
  for (size_t u = 0; u < count; ++u) {
    const uint8_t* record = panel_scales(panel) + (first + u) / layout.units * layout.bytes;
    const size_t unit = (first + u) % layout.units;
    for (size_t r = 0; r < kPanelHeight; ++r) {
      float &scale = scales[u * kPanelHeight + r], min = 0;
      const auto six_bits = [&](const uint8_t* bytes, size_t index) {
        const uint8_t* group = bytes + index / 4 * 3 * kPanelHeight + r;
        return unpack_six_bits(group[0], group[kPanelHeight], group[2 * kPanelHeight])[index % 4];
      };
      switch (format_.scales) {
        case ScaleLayout::floats: {
          const size_t width = dtype_bytes(format_.scale_dtype);
          scale = load_scale(record + r * width, format_.scale_dtype) * format_.scale_multiplier;
          const uint8_t* beside = record + kPanelHeight * width;
          if (format_.mins == MinLayout::mins) {
            min = load_scale(beside + r * width, format_.scale_dtype);
          } else if (format_.mins == MinLayout::real_zeros) {
            min = -(load_scale(record + r * width, format_.scale_dtype) *
                    load_scale(beside + r * width, format_.scale_dtype));
          } else if (format_.mins == MinLayout::code_zeros) {
            min = -(load_scale(record + r * width, format_.scale_dtype) *
                    static_cast<float>(beside[r]));
          }
          break;
        }
        case ScaleLayout::k2: {
          const uint8_t both = record[2 * kHalves + unit * kPanelHeight + r];
          scale = load_half(record, r) * static_cast<float>(both & 15);
          min = -(load_half(record + kHalves, r) * static_cast<float>(both >> 4));
          break;
        }
        case ScaleLayout::k3:
          scale = load_half(record, r) *
                  static_cast<float>(static_cast<int>(six_bits(record + kHalves, unit)) - 32);
          break;
        case ScaleLayout::k4:
          scale =
              load_half(record, r) * static_cast<float>(six_bits(record + 2 * kHalves, 2 * unit));
          min = -(load_half(record + kHalves, r) *
                  static_cast<float>(six_bits(record + 2 * kHalves, 2 * unit + 1)));
          break;
        case ScaleLayout::k6:
          scale =
              load_half(record, r) *
              static_cast<float>(static_cast<int8_t>(record[kHalves + unit * kPanelHeight + r]));
          break;
      }
      if (format_.has_mins()) mins[u * kPanelHeight + r] = min;
    }
  }
}

void PanelMatrix::decode(size_t first_row, MatrixView<float> out) const {
  std::vector<uint8_t> codes(padded_cols());
  std::vector<float> scales(units_ * kPanelHeight), mins(format_.has_mins() ? scales.size() : 0);
  size_t expanded = panels();
  for (size_t i = 0; i < out.rows(); ++i) {
    const size_t panel = (first_row + i) / kPanelHeight, row = (first_row + i) % kPanelHeight;
    if (panel != expanded) expand_scales(panel, 0, units_, scales.data(), mins.data());
    expanded = panel;
    get_row_codes(panel, row, codes);
    for (size_t c = 0; c < cols_; ++c) {
      const size_t unit = c / format_.unit_columns * kPanelHeight + row;
      float value;
      if (!format_.levels.empty()) {
        value = format_.levels[codes[c]];
      } else if (format_.codes == CodeLayout::table4) {
        value = static_cast<float>(format_.table[codes[c]] - format_.offset);
      } else if (format_.codes == CodeLayout::bits1) {
        value = static_cast<float>(2 * codes[c] - format_.offset);
      } else {
        value = static_cast<float>(codes[c] - format_.offset);
      }
      out(i, c) = scales[unit] * value;
      if (!mins.empty()) out(i, c) += mins[unit];
    }
  }
}

}  // namespace fewbit
