#include "fewbit/formats/uniform_grid.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/formats/panel_codes.h"
#include "fewbit/formats/uniform_grid_kernels.h"

namespace fewbit {
namespace {

constexpr int kMaxBits = 8;

size_t padded_rows(size_t rows) { return (rows + kPanelRows - 1) / kPanelRows * kPanelRows; }

class UniformEncoder final : public GridEncoder {
 public:
  UniformEncoder(const UniformGridOptions& options, size_t rows, size_t cols)
      : GridEncoder(rows, cols),
        options_(options),
        group_size_(options.group_size == 0 ? cols : std::min(options.group_size, cols)),
        groups_((cols + group_size_ - 1) / group_size_),
        codes_(rows, cols),
        scales_(groups_ * padded_rows(rows), 1.0f),
        zeros_(groups_ * padded_rows(rows), 0.0f) {
    if (options.clip == UniformGridOptions::Clip::none) {
      shrinks_ = {1.0f};
    } else {
      const int candidates = static_cast<int>(options.mse_shrink * options.mse_grid);
      for (int i = 0; i < candidates; ++i) {
        shrinks_.push_back(static_cast<float>(1.0 - static_cast<double>(i) / options.mse_grid));
      }
    }
    rule_ = {.symmetry = options.symmetry,
             .range = options.range,
             .scale_dtype = options.scale_dtype,
             .largest_code = static_cast<float>((1 << options.bits) - 1),
             .midpoint = static_cast<float>(1 << (options.bits - 1)),
             .shrinks = shrinks_,
             .norm = static_cast<float>(options.mse_norm),
             .zero_neighbour = options.mse_zero_neighbour &&
                               options.symmetry == UniformGridOptions::Symmetry::asymmetric};
  }

  GridShape shape() const override {
    return {options_.group_size == 0 ? FitScope::row : FitScope::group, group_size_, 1, 1};
  }

  void fit(size_t group, Panel<const float> weights, std::span<const float> importance) override {
    float* scales = parameters(scales_, group, weights.first_row);
    fit_uniform_panel(rule_, weights, importance, scales,
                      parameters(zeros_, group, weights.first_row));
    for (size_t r = 0; r < weights.rows; ++r) {
      require(std::isfinite(round_to_dtype(options_.scale_dtype, scales[r])),
              "row {}, group {}: a scale of {} is too large for scale_dtype={}; allowed: bf16 or "
              "f32",
              weights.first_row + r, group, scales[r], word_of_float_dtype(options_.scale_dtype));
    }
  }

  void assign(size_t column, Panel<const float> values, Panel<float> decoded) override {
    for (size_t c = 0; c < values.cols; ++c) {
      const size_t group = (column + c) / group_size_;
      assign_uniform_column(values.column(c), parameters(scales_, group, values.first_row),
                            parameters(zeros_, group, values.first_row), rule_.largest_code,
                            codes_.column(column + c) + values.first_row, decoded.column(c));
    }
  }

  QuantizedMatrix finish(Transform input) override {
    const bool symmetric = options_.symmetry != UniformGridOptions::Symmetry::asymmetric;
    UniformPlane plane(
        rows_, cols_, options_.bits, group_size_,
        symmetric ? UniformPlane::ZeroPoint::symmetric : UniformPlane::ZeroPoint::integer,
        options_.scale_dtype);
    codes_.pack_into(plane.codes);
    std::vector<uint8_t> zeros(groups_);
    for (size_t r = 0; r < rows_; ++r) {
      for (size_t g = 0; g < groups_; ++g) {
        plane.scales.set(r * groups_ + g, *parameters(scales_, g, r));
        zeros[g] = static_cast<uint8_t>(*parameters(zeros_, g, r));
      }
      if (!symmetric) plane.zero_points.set_row(r, zeros);
    }
    return QuantizedMatrix(rows_, cols_, {{std::move(plane)}}, std::move(input));
  }

 private:
  float* parameters(AlignedFloats& of, size_t group, size_t row) {
    return of.data() + group * padded_rows(rows_) + row;
  }

  UniformGridOptions options_;
  size_t group_size_, groups_;
  PanelCodes codes_;
  AlignedFloats scales_, zeros_;  // [groups][padded rows]
  std::vector<float> shrinks_;
  UniformFitRule rule_;
};

}  // namespace

UniformGrid::UniformGrid(UniformGridOptions options) : options_(options) {
  using Symmetry = UniformGridOptions::Symmetry;
  require(options_.bits >= 1 && options_.bits <= kMaxBits,
          "bits={} is not allowed; allowed: 1 to {}", options_.bits, kMaxBits);
  require(options_.symmetry != Symmetry::sym_signed || options_.bits >= 2,
          "symmetry=sym_signed is not allowed with bits=1: its only positive code would be 0");
  require(options_.mse_grid >= 1 && options_.mse_shrink > 0 && options_.mse_shrink <= 1 &&
              options_.mse_norm > 0,
          "the clipping search needs mse_grid >= 1, 0 < mse_shrink <= 1 and mse_norm > 0");
  round_to_dtype(options_.scale_dtype, 0);
  word_of_float_dtype(options_.scale_dtype);
}

std::unique_ptr<GridEncoder> UniformGrid::begin(size_t rows, size_t cols) const {
  require(cols > 0, "a matrix without columns cannot be quantised");
  return std::make_unique<UniformEncoder>(options_, rows, cols);
}

std::string UniformGrid::describe() const {
  using Symmetry = UniformGridOptions::Symmetry;
  std::string text = fmt::format("uniform b{}", options_.bits);
  if (options_.group_size > 0) text += fmt::format(" g{}", options_.group_size);
  if (options_.symmetry == Symmetry::sym_offset) text += " sym_offset";
  if (options_.symmetry == Symmetry::sym_signed) text += " sym_signed";
  if (options_.clip == UniformGridOptions::Clip::mse) text += " mse";
  return text;
}

}  // namespace fewbit
