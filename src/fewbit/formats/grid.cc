#include "fewbit/formats/grid.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/panel_codes.h"

namespace fewbit {
namespace {

// Columns of a matrix-wide grid that are assigned at a time.
constexpr size_t kColumnsPerPass = 256;

void check_importance(std::span<const float> importance, size_t cols) {
  require(importance.empty() || importance.size() == cols,
          "{} importances of columns for {} columns", importance.size(), cols);
}

// Calls body(panel of all rows of one group's columns, group) for every group of `rows` from
// first_row.
template <class Body>
void for_each_group(MatrixView<const float> weights, size_t panel_index, size_t group_size,
                    Body&& body) {
  const size_t first_row = panel_index * kPanelRows;
  AlignedFloats buffer(group_size * kPanelRows);
  for (size_t first = 0, group = 0; first < weights.cols(); first += group_size, ++group) {
    Panel<float> panel{buffer.data(), std::min(group_size, weights.cols() - first),
                       std::min(kPanelRows, weights.rows() - first_row), first_row};
    load_panel(weights, first, panel);
    body(group, first, panel);
  }
}

std::span<const float> part(std::span<const float> importance, size_t first, size_t count) {
  return importance.empty() ? importance : importance.subspan(first, count);
}

size_t panel_count(size_t rows) { return (rows + kPanelRows - 1) / kPanelRows; }

// Fits and assigns everything; `take(first column, decoded panel)` sees every panel.
template <class Take>
std::unique_ptr<GridEncoder> encode_to_nearest(const Grid& grid, MatrixView<const float> weights,
                                               std::span<const float> importance, Take&& take) {
  require_finite(weights);
  check_importance(importance, weights.cols());
  auto encoder = grid.begin(weights.rows(), weights.cols());
  const GridShape shape = encoder->shape();
  const bool whole = shape.scope == FitScope::matrix;
  if (whole) encoder->fit_matrix(weights, importance);
  const size_t columns =
      whole ? std::max(kColumnsPerPass / shape.tile_cols, size_t{1}) * shape.tile_cols
            : shape.group_size;
  parallel_for(panel_count(weights.rows()), [&](size_t index) {
    AlignedFloats buffer(columns * kPanelRows);
    for_each_group(weights, index, columns, [&](size_t group, size_t first, Panel<float> panel) {
      if (!whole) encoder->fit(group, panel, part(importance, first, panel.cols));
      const Panel<float> decoded{buffer.data(), panel.cols, panel.rows, panel.first_row};
      encoder->assign(first, panel, decoded);
      take(first, decoded);
    });
  });
  return encoder;
}

}  // namespace

void require_finite(MatrixView<const float> weights) {
  parallel_for(weights.rows(), [&](size_t r) {
    for (size_t c = 0; c < weights.cols(); ++c) {
      require(std::isfinite(weights(r, c)), "weight [{}, {}] is {}: not a finite number", r, c,
              weights(r, c));
    }
  });
}

void load_panel(MatrixView<const float> weights, size_t first_col, Panel<float> panel) {
  // Sixteen floats are one cache line of a row.
  constexpr size_t kTile = 16;
  for (size_t tile = 0; tile < panel.cols; tile += kTile) {
    const size_t end = std::min(tile + kTile, panel.cols);
    for (size_t r = 0; r < panel.rows; ++r) {
      const float* row = weights.row(panel.first_row + r).data() + first_col;
      for (size_t c = tile; c < end; ++c) panel.column(c)[r] = row[c];
    }
    for (size_t c = tile; c < end; ++c) {
      std::fill(panel.column(c) + panel.rows, panel.column(c) + kPanelRows, 0.0f);
    }
  }
}

void store_panel(Panel<const float> panel, size_t first_col, MatrixView<float> weights) {
  for (size_t r = 0; r < panel.rows; ++r) {
    float* row = weights.row(panel.first_row + r).data() + first_col;
    for (size_t c = 0; c < panel.cols; ++c) row[c] = panel.column(c)[r];
  }
}

void GridEncoder::fit_matrix(MatrixView<const float> weights, std::span<const float> importance) {
  check_importance(importance, cols_);
  parallel_for(panel_count(rows_), [&](size_t index) {
    for_each_group(weights, index, shape().group_size,
                   [&](size_t group, size_t first, Panel<float> panel) {
                     fit(group, panel, part(importance, first, panel.cols));
                   });
  });
}

QuantizedMatrix quantize_to_nearest(const Grid& grid, MatrixView<const float> weights,
                                    std::span<const float> importance) {
  return encode_to_nearest(grid, weights, importance, [](size_t, Panel<float>) {})->finish({});
}

void round_to_grid(const Grid& grid, MatrixView<const float> weights,
                   std::span<const float> importance, MatrixView<float> decoded) {
  require(decoded.rows() == weights.rows() && decoded.cols() == weights.cols(),
          "weights of [{}, {}] do not decode to [{}, {}]", weights.rows(), weights.cols(),
          decoded.rows(), decoded.cols());
  encode_to_nearest(grid, weights, importance,
                    [&](size_t first, Panel<float> panel) { store_panel(panel, first, decoded); });
}

}  // namespace fewbit
