#include "fewbit/laws/fit_problem.h"

#include <cmath>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// A column whose part orthogonal to the others is shorter than this share of it is dependent.
constexpr double kRankTolerance = 1e-10;
// Smallest pivot, as a share of the largest, that determines the fit.
constexpr double kSmallestPivot = 1e-10;

// Names the parameters of a dependent set of columns.
std::string dependent_parameters(const Eigen::MatrixXd& design, const Form& form) {
  Eigen::JacobiSVD<Eigen::MatrixXd> svd(design, Eigen::ComputeThinV);
  const Eigen::VectorXd direction = svd.matrixV().col(design.cols() - 1);
  // Weights in the units of the columns, so that a constant column and ln N compare.
  const Eigen::VectorXd weight =
      direction.cwiseAbs().cwiseProduct(design.colwise().norm().transpose());
  std::string names;
  for (Eigen::Index j = 0; j < weight.size(); ++j) {
    if (weight[j] < 1e-6 * weight.maxCoeff()) continue;
    names += (names.empty() ? "" : ", ") + form.fitted[static_cast<size_t>(j)].name;
  }
  return names;
}

}  // namespace

FitProblem::FitProblem(const Form& form, std::vector<LawPoint> points,
                       std::span<const double> values, std::span<const double> standard_errors)
    : form_(std::make_shared<const Form>(form)), points_(std::move(points)) {
  const auto n = static_cast<Eigen::Index>(points_.size());
  const auto p = static_cast<Eigen::Index>(form.fitted.size());
  require(values.size() == points_.size() && standard_errors.size() == points_.size(),
          "{} points, {} values, {} standard errors", points_.size(), values.size(),
          standard_errors.size());
  require(n >= p && n > 0, "form {} has {} parameters but only {} rows can be used",
          form.info->name, p, n);
  values_ = Eigen::Map<const Eigen::VectorXd>(values.data(), n);
  standard_errors_ = Eigen::Map<const Eigen::VectorXd>(standard_errors.data(), n);
  counts_ = Eigen::VectorXd::Ones(n);
  ln_values_.resize(n);
  for (Eigen::Index i = 0; i < n; ++i) {
    ln_values_[i] = values_[i] > 0 ? std::log(values_[i]) : std::nan("");
  }
  if (!form.log_linear()) return;
  Eigen::MatrixXd design(n, p);
  std::vector<double> row(static_cast<size_t>(p));
  for (Eigen::Index i = 0; i < n; ++i) {
    form.design(points_[static_cast<size_t>(i)], row);
    design.row(i) = Eigen::Map<const Eigen::RowVectorXd>(row.data(), p);
  }
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(design);
  triangular_ = qr.matrixQR().topRows(p).triangularView<Eigen::Upper>();
  orthonormal_ = qr.householderQ() * Eigen::MatrixXd::Identity(n, p);
  for (Eigen::Index j = 0; j < p; ++j) {
    if (std::abs(triangular_(j, j)) > kRankTolerance * design.col(j).norm()) continue;
    fail(
        "form {}: the {} rows do not determine its parameters: {} cannot be told apart. Use a "
        "form with fewer variables, or rows in which they vary independently",
        form.info->name, n, dependent_parameters(design, form));
  }
}

void FitProblem::evaluate(const Eigen::VectorXd& z, bool with_jacobian, FitWorkspace& work) const {
  if (form_->log_linear()) {
    work.eta.noalias() = orthonormal_ * z;
    work.jacobian = &orthonormal_;
    return;
  }
  const auto n = static_cast<Eigen::Index>(rows());
  const auto p = static_cast<Eigen::Index>(parameters());
  work.eta.resize(n);
  const std::span<const double> fitted(z.data(), parameters());
  if (!with_jacobian) {
    for (Eigen::Index i = 0; i < n; ++i) {
      work.eta[i] = form_->log_value(fitted, points_[static_cast<size_t>(i)], {});
    }
    return;
  }
  work.own.resize(n, p);
  Eigen::VectorXd gradient = Eigen::VectorXd::Zero(p);
  for (Eigen::Index i = 0; i < n; ++i) {
    work.eta[i] =
        form_->log_value(fitted, points_[static_cast<size_t>(i)], {gradient.data(), parameters()});
    work.own.row(i) = gradient.transpose();
  }
  work.jacobian = &work.own;
}

Eigen::VectorXd FitProblem::to_solver(std::span<const double> fitted) const {
  const Eigen::Map<const Eigen::VectorXd> theta(fitted.data(),
                                                static_cast<Eigen::Index>(fitted.size()));
  if (form_->log_linear()) return triangular_ * theta;
  return theta;
}

std::vector<double> FitProblem::to_fitted(const Eigen::VectorXd& z) const {
  Eigen::VectorXd theta = z;
  if (form_->log_linear()) triangular_.triangularView<Eigen::Upper>().solveInPlace(theta);
  return {theta.data(), theta.data() + theta.size()};
}

Eigen::MatrixXd FitProblem::fitted_from_solver() const {
  const auto p = static_cast<Eigen::Index>(parameters());
  Eigen::MatrixXd map = Eigen::MatrixXd::Identity(p, p);
  if (form_->log_linear()) triangular_.triangularView<Eigen::Upper>().solveInPlace(map);
  return map;
}

FitProblem FitProblem::resampled(std::span<const uint32_t> counts) const {
  require(counts.size() == rows(), "{} counts for {} rows", counts.size(), rows());
  std::vector<Eigen::Index> kept;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) kept.push_back(static_cast<Eigen::Index>(i));
  }
  FitProblem problem;
  problem.form_ = form_;
  problem.triangular_ = triangular_;
  problem.values_ = values_(kept);
  problem.ln_values_ = ln_values_(kept);
  problem.standard_errors_ = standard_errors_(kept);
  problem.counts_.resize(static_cast<Eigen::Index>(kept.size()));
  for (size_t i = 0; i < kept.size(); ++i) {
    problem.counts_[static_cast<Eigen::Index>(i)] = counts[static_cast<size_t>(kept[i])];
  }
  if (form_->log_linear()) {
    problem.orthonormal_.resize(static_cast<Eigen::Index>(kept.size()), orthonormal_.cols());
    for (Eigen::Index j = 0; j < orthonormal_.cols(); ++j) {
      for (size_t i = 0; i < kept.size(); ++i) {
        problem.orthonormal_(static_cast<Eigen::Index>(i), j) = orthonormal_(kept[i], j);
      }
    }
  } else {
    for (const Eigen::Index i : kept) problem.points_.push_back(points_[static_cast<size_t>(i)]);
  }
  return problem;
}

bool FitProblem::determines_parameters() const {
  if (rows() < parameters()) return false;
  if (!form_->log_linear()) return true;
  const Eigen::MatrixXd scaled = counts_.asDiagonal() * orthonormal_;
  const Eigen::LDLT<Eigen::MatrixXd> factor(scaled.transpose() * orthonormal_);
  return pivots_determine_parameters(factor.vectorD().minCoeff(), factor.vectorD().maxCoeff());
}

bool FitProblem::solve_on_log_scale(const std::vector<bool>& use, Eigen::VectorXd& z) const {
  const auto n = static_cast<Eigen::Index>(rows());
  Eigen::VectorXd weight = counts_, target = ln_values_;
  for (Eigen::Index i = 0; i < n; ++i) {
    if ((!use.empty() && !use[static_cast<size_t>(i)]) || std::isnan(target[i])) {
      weight[i] = target[i] = 0;
    }
  }
  const Eigen::MatrixXd scaled = weight.asDiagonal() * orthonormal_;
  const Eigen::LDLT<Eigen::MatrixXd> factor(scaled.transpose() * orthonormal_);
  if (!pivots_determine_parameters(factor.vectorD().minCoeff(), factor.vectorD().maxCoeff())) {
    return false;
  }
  z = factor.solve(scaled.transpose() * target);
  // One step of refinement on the residuals: the QR solution's accuracy from normal equations.
  z += factor.solve(scaled.transpose() * (target - orthonormal_ * z));
  return z.allFinite();
}

bool pivots_determine_parameters(double smallest, double largest) {
  return smallest > kSmallestPivot * largest;
}

std::vector<uint32_t> resample_counts(std::span<const uint32_t> indices, size_t rows) {
  std::vector<uint32_t> counts(rows, 0);
  for (const uint32_t index : indices) {
    require(index < rows, "resample index {} of {} rows", index, rows);
    ++counts[index];
  }
  return counts;
}

}  // namespace fewbit
