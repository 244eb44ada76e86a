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
// Cost: in^3 for the factorisation and out * in^2 for the columns, in multiply-adds. The result is
// bit-identical for any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/formats/grid.h"
#include "fewbit/formats/quantized_matrix.h"

namespace fewbit {

enum class ColumnOrder {
  none,     // as stored
  dynamic,  // descending diag(H); groups along the visiting order, the result is permuted
  fixed,    // descending diag(H); groups of the stored order, fitted beforehand (static groups)
  gar       // group-aware (arXiv 2505.14638): inside each group, and groups by their largest
            // diag(H); groups of the stored order
};

enum class GroupGrids {
  fresh,      // from the weights with all corrections so far
  stale,      // without the corrections of columns in the same block of block_size (the reference)
  beforehand  // from the weights as given (static groups)
};

struct ErrorFeedbackOptions {
  double damping = 0.01;  // times the mean of diag(H), added to it; >= 0
  ColumnOrder order = ColumnOrder::none;
  GroupGrids group_grids = GroupGrids::fresh;
  size_t block_size = 128;  // of the lazy update; changes the result only under GroupGrids::stale
  bool weigh_fit = false;   // give diag(H) to the grid as importance of the columns
  // On failure of the factorisation: damping rises by this, up to below 1...
  double damping_step = 0.01;
  // ...and then diag(H) is raised to at least floor * max(diag(H)), floor = 1e-6, 1e-5, ... 1e-1.
  int floor_steps = 6;
};

struct ErrorFeedbackResult {
  enum class Outcome {
    solved,
    damped_more,    // the factorisation needed more damping than asked for
    not_factorised  // H is not finite or cannot be factorised: codes are round-to-nearest
  };

  QuantizedMatrix matrix;
  Outcome outcome = Outcome::solved;
  std::string message;          // empty if solved: says what happened, for warnings and reports
  double damping = 0;           // the damping used
  double loss = 0;              // sum e^2 / 2; 0 if not factorised
  size_t dead_columns = 0;      // H_jj = 0: weights there became 0
  std::vector<uint32_t> order;  // visiting order of the columns
};

// Quantises `weights` [out, in] with `hessian` [in, in], symmetric; only its upper triangle is
// read. Errors: shapes that do not match, non-finite weights, an order that the grid's tiles or
// scope do not allow.
ErrorFeedbackResult quantize_with_feedback(const Grid& grid, MatrixView<const float> weights,
                                           MatrixView<const double> hessian,
                                           const ErrorFeedbackOptions& options);

// The same with a factorisation that several matrices share (q, k, v have one input).
struct FeedbackFactor {
  ErrorFeedbackResult::Outcome outcome = ErrorFeedbackResult::Outcome::solved;
  std::string message;
  double damping = 0;
  std::vector<uint32_t> order;    // visiting order
  std::vector<uint8_t> dead;      // by original column
  std::vector<float> importance;  // diag(H) by original column, dead ones 0
  Matrix inverse_factor;          // U in visiting order; empty if not factorised
};
// `group_size`: of the grid, for ColumnOrder::gar.
FeedbackFactor factorize_hessian(MatrixView<const double> hessian, size_t group_size,
                                 const ErrorFeedbackOptions& options);
ErrorFeedbackResult quantize_with_feedback(const Grid& grid, MatrixView<const float> weights,
                                           const FeedbackFactor& factor,
                                           const ErrorFeedbackOptions& options);

// tr((W - Q) H (W - Q)^t): the layer's output error on the data of H.
double feedback_objective(MatrixView<const float> weights, MatrixView<const float> quantized,
                          MatrixView<const double> hessian);

}  // namespace fewbit
