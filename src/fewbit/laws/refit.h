// Many fits of one problem to resamples of its rows, all from the same start.
//
// The linear and the weighted objective of log-linear forms with few parameters take Newton's
// method on the estimating equations of refit_kernels.h: from a start near the optimum each step
// squares the error, so that three or four passes over the rows do. The weights of the weighted
// objective move along with the prediction; where they come to rest is where the rounds of
// reweighting in solve() end. Where Newton's method does not close in fast (the start is far away,
// the Hessian is not positive definite), and for all other forms and objectives, solve() decides.
#pragma once

#include <hwy/aligned_allocator.h>

#include <optional>
#include <span>

#include "fewbit/laws/refit_kernels.h"
#include "fewbit/laws/solver.h"

namespace fewbit {

// Scratch space of a Refitter; one for each thread.
struct RefitWorkspace {
  size_t rows = 0;
  hwy::AlignedFreeUniquePtr<uint32_t[]> counts;
  hwy::AlignedFreeUniquePtr<double[]> real_counts;
};

class Refitter {
 public:
  // `start` in solver coordinates. The problem must outlive the refitter.
  Refitter(const FitProblem& problem, const ObjectiveOptions& options,
           const Eigen::VectorXd& start);

  // Solver coordinates of the fit to row i counted counts[i] times; none if those rows do not
  // determine the parameters. May be called from several threads, each with its own workspace.
  std::optional<Eigen::VectorXd> refit(std::span<const uint32_t> counts,
                                       RefitWorkspace& work) const;

 private:
  enum class NewtonOutcome { converged, undetermined, failed };

  void prepare_newton();
  NewtonOutcome newton(std::span<const uint32_t> counts, RefitWorkspace& work,
                       Eigen::VectorXd& z) const;

  const FitProblem& problem_;
  ObjectiveOptions options_;
  Eigen::VectorXd start_;
  // Of Newton's method; rows_.rows is 0 where it is not for this problem.
  RefitRows rows_;
  RefitTerms at_start_;
  hwy::AlignedFreeUniquePtr<double[]> memory_;
};

// The fit to row i counted counts[i] times, from `start` in solver coordinates; none if those rows
// do not determine the parameters. The objective is that of the counted rows; no weights.
std::optional<Solution> refit(const FitProblem& problem, const ObjectiveOptions& options,
                              const Eigen::VectorXd& start, std::span<const uint32_t> counts);

}  // namespace fewbit
