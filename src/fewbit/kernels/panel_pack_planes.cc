#include <algorithm>
#include <cmath>
#include <cstring>

#include "fewbit/base/threads.h"
#include "fewbit/formats/codebooks.h"
#include "fewbit/kernels/panel_pack.h"

namespace fewbit {
namespace {

// Units sum in 32 bits and share one activation scale.
constexpr size_t kMaxUnit = 256;
constexpr int kTableOffset = 128;
constexpr float kTableRange = 127;

CodeLayout layout_of_bits(int bits) {
  constexpr CodeLayout kLayouts[] = {CodeLayout::bits1, CodeLayout::bits2, CodeLayout::bits3,
                                     CodeLayout::bits4, CodeLayout::bits5, CodeLayout::bits6,
                                     CodeLayout::bits8, CodeLayout::bits8};
  return kLayouts[bits - 1];
}

struct UnitChoice {
  size_t columns, per_scale;
};

// Units for groups of `group_size` columns; nothing if no unit divides them.
std::optional<UnitChoice> choose_unit(size_t cols, size_t group_size, CodeLayout layout) {
  const size_t step = layout == CodeLayout::bits1 ? kColumnPadding : kColumnPadding / 2;
  if (group_size >= cols) {
    // One scale a row: the unit that pads least, the longest of several.
    const auto padded = [&](size_t unit) { return (cols + unit - 1) / unit * unit; };
    size_t best = kColumnPadding;
    for (size_t unit = best; unit <= kMaxUnit; unit += kColumnPadding) {
      if (padded(unit) <= padded(best)) best = unit;
    }
    return UnitChoice{best, std::max<size_t>(1, padded(best) / best)};
  }
  for (size_t unit = kMaxUnit; unit >= step; unit -= step) {
    if (group_size % unit == 0) return UnitChoice{unit, group_size / unit};
  }
  return std::nullopt;
}

// Packs the codes and calls write_scale(record, panel row, matrix row, group) for every scale.
template <class WriteScale>
PanelMatrix pack(const CodeMatrix& codes, const PanelFormat& format, size_t groups,
                 const WriteScale& write_scale) {
  PanelMatrix matrix(codes.rows, codes.cols, format);
  const size_t record_bytes = scale_record(format).bytes;
  parallel_for(matrix.panels(), [&](size_t panel) {
    const size_t first = panel * kPanelHeight, count = std::min(kPanelHeight, codes.rows - first);
    BasicMatrix<uint8_t> bytes(count, codes.cols);
    for (size_t r = 0; r < count; ++r) {
      codes.get_row(first + r, bytes.row(r));
      for (size_t g = 0; g < groups; ++g) {
        write_scale(matrix.panel_scales(panel) + g * record_bytes, r, first + r, g);
      }
    }
    matrix.set_panel_codes(panel, std::as_const(bytes).view());
  });
  return matrix;
}

// Element `index` of `values` as element `row` of a record's floats.
void copy_float(const StoredFloats& values, size_t index, uint8_t* floats, size_t row) {
  const size_t width = dtype_bytes(values.dtype());
  std::memcpy(floats + row * width, values.bytes().data() + index * width, width);
}

std::optional<PanelMatrix> pack_uniform(const UniformPlane& plane) {
  PanelFormat format;
  format.codes = layout_of_bits(plane.bits());
  const auto unit = choose_unit(plane.codes.cols, plane.group_size, format.codes);
  if (!unit) return std::nullopt;
  format.unit_columns = unit->columns;
  format.units_per_scale = unit->per_scale;
  format.scale_dtype = plane.scales.dtype();
  // A bit's value is 2 * code.
  const int code_value = plane.bits() == 1 ? 2 : 1;
  format.scale_multiplier = 1.0f / static_cast<float>(code_value);
  switch (plane.zero_point_kind) {
    case UniformPlane::ZeroPoint::symmetric:
      format.offset = code_value << (plane.bits() - 1);
      break;
    case UniformPlane::ZeroPoint::integer:
      format.mins = MinLayout::code_zeros;
      break;
    case UniformPlane::ZeroPoint::real:
      format.mins = MinLayout::real_zeros;
      break;
  }
  const size_t groups = plane.groups(), width = dtype_bytes(format.scale_dtype);
  return pack(plane.codes, format, groups,
              [&](uint8_t* record, size_t panel_row, size_t row, size_t group) {
                copy_float(plane.scales, row * groups + group, record, panel_row);
                uint8_t* beside = record + kPanelHeight * width;
                if (format.mins == MinLayout::code_zeros) {
                  beside[panel_row] = plane.zero_points.at(row, group);
                } else if (format.mins == MinLayout::real_zeros) {
                  copy_float(plane.real_zeros, row * groups + group, beside, panel_row);
                }
              });
}

std::optional<PanelMatrix> pack_codebook(const CodebookPlane& plane) {
  constexpr int kTableBits = 4;
  const size_t cols = plane.codes.cols;
  const bool by_rows =
      plane.blocks == CodebookPlane::Blocks::rows || cols == 0 || cols % plane.block_size == 0;
  if (plane.bits() > kTableBits || !by_rows) return std::nullopt;
  PanelFormat format;
  format.codes = CodeLayout::table4;
  const auto unit = choose_unit(cols, plane.block_size, format.codes);
  if (!unit) return std::nullopt;
  format.unit_columns = unit->columns;
  format.units_per_scale = unit->per_scale;
  format.scale_dtype = Dtype::f32;
  format.offset = kTableOffset;
  std::vector<float> levels = plane.levels.to_floats();
  if (!plane.codebook_name.empty()) {
    const std::span<const float> named = named_codebook(plane.codebook_name);
    levels.assign(named.begin(), named.end());
  }
  float largest = 0;
  for (const float level : levels) largest = std::max(largest, std::abs(level));
  const float step = largest > 0 ? largest / kTableRange : 1;
  format.levels.resize(format.table.size());
  for (size_t i = 0; i < levels.size(); ++i) {
    format.levels[i] = levels[i] / step;
    format.table[i] = static_cast<uint8_t>(std::lround(format.levels[i]) + kTableOffset);
  }
  const size_t groups = (cols + plane.block_size - 1) / plane.block_size;
  return pack(plane.codes, format, groups,
              [&](uint8_t* record, size_t panel_row, size_t row, size_t group) {
                const float scale =
                    plane.absmax_of(plane.block_of(row, group * plane.block_size)) * step;
                std::memcpy(record + panel_row * sizeof scale, &scale, sizeof scale);
              });
}

}  // namespace

std::optional<PanelMatrix> pack_plane(const CodePlane& plane) {
  if (const auto* uniform = std::get_if<UniformPlane>(&plane)) return pack_uniform(*uniform);
  if (const auto* codebook = std::get_if<CodebookPlane>(&plane)) return pack_codebook(*codebook);
  return std::nullopt;
}

}  // namespace fewbit
