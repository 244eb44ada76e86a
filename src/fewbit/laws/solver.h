// Minimises a fit objective from one start.
//
//   log       sum (ln y - ln yhat)^2
//   linear    sum (y - yhat)^2
//   weighted  sum (y - yhat)^2 / (SE^2 + floor^2 + (relative_scatter yhat)^2), weights recomputed
//             from the last yhat and held fixed inside each solve (quasi-likelihood)
//   huber     sum Huber_delta(ln y - ln yhat), by L-BFGS and then BFGS
#pragma once

#include "fewbit/laws/fit_problem.h"
#include "fewbit/laws/levenberg_marquardt.h"

namespace fewbit {

struct ObjectiveOptions {
  FitObjective objective = FitObjective::weighted;
  // weighted: the evaluation's noise floor (sigma_0), and the relative scatter from run to run.
  double floor = 0;
  double relative_scatter = 0.15;
  // huber: where the loss turns from quadratic to linear.
  double huber_delta = 1e-3;
};

struct Solution {
  Eigen::VectorXd z;
  // The sum above; weighted: chi^2 at the final weights. Infinite if the start was unusable.
  double objective = 0;
  // weighted: 1 / variance of each row at the solution.
  Eigen::VectorXd weights;
  bool converged = false;
};

// `tolerance` as in LeastSquaresOptions.
Solution solve(const FitProblem& problem, const ObjectiveOptions& options,
               const Eigen::VectorXd& start, const LeastSquaresOptions& settings = {});

// The objective's sum at z; not finite where the form is undefined.
double objective_at(const FitProblem& problem, const ObjectiveOptions& options,
                    const Eigen::VectorXd& z);

// Huber's function, r^2/2 up to delta and then linear, and its derivative.
double huber_loss(double residual, double delta);
double huber_slope(double residual, double delta);

// Normal equations of log (`on_log_scale`) or linear residuals with fixed row weights, which do not
// include the counts.
void least_squares_equations(const FitProblem& problem, bool on_log_scale,
                             const Eigen::VectorXd& weights, const Eigen::VectorXd& z,
                             FitWorkspace& work, NormalEquations& equations);

// 1 / (SE^2 + floor^2 + (relative_scatter yhat)^2) of each row.
Eigen::VectorXd quasi_likelihood_weights(const FitProblem& problem, const ObjectiveOptions& options,
                                         const Eigen::VectorXd& eta);

}  // namespace fewbit
