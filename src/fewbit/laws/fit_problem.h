// A form bound to the rows it is fitted to, in coordinates that suit a solver.
//
// For a log-linear form with design matrix X = Q R (thin QR), the solver works on z = R theta: the
// columns of Q are orthonormal, so that large means of ln N and ln D cost no digits. Other forms
// use z = theta.
#pragma once

#include <Eigen/Dense>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "fewbit/laws/form.h"

namespace fewbit {

// Scratch space of evaluations; one for each thread.
struct FitWorkspace {
  Eigen::VectorXd eta;                        // ln value, row by row
  Eigen::MatrixXd own;                        // Jacobian of a form that is not log-linear
  const Eigen::MatrixXd* jacobian = nullptr;  // d eta / d z, [rows, parameters]
};

class FitProblem {
 public:
  // `standard_errors`: of the values, 0 where unknown. Equal sizes. Error that names the parameters
  // if the rows do not determine the parameters of a log-linear form.
  FitProblem(const Form& form, std::vector<LawPoint> points, std::span<const double> values,
             std::span<const double> standard_errors);

  size_t rows() const { return static_cast<size_t>(values_.size()); }
  size_t parameters() const { return form_->fitted.size(); }
  // Rows counted as often as they were drawn.
  double total_count() const { return counts_.sum(); }
  const Form& form() const { return *form_; }
  const std::vector<LawPoint>& points() const { return points_; }
  const Eigen::VectorXd& values() const { return values_; }
  // NaN where the value is not positive.
  const Eigen::VectorXd& ln_values() const { return ln_values_; }
  const Eigen::VectorXd& standard_errors() const { return standard_errors_; }
  const Eigen::VectorXd& counts() const { return counts_; }
  // Log-linear forms: Q, [rows, parameters].
  const Eigen::MatrixXd& orthonormal() const { return orthonormal_; }

  // Fills eta, and the Jacobian if it is asked for.
  void evaluate(const Eigen::VectorXd& z, bool with_jacobian, FitWorkspace& work) const;

  Eigen::VectorXd to_solver(std::span<const double> fitted) const;
  std::vector<double> to_fitted(const Eigen::VectorXd& z) const;
  // The linear map from solver to fitted coordinates.
  Eigen::MatrixXd fitted_from_solver() const;

  // Row i taken counts[i] times, in the same coordinates. Rows with count 0 are left out.
  FitProblem resampled(std::span<const uint32_t> counts) const;

  // False if a log-linear form's parameters cannot be found from these rows.
  bool determines_parameters() const;

  // Log-linear forms: least squares on ln values over the rows where `use` is true (all if empty).
  // False if those rows do not determine the parameters.
  bool solve_on_log_scale(const std::vector<bool>& use, Eigen::VectorXd& z) const;

 private:
  FitProblem() = default;

  std::shared_ptr<const Form> form_;
  std::vector<LawPoint> points_;
  Eigen::VectorXd values_, ln_values_, standard_errors_, counts_;
  Eigen::MatrixXd orthonormal_;  // Q
  Eigen::MatrixXd triangular_;   // R
};

// False if the Gram matrix of Q's rows, each as often as it counts, has pivots so unequal that the
// rows do not determine the parameters.
bool pivots_determine_parameters(double smallest, double largest);

// How often each of `rows` indices was drawn.
std::vector<uint32_t> resample_counts(std::span<const uint32_t> indices, size_t rows);

}  // namespace fewbit
