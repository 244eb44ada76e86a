#include "fewbit/laws/solver.h"

#include <ceres/ceres.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

constexpr int kMaxReweightingRounds = 100;
constexpr double kReweightingTolerance = 1e-12;
// The sum is about 1e-3 at the optimum of a loss law: scaled up, no tolerance of the optimiser is
// taken for convergence too early.
constexpr double kHuberScale = 1e6;
// Up to so many parameters dot products beat a matrix product.
constexpr Eigen::Index kFewParameters = 8;

class HuberObjective : public ceres::FirstOrderFunction {
 public:
  HuberObjective(const FitProblem& problem, double delta) : problem_(problem), delta_(delta) {}

  bool Evaluate(const double* parameters, double* cost, double* gradient) const override {
    const auto p = static_cast<Eigen::Index>(problem_.parameters());
    const Eigen::VectorXd z = Eigen::Map<const Eigen::VectorXd>(parameters, p);
    problem_.evaluate(z, gradient != nullptr, work_);
    double sum = 0;
    Eigen::VectorXd slopes(work_.eta.size());
    for (Eigen::Index i = 0; i < work_.eta.size(); ++i) {
      const double residual = problem_.ln_values()[i] - work_.eta[i];
      const double count = problem_.counts()[i];
      sum += count * huber_loss(residual, delta_);
      slopes[i] = -count * huber_slope(residual, delta_);
    }
    if (!std::isfinite(sum)) return false;
    *cost = kHuberScale * sum;
    if (gradient != nullptr) {
      Eigen::Map<Eigen::VectorXd>(gradient, p) = kHuberScale * work_.jacobian->transpose() * slopes;
    }
    return true;
  }

  int NumParameters() const override { return static_cast<int>(problem_.parameters()); }

 private:
  const FitProblem& problem_;
  double delta_;
  mutable FitWorkspace work_;
};

Solution solve_huber(const FitProblem& problem, double delta, const Eigen::VectorXd& start) {
  Solution solution;
  solution.z = start;
  HuberObjective at_start(problem, delta);
  double cost = 0;
  if (!at_start.Evaluate(start.data(), &cost, nullptr)) {
    solution.objective = std::numeric_limits<double>::infinity();
    return solution;
  }
  ceres::GradientProblem gradient_problem(new HuberObjective(problem, delta));
  ceres::GradientProblemSolver::Options options;
  options.logging_type = ceres::SILENT;
  options.max_num_iterations = 3000;
  options.max_lbfgs_rank = 20;
  options.line_search_type = ceres::WOLFE;
  // Stop only where double precision ends.
  options.function_tolerance = 1e-16;
  options.gradient_tolerance = std::numeric_limits<double>::min();
  options.parameter_tolerance = 1e-16;
  for (const auto direction : {ceres::LBFGS, ceres::BFGS}) {
    options.line_search_direction_type = direction;
    ceres::GradientProblemSolver::Summary summary;
    ceres::Solve(options, gradient_problem, solution.z.data(), &summary);
    // "Failure" of a line search means that it found nothing lower: the optimum, not an error.
    solution.objective = summary.final_cost / kHuberScale;
  }
  solution.converged = true;
  return solution;
}

Solution solve_least_squares(const FitProblem& problem, bool on_log_scale,
                             const Eigen::VectorXd& weights, const Eigen::VectorXd& start,
                             const LeastSquaresOptions& settings, FitWorkspace& work,
                             int* accepted = nullptr) {
  const auto result = minimise_least_squares(
      [&](const Eigen::VectorXd& z, NormalEquations& equations) {
        least_squares_equations(problem, on_log_scale, weights, z, work, equations);
      },
      start, settings);
  if (accepted != nullptr) *accepted = result.accepted_steps;
  Solution solution;
  solution.z = result.x;
  solution.objective =
      std::isfinite(result.cost) ? 2 * result.cost : std::numeric_limits<double>::infinity();
  solution.converged = result.converged;
  return solution;
}

Solution solve_weighted(const FitProblem& problem, const ObjectiveOptions& options,
                        const Eigen::VectorXd& start, const LeastSquaresOptions& settings) {
  FitWorkspace work;
  Solution solution;
  solution.z = start;
  bool settled = false;
  for (int round = 0; round < kMaxReweightingRounds && !settled; ++round) {
    problem.evaluate(solution.z, false, work);
    const Eigen::VectorXd weights = quasi_likelihood_weights(problem, options, work.eta);
    const Eigen::VectorXd before = solution.z;
    int accepted = 0;
    solution = solve_least_squares(problem, false, weights, solution.z, settings, work, &accepted);
    if (!std::isfinite(solution.objective)) return solution;
    const double move =
        ((solution.z - before).array() / (1 + before.array().abs())).abs().maxCoeff();
    settled =
        accepted == 0 || move < std::max(kReweightingTolerance, std::sqrt(settings.tolerance));
  }
  problem.evaluate(solution.z, false, work);
  solution.weights = quasi_likelihood_weights(problem, options, work.eta);
  solution.objective = (problem.counts().array() * solution.weights.array() *
                        (problem.values().array() - work.eta.array().exp()).square())
                           .sum();
  solution.converged = settled;
  return solution;
}

}  // namespace

double huber_loss(double residual, double delta) {
  const double size = std::abs(residual);
  return size <= delta ? residual * residual / 2 : delta * (size - delta / 2);
}

double huber_slope(double residual, double delta) { return std::clamp(residual, -delta, delta); }

Eigen::VectorXd quasi_likelihood_weights(const FitProblem& problem, const ObjectiveOptions& options,
                                         const Eigen::VectorXd& eta) {
  const Eigen::ArrayXd variance = problem.standard_errors().array().square() +
                                  options.floor * options.floor +
                                  (options.relative_scatter * eta.array().exp()).square();
  return variance.inverse().matrix();
}

void least_squares_equations(const FitProblem& problem, bool on_log_scale,
                             const Eigen::VectorXd& weights, const Eigen::VectorXd& z,
                             FitWorkspace& work, NormalEquations& equations) {
  problem.evaluate(z, true, work);
  const Eigen::Index p = z.size();
  equations.gradient.resize(p);
  equations.hessian.resize(p, p);
  // Residual r = target - prediction; its Jacobian is -scale times that of eta.
  Eigen::ArrayXd weight = problem.counts().array() * weights.array(), residual;
  if (on_log_scale) {
    residual = problem.ln_values() - work.eta;
    equations.cost = 0.5 * (weight * residual.square()).sum();
    residual *= weight;
  } else {
    const Eigen::ArrayXd predicted = work.eta.array().exp();
    residual = problem.values().array() - predicted;
    equations.cost = 0.5 * (weight * residual.square()).sum();
    weight *= predicted;
    residual *= weight;
    weight *= predicted;
  }
  const Eigen::MatrixXd& jacobian = *work.jacobian;
  equations.gradient.noalias() = -(jacobian.transpose() * residual.matrix());
  const Eigen::MatrixXd scaled = weight.matrix().asDiagonal() * jacobian;
  if (p > kFewParameters) {
    equations.hessian.noalias() = scaled.transpose() * jacobian;
    return;
  }
  for (Eigen::Index i = 0; i < p; ++i) {
    for (Eigen::Index j = 0; j <= i; ++j) {
      equations.hessian(i, j) = equations.hessian(j, i) = scaled.col(i).dot(jacobian.col(j));
    }
  }
}

double objective_at(const FitProblem& problem, const ObjectiveOptions& options,
                    const Eigen::VectorXd& z) {
  FitWorkspace work;
  problem.evaluate(z, false, work);
  const auto counts = problem.counts().array();
  const Eigen::ArrayXd log_residual = problem.ln_values() - work.eta;
  switch (options.objective) {
    case FitObjective::log:
      return (counts * log_residual.square()).sum();
    case FitObjective::huber: {
      double sum = 0;
      for (Eigen::Index i = 0; i < log_residual.size(); ++i) {
        sum += problem.counts()[i] * huber_loss(log_residual[i], options.huber_delta);
      }
      return sum;
    }
    case FitObjective::linear:
    case FitObjective::weighted:
      break;
  }
  Eigen::ArrayXd squares = (problem.values().array() - work.eta.array().exp()).square();
  if (options.objective == FitObjective::weighted) {
    squares *= quasi_likelihood_weights(problem, options, work.eta).array();
  }
  return (counts * squares).sum();
}

Solution solve(const FitProblem& problem, const ObjectiveOptions& options,
               const Eigen::VectorXd& start, const LeastSquaresOptions& settings) {
  FitWorkspace work;
  const Eigen::VectorXd ones = Eigen::VectorXd::Ones(static_cast<Eigen::Index>(problem.rows()));
  switch (options.objective) {
    case FitObjective::log: {
      if (!problem.form().log_linear()) {
        return solve_least_squares(problem, true, ones, start, settings, work);
      }
      Solution solution;
      solution.converged = problem.solve_on_log_scale({}, solution.z);
      solution.objective = solution.converged ? objective_at(problem, options, solution.z)
                                              : std::numeric_limits<double>::infinity();
      return solution;
    }
    case FitObjective::linear:
      return solve_least_squares(problem, false, ones, start, settings, work);
    case FitObjective::weighted:
      return solve_weighted(problem, options, start, settings);
    case FitObjective::huber:
      return solve_huber(problem, options.huber_delta, start);
  }
  return {};
}

}  // namespace fewbit
