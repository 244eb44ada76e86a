#include "fewbit/laws/profile.h"

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/laws/fit_statistics.h"

namespace fewbit {
namespace {

constexpr double kFarthestErrors = 50;
constexpr int kBisections = 60;
constexpr double kRelativePrecision = 1e-9;

// The objective with one fitted parameter held, minimised over the others.
class Profile {
 public:
  Profile(const FitProblem& problem, const FitResult& fit, size_t parameter)
      : problem_(problem), parameter_(static_cast<Eigen::Index>(parameter)) {
    const FitObjective objective = fit.options.objective;
    on_log_scale_ = objective == FitObjective::log;
    optimum_ = Eigen::Map<const Eigen::VectorXd>(fit.law.fitted.data(),
                                                 static_cast<Eigen::Index>(fit.law.fitted.size()));
    weights_ = Eigen::VectorXd::Ones(static_cast<Eigen::Index>(problem.rows()));
    if (objective == FitObjective::weighted) {
      FitWorkspace work;
      problem.evaluate(problem.to_solver(fit.law.fitted), false, work);
      weights_ = quasi_likelihood_weights(problem, fit.options.for_quantity(fit.form().quantity),
                                          work.eta);
    }
    // Solver coordinates in which the parameter does not move: an orthonormal basis of R E, E being
    // the unit vectors of the other parameters.
    const Eigen::Index p = optimum_.size();
    Eigen::MatrixXd others(p, p - 1);
    for (Eigen::Index j = 0, column = 0; j < p; ++j) {
      if (j == parameter_) continue;
      std::vector<double> unit(static_cast<size_t>(p), 0.0);
      unit[static_cast<size_t>(j)] = 1;
      others.col(column++) = problem.to_solver(unit);
    }
    basis_ = Eigen::HouseholderQR<Eigen::MatrixXd>(others).householderQ() *
             Eigen::MatrixXd::Identity(p, p - 1);
  }

  double at(double value) const {
    Eigen::VectorXd held = optimum_;
    held[parameter_] = value;
    const Eigen::VectorXd origin =
        problem_.to_solver({held.data(), static_cast<size_t>(held.size())});
    FitWorkspace work;
    NormalEquations full;
    const auto result = minimise_least_squares(
        [&](const Eigen::VectorXd& u, NormalEquations& equations) {
          least_squares_equations(problem_, on_log_scale_, weights_, origin + basis_ * u, work,
                                  full);
          equations.cost = full.cost;
          equations.gradient = basis_.transpose() * full.gradient;
          equations.hessian = basis_.transpose() * full.hessian * basis_;
        },
        Eigen::VectorXd::Zero(basis_.cols()), {});
    return 2 * result.cost;
  }

  // The place on one side where the objective has risen to `limit`.
  double crossing(double step, double limit) const {
    const double start = optimum_[parameter_];
    double inside = start, outside = start + step;
    int doublings = 0;
    while (!(at(outside) > limit)) {
      if (std::abs(outside - start) > kFarthestErrors * std::abs(step)) {
        return std::copysign(std::numeric_limits<double>::infinity(), step);
      }
      inside = outside;
      outside = start + step * std::pow(1.5, ++doublings);
    }
    for (int i = 0; i < kBisections; ++i) {
      const double middle = (inside + outside) / 2;
      (at(middle) > limit ? outside : inside) = middle;
      if (std::abs(outside - inside) < kRelativePrecision * std::abs(step)) break;
    }
    return (inside + outside) / 2;
  }

 private:
  const FitProblem& problem_;
  Eigen::Index parameter_;
  bool on_log_scale_;
  Eigen::VectorXd optimum_, weights_;
  Eigen::MatrixXd basis_;
};

}  // namespace

std::vector<ProfileInterval> profile_intervals(const LawData& data, const FitResult& fit,
                                               double level) {
  require(fit.options.objective != FitObjective::huber,
          "objective huber has no profile likelihood interval; take a bootstrap");
  require(fit.law.fitted.size() > 1, "a profile needs at least two parameters");
  const FitProblem problem = problem_of(data, fit);
  // Quantile of chi-squared with one degree of freedom.
  const double quantile = std::pow(normal_quantile((1 + level) / 2), 2);
  const double rise =
      fit.options.objective == FitObjective::weighted ? quantile : quantile * fit.goodness.s2;
  std::vector<ProfileInterval> result(fit.law.fitted.size());
  parallel_for(result.size(), [&](size_t j) {
    const Profile profile(problem, fit, j);
    const double limit = profile.at(fit.law.fitted[j]) + rise, step = fit.fitted_errors[j];
    result[j] = {fit.law.form.fitted[j].name,
                 fit.law.fitted[j],
                 {profile.crossing(-step, limit), profile.crossing(step, limit)}};
  });
  return result;
}

}  // namespace fewbit
