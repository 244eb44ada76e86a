// Error feedback: codes are chosen column by column (or tile by tile), and after each the columns
// still to come are moved so that the layer's output error grows least.
//
//   minimises tr((W - Q) H (W - Q)^t), H = c X^t X [in, in]
//
// GPTQ (arXiv 2210.17323; Optimal Brain Surgeon with one order for all rows), which is LDLQ (QuIP,
// arXiv 2307.13304) up to the order of columns; tiles of more than one column give QuIP#'s block
// LDLQ (arXiv 2402.04396). Written once against Grid.
//
// With H^-1 = U^t U of the damped H, U upper triangular, for the columns in visiting order:
//   q_i = grid(w_i);  e_i = (w_i - q_i) / U_ii;  w_j -= e_i U_ij for all j > i
// and always sum e^2 = tr((W - Q) H_damped (W - Q)^t).
//
// With an InputDrift P (GPTAQ, arXiv 2504.02692) each column is also corrected for inputs that
// differ from those of the full-precision network: w_j += w_i P_ij for later columns of the same
// block of block_size columns, where w_i is the column before it was quantized, and w_j += q_i P_ij
// beyond.
//
// Cost: in^3 / 3 multiply-adds for the factor (hessian_factor.h) and out * in^2 / 2 for the
// columns. The result is bit-identical for any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/formats/grid.h"
#include "fewbit/formats/hessian_factor.h"
#include "fewbit/formats/input_drift.h"
#include "fewbit/formats/quantized_matrix.h"

namespace fewbit {

// Which weights the parameters of a group are fitted to.
enum class GroupGrids {
  fresh,      // with all corrections so far
  stale,      // without those of columns in the same block of block_size (GPTQ's reference)
  beforehand  // as given (static groups); always so for ColumnOrder::fixed and for grids that fit
              // over rows or the matrix
};

struct ErrorFeedbackOptions {
  // Of the factor (hessian_factor.h).
  double damping = 0.01;
  ColumnOrder order = ColumnOrder::none;
  GroupGrids group_grids = GroupGrids::fresh;
  // Columns of one block of GroupGrids::stale and of an InputDrift; has no influence otherwise.
  size_t block_size = 128;
  // Gives diag(H) to the grid as importance of the columns.
  bool weigh_fit = false;
};

struct ErrorFeedbackResult {
  QuantizedMatrix matrix;
  FactorOutcome outcome = FactorOutcome::solved;
  // Of the factor; if not factorised, the codes are the nearest ones without feedback.
  std::string message;
  double loss = 0;          // sum e^2 / 2; 0 if not factorised or with an InputDrift
  size_t dead_columns = 0;  // their weights count as 0
};

// Quantises `weights` [out, in] with `hessian` [in, in], symmetric. Errors: shapes that do not
// match, non-finite weights, tiles that the order of columns or the block size would split.
ErrorFeedbackResult quantize_with_feedback(const Grid& grid, MatrixView<const float> weights,
                                           MatrixView<const double> hessian,
                                           const ErrorFeedbackOptions& options);

// The same with a factor that several matrices share; damping and order are those of the factor,
// not those of `options`. `drift`: of the same factor, or null.
ErrorFeedbackResult quantize_with_feedback(const Grid& grid, MatrixView<const float> weights,
                                           const HessianFactor& factor,
                                           const ErrorFeedbackOptions& options,
                                           const InputDrift* drift = nullptr);

// tr((W - Q) H (W - Q)^t): the layer's output error on the data of H.
double feedback_objective(MatrixView<const float> weights, MatrixView<const float> quantized,
                          MatrixView<const double> hessian);

}  // namespace fewbit
