#include "fewbit/formats/codebook_grid.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/codebook_grid_kernels.h"
#include "fewbit/formats/codebooks.h"
#include "fewbit/formats/panel_codes.h"

namespace fewbit {
namespace {

constexpr float kMinAbsmax = 1e-38f;

class CodebookEncoder final : public GridEncoder {
 public:
  CodebookEncoder(const CodebookGridOptions& options, std::span<const float> levels, size_t rows,
                  size_t cols)
      : GridEncoder(rows, cols), options_(options), search_(levels), codes_(rows, cols) {
    plane_.codes = CodeMatrix(rows, cols, std::countr_zero(levels.size()));
    plane_.codebook_name = options.codebook;
    if (options.codebook.empty()) plane_.levels = options.levels;
    plane_.blocks = options.blocks;
    plane_.block_size = std::min(options.block_size, options.blocks == CodebookPlane::Blocks::rows
                                                         ? cols
                                                         : std::max<size_t>(rows * cols, 1));
    original_.resize(plane_.block_count());
    stored_.resize(plane_.block_count());
    // Blocks that run across rows, and scales that depend on each other, have to be known first.
    crosses_rows_ = options.blocks == CodebookPlane::Blocks::flattened &&
                    (plane_.block_size > cols || cols % plane_.block_size != 0);
    for (const uint8_t code : search_.code_of_position()) sorted_.push_back(levels[code]);
  }

  GridShape shape() const override {
    if (crosses_rows_ || options_.double_quantized) return {FitScope::matrix, cols_, 1, 1};
    return {plane_.block_size == cols_ ? FitScope::row : FitScope::group, plane_.block_size, 1, 1};
  }

  void fit(size_t group, Panel<const float> weights, std::span<const float>) override {
    for (size_t r = 0; r < weights.rows; ++r) {
      float largest = 0;
      for (size_t c = 0; c < weights.cols; ++c) {
        largest = std::max(largest, std::fabs(weights.column(c)[r]));
      }
      const size_t block = plane_.block_of(weights.first_row + r, group * plane_.block_size);
      original_[block] = largest;
      stored_[block] = stored_form(largest);
    }
  }

  void fit_matrix(MatrixView<const float> weights, std::span<const float>) override {
    const size_t size = plane_.block_size;
    const auto largest_of = [&](size_t row, size_t first, size_t last, float largest) {
      for (size_t c = first; c < last; ++c) largest = std::max(largest, std::fabs(weights(row, c)));
      return largest;
    };
    parallel_for(original_.size(), [&](size_t block) {
      float largest = 0;
      if (plane_.blocks == CodebookPlane::Blocks::rows) {
        const size_t per_row = original_.size() / rows_, first = block % per_row * size;
        largest = largest_of(block / per_row, first, std::min(first + size, cols_), 0);
      } else {
        const size_t end = std::min((block + 1) * size, rows_ * cols_);
        for (size_t i = block * size; i < end;) {
          const size_t row = i / cols_, last = std::min(end, (row + 1) * cols_);
          largest = largest_of(row, i - row * cols_, last - row * cols_, largest);
          i = last;
        }
      }
      original_[block] = largest;
    });
    if (options_.double_quantized) {
      double_quantized_ = double_quantize(original_);
      for (size_t b = 0; b < stored_.size(); ++b) stored_[b] = double_quantized_[b];
    } else {
      std::transform(original_.begin(), original_.end(), stored_.begin(),
                     [&](float absmax) { return stored_form(absmax); });
    }
  }

  void assign(size_t column, Panel<const float> values, Panel<float> decoded) override {
    alignas(128) float inverses[kPanelRows] = {}, absmax[kPanelRows] = {};
    const auto codes = search_.code_of_position();
    size_t same_until = 0;
    for (size_t c = 0; c < values.cols; ++c) {
      if (crosses_rows_ || column + c >= same_until) {
        for (size_t r = 0; r < values.rows; ++r) {
          const size_t block = plane_.block_of(values.first_row + r, column + c);
          absmax[r] = stored_[block];
          const float divisor =
              options_.assign_with_original ? original_[block] : std::max(stored_[block], 0.0f);
          inverses[r] = 1.0f / std::max(divisor, kMinAbsmax);
        }
        same_until = ((column + c) / plane_.block_size + 1) * plane_.block_size;
      }
      uint8_t* target = codes_.column(column + c) + values.first_row;
      assign_codebook_column({search_.midpoints(), sorted_}, values.column(c), inverses, absmax,
                             target, decoded.column(c));
      for (size_t r = 0; r < kPanelRows; ++r) target[r] = codes[target[r]];
    }
  }

  QuantizedMatrix finish(Transform input) override {
    codes_.pack_into(plane_.codes);
    if (options_.double_quantized) {
      plane_.absmax = std::move(double_quantized_);
    } else {
      plane_.absmax = StoredFloats(options_.absmax_dtype, stored_);
    }
    return QuantizedMatrix(rows_, cols_, {{std::move(plane_)}}, std::move(input));
  }

 private:
  float stored_form(float absmax) const {
    const float stored = round_to_dtype(options_.absmax_dtype, absmax);
    require(std::isfinite(stored), "an absmax of {} is too large for absmax_dtype={}", absmax,
            word_of_float_dtype(options_.absmax_dtype));
    return stored;
  }

  CodebookGridOptions options_;
  CodebookSearch search_;
  std::vector<float> sorted_;
  PanelCodes codes_;
  CodebookPlane plane_;
  std::vector<float> original_, stored_;  // absmax by block
  DoubleQuantizedScales double_quantized_;
  bool crosses_rows_ = false;
};

}  // namespace

CodebookGrid::CodebookGrid(CodebookGridOptions options) : options_(std::move(options)) {
  require(options_.block_size >= 1, "block_size=0 is not allowed; allowed: 1 and above");
  word_of_float_dtype(options_.absmax_dtype);
  if (options_.codebook.empty()) {
    levels_ = options_.levels.to_floats();
  } else {
    const auto levels = named_codebook(options_.codebook);
    levels_.assign(levels.begin(), levels.end());
  }
  require(std::has_single_bit(levels_.size()) && levels_.size() >= 2 && levels_.size() <= 256,
          "a codebook of {} levels is not allowed; allowed: 2, 4, ..., 256", levels_.size());
}

std::unique_ptr<GridEncoder> CodebookGrid::begin(size_t rows, size_t cols) const {
  require(cols > 0, "a matrix without columns cannot be quantised");
  return std::make_unique<CodebookEncoder>(options_, levels_, rows, cols);
}

std::string CodebookGrid::describe() const {
  return fmt::format("{} block {}{}", options_.codebook.empty() ? "codebook" : options_.codebook,
                     options_.block_size, options_.double_quantized ? " double quantised" : "");
}

}  // namespace fewbit
