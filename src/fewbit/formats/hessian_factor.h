// The part of error feedback that depends on the inputs of a layer alone: visiting order, dead
// columns, damping, and the factor of H^-1. Matrices that share an input (q, k, v) share it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "fewbit/base/matrix.h"

namespace fewbit {

enum class ColumnOrder {
  none,     // as stored
  dynamic,  // descending diag(H); groups along the visiting order, the result is permuted
  fixed,    // descending diag(H); groups of the stored order, fitted beforehand (static groups)
  gar       // group-aware (arXiv 2505.14638): descending inside each group, and groups by their
            // largest diag(H); groups of the stored order
};

enum class FactorOutcome {
  solved,
  damped_more,    // the factorisation needed more damping than asked for
  not_factorised  // H is not finite, or no damping helped
};

struct HessianFactorOptions {
  double damping = 0.01;  // times the mean of diag(H), added to diag(H); >= 0
  ColumnOrder order = ColumnOrder::none;
  // After a failure damping rises by this, as long as it stays below 1...
  double damping_step = 0.01;
  // ...and then diag(H) is raised to at least floor * max(diag(H)), floor = 1e-6, 1e-5, ...
  int floor_steps = 6;
};

struct HessianFactor {
  FactorOutcome outcome = FactorOutcome::solved;
  std::string message;  // empty if solved: says what happened, for warnings and reports
  double damping = 0;   // used
  ColumnOrder column_order = ColumnOrder::none;
  size_t group_size = 0;        // that ColumnOrder::gar went by
  std::vector<uint32_t> order;  // visiting order: position -> column
  std::vector<uint8_t> dead;    // by column: H_jj = 0, so its weights do not matter
  std::vector<float> diagonal;  // diag(H) by column, before damping
  // U^t (lower triangular, row-major) in visiting order, with H_damped^-1 = U^t U and U upper
  // triangular. Empty if not factorised.
  Matrix transposed_factor;

  size_t size() const { return order.size(); }
};

// `hessian` is symmetric, [in, in]. `group_size` of the grid, for ColumnOrder::gar (0: one group).
// Error if it is not square or an option is out of range; a Hessian that cannot be factorised is an
// outcome, not an Error.
HessianFactor factorize_hessian(MatrixView<const double> hessian, size_t group_size,
                                const HessianFactorOptions& options);

}  // namespace fewbit
