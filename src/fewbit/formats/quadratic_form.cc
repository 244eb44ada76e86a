#include "fewbit/formats/quadratic_form.h"

#include <algorithm>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/dense_kernels.h"
#include "fewbit/formats/panel_codes.h"

namespace fewbit {
namespace {

// Rows of H whose products stay in the first cache levels, and terms summed in float.
constexpr size_t kRows = 64, kDepth = 256;
static_assert(kPanelRows % kProductColumns == 0);

}  // namespace

QuadraticForm::QuadraticForm(MatrixView<const double> h)
    : size_(h.rows()), h_(h.rows() * h.cols()) {
  require(h.rows() == h.cols(), "a quadratic form of {} rows and {} columns", h.rows(), h.cols());
  parallel_for(size_, [&](size_t r) {
    for (size_t c = 0; c < size_; ++c) h_[r * size_ + c] = static_cast<float>(h(r, c));
  });
}

void QuadraticForm::panel_errors(Panel<const float> difference, std::span<double> errors) const {
  require(difference.cols == size_ && errors.size() == kPanelRows,
          "a difference of {} columns in a form of {}", difference.cols, size_);
  std::vector<double, PanelAllocator<double>> products(kRows * kPanelRows);
  std::ranges::fill(errors, 0.0);
  for (size_t first = 0; first < size_; first += kRows) {
    const size_t rows = std::min(kRows, size_ - first);
    std::ranges::fill(products, 0.0);
    for (size_t k = 0; k < size_; k += kDepth) {
      add_product(&h_[first * size_ + k], size_, difference.column(k), kPanelRows,
                  std::min(kDepth, size_ - k), products.data(), kPanelRows, rows, kPanelRows);
    }
    for (size_t i = 0; i < rows; ++i) {
      const float* column = difference.column(first + i);
      for (size_t r = 0; r < kPanelRows; ++r) errors[r] += column[r] * products[i * kPanelRows + r];
    }
  }
}

double QuadraticForm::total(MatrixView<const float> difference) const {
  const size_t panels = (difference.rows() + kPanelRows - 1) / kPanelRows;
  std::vector<double> sums(panels);
  parallel_for(panels, [&](size_t index) {
    const size_t first = index * kPanelRows;
    AlignedFloats buffer(size_ * kPanelRows);
    const Panel<float> panel{buffer.data(), size_, std::min(kPanelRows, difference.rows() - first),
                             first};
    load_panel(difference, 0, panel);
    std::vector<double> errors(kPanelRows);
    panel_errors(panel, errors);
    sums[index] = std::accumulate(errors.begin(), errors.end(), 0.0);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace fewbit
