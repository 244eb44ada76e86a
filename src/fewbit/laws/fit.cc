#include "fewbit/laws/fit.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/laws/fit_statistics.h"

namespace fewbit {
namespace {

// Objectives that agree to this relative difference count as the same optimum.
constexpr double kSameObjective = 1e-6;
// Perturbed starts of log-linear forms, and how far each parameter is moved, in units of its
// (non-centred) value.
constexpr size_t kPerturbedStarts = 7;
constexpr double kPerturbation = 0.2;
constexpr uint64_t kStartSeed = 0;
constexpr double kHuberDeltaQid = 0.1, kHuberDeltaLoss = 1e-3;
constexpr double kNoiseMultiple = 3;

std::vector<Eigen::VectorXd> log_linear_starts(const FitProblem& problem,
                                               const std::vector<bool>& on_log_scale) {
  Eigen::VectorXd z;
  require(problem.solve_on_log_scale(on_log_scale, z),
          "form {}: the rows above the noise do not determine a first solution on the log scale",
          problem.form().info->name);
  std::vector<Eigen::VectorXd> starts = {z};
  RandomStream random(kStartSeed, "law starts");
  // The columns of Q are orthonormal: in z, moving a coordinate by sqrt(n) moves a typical
  // prediction by one e-fold.
  const double scale = kPerturbation * std::sqrt(static_cast<double>(problem.rows()));
  for (size_t i = 0; i < kPerturbedStarts; ++i) {
    Eigen::VectorXd moved = z;
    for (double& coordinate : moved) coordinate += scale * random.normal();
    starts.push_back(std::move(moved));
  }
  return starts;
}

std::vector<Eigen::VectorXd> form_starts(const FitProblem& problem,
                                         const ObjectiveOptions& options) {
  const Form& form = problem.form();
  const auto candidates = form.starts(problem.points(), {problem.values().data(), problem.rows()});
  std::vector<Eigen::VectorXd> starts(candidates.size());
  for (size_t i = 0; i < candidates.size(); ++i) starts[i] = problem.to_solver(candidates[i]);
  if (form.starts_to_optimise == 0 || starts.size() <= form.starts_to_optimise) return starts;
  std::vector<std::pair<double, size_t>> ranked(starts.size());
  parallel_for(starts.size(), [&](size_t i) {
    const double objective = objective_at(problem, options, starts[i]);
    ranked[i] = {std::isfinite(objective) ? objective : std::numeric_limits<double>::infinity(), i};
  });
  std::sort(ranked.begin(), ranked.end());
  std::vector<Eigen::VectorXd> best;
  for (size_t i = 0; i < form.starts_to_optimise; ++i) best.push_back(starts[ranked[i].second]);
  return best;
}

}  // namespace

ObjectiveOptions FitOptions::for_quantity(LawQuantity quantity) const {
  ObjectiveOptions result;
  result.objective = objective;
  result.floor = floor;
  result.relative_scatter = relative_scatter;
  result.huber_delta = huber_delta > 0                ? huber_delta
                       : quantity == LawQuantity::qid ? kHuberDeltaQid
                                                      : kHuberDeltaLoss;
  return result;
}

std::vector<bool> log_scale_rows(const FitProblem& problem, double noise_multiple, double floor) {
  std::vector<bool> use(problem.rows());
  for (size_t i = 0; i < use.size(); ++i) {
    const auto row = static_cast<Eigen::Index>(i);
    const double error = problem.standard_errors()[row];
    use[i] = problem.values()[row] > noise_multiple * (error > 0 ? error : floor);
  }
  return use;
}

MultiStart solve_from_starts(const FitProblem& problem, const ObjectiveOptions& options,
                             const std::vector<bool>& on_log_scale) {
  MultiStart result;
  if (problem.form().log_linear() && options.objective == FitObjective::log) {
    result.best = solve(problem, options, {});
    result.starts = result.reaching_best = 1;
    return result;
  }
  const auto starts = problem.form().log_linear() ? log_linear_starts(problem, on_log_scale)
                                                  : form_starts(problem, options);
  result.starts = starts.size();
  std::vector<Solution> solutions(starts.size());
  parallel_for(starts.size(), [&](size_t i) { solutions[i] = solve(problem, options, starts[i]); });
  size_t best = starts.size();
  for (size_t i = 0; i < solutions.size(); ++i) {
    if (!std::isfinite(solutions[i].objective)) continue;
    const bool first = best == starts.size();
    if (first || (options.objective != FitObjective::weighted &&
                  solutions[i].objective < solutions[best].objective)) {
      best = i;
    }
  }
  require(best < starts.size(), "form {}: none of the {} starts leads to a solution",
          problem.form().info->name, starts.size());
  for (const Solution& solution : solutions) {
    result.reaching_best += std::abs(solution.objective - solutions[best].objective) <=
                            kSameObjective * std::abs(solutions[best].objective);
  }
  result.best = std::move(solutions[best]);
  return result;
}

FitProblem problem_of(const LawData& data, const FitResult& fit) {
  std::vector<double> values, errors;
  for (const size_t row : fit.selection.rows) {
    const LawRow& from = data.rows[row];
    values.push_back(from.quantity(fit.form().quantity));
    errors.push_back(
        std::isfinite(from.qid_se) && fit.form().quantity == LawQuantity::qid ? from.qid_se : 0.0);
  }
  return FitProblem(fit.law.form, fit.points, values, errors);
}

FitResult fit_law(const LawData& data, const FormInfo& form, const FitOptions& options,
                  const RowRules& rules) {
  RowRules with_floor = rules;
  if (with_floor.floor == 0) with_floor.floor = options.floor;
  return fit_law(data, form, options, select_rows(data, form, options.objective, with_floor));
}

FitResult fit_law(const LawData& data, const FormInfo& form, const FitOptions& options,
                  RowSelection selection) {
  FitResult result;
  result.options = options;
  result.selection = std::move(selection);
  for (const size_t row : result.selection.rows) result.points.push_back(data.rows[row].point);
  if (result.points.empty()) {
    std::string reasons;
    for (const auto& [reason, counts] : result.selection.dropped_counts(data)) {
      size_t rows = 0;
      for (const auto& [where, count] : counts) rows += count;
      reasons += fmt::format("\n  {} rows: {}", rows, reason);
    }
    fail("{}: no row can be used for form {}{}", data.source, form.name, reasons);
  }
  result.law.form = form.bind(result.points);
  const size_t p = result.law.form.fitted.size();
  require(result.n() > p, "{}: form {} has {} parameters but only {} rows can be used", data.source,
          form.name, p, result.n());
  const FitProblem problem = problem_of(data, result);
  const ObjectiveOptions objective = options.for_quantity(form.quantity);
  require(objective.objective != FitObjective::weighted || objective.floor > 0 ||
              objective.relative_scatter > 0 || problem.standard_errors().minCoeff() > 0,
          "objective weighted: needs a floor or a relative scatter above 0, or a standard error in "
          "every row");
  const auto start =
      solve_from_starts(problem, objective, log_scale_rows(problem, kNoiseMultiple, options.floor));
  result.law.fitted = problem.to_fitted(start.best.z);
  result.objective = start.best.objective;
  result.starts = start.starts;
  result.starts_reaching_best = start.reaching_best;
  if (!start.best.converged) {
    result.warnings.push_back("the optimiser stopped before it converged");
  }
  fill_statistics(problem, start.best, result);
  add_identifiability_warnings(data, result);
  return result;
}

}  // namespace fewbit
