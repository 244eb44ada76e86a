#include "fewbit/formats/hqq_grid.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/hqq_grid_kernels.h"
#include "fewbit/formats/panel_codes.h"

namespace fewbit {
namespace {

constexpr int kMaxBits = 8;
// A group of a smaller range counts as constant: its scale is 1, its zero point -min.
constexpr float kSmallestRange = 1e-4f;
// A zero point that moves by less than this, relative to its size, has arrived.
constexpr float kStill = 1e-6f;
// The reference caps 1 / scale at 2e4.
constexpr float kSmallestScale = 5e-5f;

size_t panel_count(size_t rows) { return (rows + kPanelRows - 1) / kPanelRows; }

class HqqEncoder final : public GridEncoder {
 public:
  HqqEncoder(const HqqGridOptions& options, size_t rows, size_t cols)
      : GridEncoder(rows, cols),
        options_(options),
        group_size_(options.group_size == 0 ? cols : std::min(options.group_size, cols)),
        groups_((cols + group_size_ - 1) / group_size_),
        codes_(rows, cols),
        scales_(groups_ * panel_count(rows) * kPanelRows, 1.0f),
        zeros_(scales_.size(), 0.0f),
        rule_{.largest_code = static_cast<float>((1 << options.bits) - 1),
              .norm = static_cast<float>(options.norm),
              .inverse_beta = static_cast<float>(1 / options.beta)} {}

  GridShape shape() const override {
    const FitScope alone = options_.group_size == 0 ? FitScope::row : FitScope::group;
    return {options_.stop == HqqGridOptions::Stop::tensor ? FitScope::matrix : alone, group_size_,
            1, 1};
  }

  void fit(size_t group, Panel<const float> weights, std::span<const float>) override {
    start(group, weights);
    float* zeros = parameters(zeros_, group, weights.first_row);
    const float* scales = parameters(scales_, group, weights.first_row);
    alignas(128) std::array<float, kPanelRows> current, next, errors, best;
    std::copy_n(zeros, kPanelRows, current.begin());
    best.fill(std::numeric_limits<float>::infinity());
    // A row stops by itself, so that it does not depend on its neighbours.
    std::array<bool, kPanelRows> stopped{};
    for (int i = 0; i < options_.iterations; ++i) {
      hqq_step(rule_, weights, scales, current.data(), next.data(), errors.data());
      bool all_stopped = true;
      for (size_t r = 0; r < weights.rows; ++r) {
        if (stopped[r]) continue;
        if (errors[r] < best[r]) {
          best[r] = errors[r];
          zeros[r] = current[r];
        }
        stopped[r] = std::fabs(next[r] - current[r]) <= kStill * (1 + std::fabs(current[r]));
        current[r] = next[r];
        all_stopped = all_stopped && stopped[r];
      }
      if (all_stopped) break;
    }
    round_zeros(group, weights);
  }

  void fit_matrix(MatrixView<const float> weights, std::span<const float> importance) override {
    if (options_.stop == HqqGridOptions::Stop::group) {
      GridEncoder::fit_matrix(weights, importance);
      return;
    }
    history_.clear();
    AlignedFloats next(zeros_.size());
    for_each_panel(weights,
                   [&](size_t, size_t group, Panel<const float> panel) { start(group, panel); });
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < options_.iterations; ++i) {
      std::vector<double> sums(panel_count(rows_), 0.0);
      for_each_panel(weights, [&](size_t index, size_t group, Panel<const float> panel) {
        alignas(128) std::array<float, kPanelRows> errors;
        hqq_step(rule_, panel, parameters(scales_, group, panel.first_row),
                 parameters(zeros_, group, panel.first_row),
                 parameters(next, group, panel.first_row), errors.data());
        for (size_t r = 0; r < panel.rows; ++r) sums[index] += static_cast<double>(errors[r]);
      });
      zeros_.swap(next);
      const double error =
          std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(rows_ * cols_);
      history_.push_back(error);
      if (error >= best) break;
      best = error;
    }
    for_each_panel(weights, [&](size_t, size_t group, Panel<const float> panel) {
      round_zeros(group, panel);
    });
  }

  void assign(size_t column, Panel<const float> values, Panel<float> decoded) override {
    for (size_t c = 0; c < values.cols; ++c) {
      const size_t group = (column + c) / group_size_;
      assign_hqq_column(values.column(c), parameters(scales_, group, values.first_row),
                        parameters(zeros_, group, values.first_row), rule_.largest_code,
                        codes_.column(column + c) + values.first_row, decoded.column(c));
    }
  }

  QuantizedMatrix finish(Transform input) override {
    UniformPlane plane(rows_, cols_, options_.bits, group_size_, UniformPlane::ZeroPoint::real,
                       options_.scale_dtype);
    codes_.pack_into(plane.codes);
    for (size_t r = 0; r < rows_; ++r) {
      for (size_t g = 0; g < groups_; ++g) {
        plane.scales.set(r * groups_ + g, *parameters(scales_, g, r));
        plane.real_zeros.set(r * groups_ + g, *parameters(zeros_, g, r));
      }
    }
    return QuantizedMatrix(rows_, cols_, {{std::move(plane)}}, std::move(input));
  }

  const std::vector<double>& history() const { return history_; }

 private:
  float* parameters(AlignedFloats& of, size_t group, size_t row) {
    return of.data() + group * panel_count(rows_) * kPanelRows + row;
  }

  // body(panel index, group, the group's columns of the panel), panels in parallel.
  template <class Body>
  void for_each_panel(MatrixView<const float> weights, Body&& body) {
    parallel_for(panel_count(rows_), [&](size_t index) {
      AlignedFloats buffer(group_size_ * kPanelRows);
      const size_t first_row = index * kPanelRows;
      for (size_t group = 0; group < groups_; ++group) {
        const size_t first = group * group_size_;
        const Panel<float> panel{buffer.data(), std::min(group_size_, cols_ - first),
                                 std::min(kPanelRows, rows_ - first_row), first_row};
        load_panel(weights, first, panel);
        body(index, group, panel);
      }
    });
  }

  void start(size_t group, Panel<const float> weights) {
    float* scales = parameters(scales_, group, weights.first_row);
    float* zeros = parameters(zeros_, group, weights.first_row);
    alignas(128) std::array<float, kPanelRows> low, high;
    std::copy_n(weights.column(0), kPanelRows, low.begin());
    high = low;
    for (size_t c = 1; c < weights.cols; ++c) {
      const float* column = weights.column(c);
      for (size_t r = 0; r < kPanelRows; ++r) {
        low[r] = std::min(low[r], column[r]);
        high[r] = std::max(high[r], column[r]);
      }
    }
    for (size_t r = 0; r < kPanelRows; ++r) {
      const float range = high[r] - low[r];
      scales[r] = range <= kSmallestRange
                      ? 1.0f
                      : round_to_dtype(options_.scale_dtype,
                                       std::max(range / rule_.largest_code, kSmallestScale));
      require(r >= weights.rows || std::isfinite(scales[r]),
              "row {}, group {}: a range of {} is too large for scale_dtype={}; allowed: bf16 or "
              "f32",
              weights.first_row + r, group, range, word_of_float_dtype(options_.scale_dtype));
      zeros[r] = -low[r] / scales[r];
      if (options_.round_zero && range > kSmallestRange) zeros[r] = std::nearbyint(zeros[r]);
    }
  }

  void round_zeros(size_t group, Panel<const float> weights) {
    float* zeros = parameters(zeros_, group, weights.first_row);
    for (size_t r = 0; r < weights.rows; ++r) {
      const float rounded = round_to_dtype(options_.scale_dtype, zeros[r]);
      require(std::isfinite(rounded),
              "row {}, group {}: a zero point of {} is too large for scale_dtype={}; allowed: bf16 "
              "or f32",
              weights.first_row + r, group, zeros[r], word_of_float_dtype(options_.scale_dtype));
      zeros[r] = rounded;
    }
  }

  HqqGridOptions options_;
  size_t group_size_, groups_;
  PanelCodes codes_;
  AlignedFloats scales_, zeros_;  // [groups][padded rows]
  HqqRule rule_;
  std::vector<double> history_;
};

}  // namespace

HqqGrid::HqqGrid(HqqGridOptions options) : options_(options) {
  require(options_.bits >= 1 && options_.bits <= kMaxBits,
          "bits={} is not allowed; allowed: 1 to {}", options_.bits, kMaxBits);
  require(options_.iterations >= 0 && options_.norm > 0 && options_.norm <= 1 && options_.beta > 0,
          "HQQ needs iterations >= 0, 0 < norm <= 1 and beta > 0");
  word_of_float_dtype(options_.scale_dtype);
}

std::unique_ptr<GridEncoder> HqqGrid::begin(size_t rows, size_t cols) const {
  require(cols > 0, "a matrix without columns cannot be quantised");
  return std::make_unique<HqqEncoder>(options_, rows, cols);
}

std::string HqqGrid::describe() const {
  std::string text = fmt::format("hqq b{}", options_.bits);
  if (options_.group_size > 0) text += fmt::format(" g{}", options_.group_size);
  return text;
}

std::vector<double> hqq_error_history(const HqqGridOptions& options,
                                      MatrixView<const float> weights) {
  HqqGridOptions whole = options;
  whole.stop = HqqGridOptions::Stop::tensor;
  HqqEncoder encoder(whole, weights.rows(), weights.cols());
  encoder.fit_matrix(weights, {});
  return encoder.history();
}

}  // namespace fewbit
