// Grid: the one place where a format says how its parameters are fitted to weights, how codes are
// chosen under them, and what they decode to.
//
// Rounding to nearest, error feedback (GPTQ, LDLQ), clipping search and importance weighting are
// written once against it. A Grid is a set of options; begin() opens a GridEncoder that holds the
// parameters and codes of one matrix [rows, cols] until finish() makes them a QuantizedMatrix.
//
//   fit     parameters of a group of columns, for some rows or all of them, from their weights
//   assign  codes of a tile of columns under the fitted parameters, and their decoded values
//   finish  the QuantizedMatrix
//
// Columns are *stored* columns: a caller that visits or stores the columns in another order
// permutes the weights before and hands finish() the permutation.
//
// Panels. Calls of fit and assign handle up to kPanelRows rows at once, transposed: element
// [c][r] is column c, row r, rows contiguous, so that SIMD lanes run over rows. A panel's stride is
// kPanelRows and its memory may be read and written up to that, whatever its number of rows; rows
// start at a multiple of kPanelRows. Calls for different panels may run at the same time.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/formats/quantized_matrix.h"

namespace fewbit {

inline constexpr size_t kPanelRows = 64;

// Over what parameters are fitted.
enum class FitScope {
  group,  // group_size columns of each row alone
  row,    // all columns of each row
  matrix  // everything at once: fit_matrix() only, before any code is assigned
};

struct GridShape {
  FitScope scope = FitScope::group;
  size_t group_size = 0;                // columns fitted together, at most the number of columns
  size_t tile_rows = 1, tile_cols = 1;  // codes assigned at once; divide kPanelRows, group_size
};

// [columns][kPanelRows], aligned to 64 bytes: see above.
template <class T>
struct Panel {
  T* data = nullptr;
  size_t cols = 0;
  size_t rows = 0;       // rows in use, at most kPanelRows
  size_t first_row = 0;  // of the matrix

  T* column(size_t c) const { return data + c * kPanelRows; }
  operator Panel<const T>() const { return {data, cols, rows, first_row}; }
};

class GridEncoder {
 public:
  virtual ~GridEncoder() = default;
  virtual GridShape shape() const = 0;

  // Fits group `group` (columns [group * group_size, ...)) for the panel's rows from `weights`, the
  // columns of that group. `importance`: one weight >= 0 per column, or empty for all equal; grids
  // that do not use it say so in their help. Not for FitScope::matrix.
  virtual void fit(size_t group, Panel<const float> weights, std::span<const float> importance) = 0;
  // Fits everything from the whole matrix. The default calls fit() for all groups, in parallel.
  virtual void fit_matrix(MatrixView<const float> weights, std::span<const float> importance);
  // Chooses the codes of columns [column, column + values.cols), whole tiles, and writes what they
  // decode to.
  virtual void assign(size_t column, Panel<const float> values, Panel<float> decoded) = 0;
  // Called once, after every code has been assigned. `input`: T_in of the result.
  virtual QuantizedMatrix finish(Transform input) = 0;

 protected:
  GridEncoder(size_t rows, size_t cols) : rows_(rows), cols_(cols) {}
  size_t rows_, cols_;
};

class Grid {
 public:
  virtual ~Grid() = default;
  // Error if the grid does not suit the shape.
  virtual std::unique_ptr<GridEncoder> begin(size_t rows, size_t cols) const = 0;
  // "uniform b4 g128", for reports.
  virtual std::string describe() const = 0;
};

// Round to nearest: fits on `weights` and assigns every code. Error if a weight is not finite.
QuantizedMatrix quantize_to_nearest(const Grid& grid, MatrixView<const float> weights,
                                    std::span<const float> importance = {});

// Error that names the first weight of a row that is infinite or not a number.
void require_finite(MatrixView<const float> weights);

// The same without keeping codes: only what they decode to, written to `decoded` of the same shape.
void round_to_grid(const Grid& grid, MatrixView<const float> weights,
                   std::span<const float> importance, MatrixView<float> decoded);

// Copies columns [first_col, first_col + panel.cols) of rows panel.first_row... into a panel;
// unused rows become 0.
void load_panel(MatrixView<const float> weights, size_t first_col, Panel<float> panel);
// Copies the used part of a panel back to those columns and rows.
void store_panel(Panel<const float> panel, size_t first_col, MatrixView<float> weights);

}  // namespace fewbit
