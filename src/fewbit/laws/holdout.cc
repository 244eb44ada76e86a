#include "fewbit/laws/holdout.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/laws/bootstrap.h"
#include "fewbit/laws/refit.h"

namespace fewbit {
namespace {

double observed_value(const LawData& data, const FitResult& fit, size_t i) {
  return data.rows[fit.selection.rows[i]].quantity(fit.form().quantity);
}

// Trains where `train`, tests on the other rows of the fit.
HoldOutFit fit_part(const LawData& data, const FitResult& fit, const FitProblem& problem,
                    const std::vector<bool>& train, std::string left_out) {
  HoldOutFit result;
  result.left_out = std::move(left_out);
  std::vector<uint32_t> counts(train.begin(), train.end());
  result.train_rows = static_cast<size_t>(std::count(train.begin(), train.end(), true));
  const auto solution = refit(problem, fit.options.for_quantity(fit.form().quantity),
                              problem.to_solver(fit.law.fitted), counts);
  if (!solution) {
    result.problem = "the other rows do not determine the parameters";
    return result;
  }
  result.fitted = problem.to_fitted(solution->z);
  result.reported = fit.law.form.reported_values(result.fitted);
  std::vector<double> predicted, observed;
  for (size_t i = 0; i < train.size(); ++i) {
    if (train[i]) continue;
    predicted.push_back(fit.law.form.value(result.fitted, fit.points[i]));
    observed.push_back(observed_value(data, fit, i));
  }
  result.errors = hold_out_errors(predicted, observed);
  return result;
}

// The middle of the distinct values, the lower half keeping it.
double middle_value(const std::vector<LawPoint>& points, LawVariable variable) {
  std::set<double> values;
  for (const LawPoint& at : points) values.insert(at[variable]);
  return *std::next(values.begin(), static_cast<std::ptrdiff_t>((values.size() + 1) / 2 - 1));
}

// Geometric mean of the training rows with the same bit width; NaN if there is none.
double constant_prediction(const LawData& data, const FitResult& fit,
                           const std::vector<bool>& train, const LawPoint& at) {
  double sum = 0, count = 0;
  for (size_t i = 0; i < train.size(); ++i) {
    const double value = observed_value(data, fit, i);
    if (!train[i] || !(value > 0) || fit.points[i][LawVariable::bits] != at[LawVariable::bits]) {
      continue;
    }
    sum += std::log(value);
    ++count;
  }
  return count > 0 ? std::exp(sum / count) : kMissing;
}

double nearest_prediction(const LawData& data, const FitResult& fit, const std::vector<bool>& train,
                          const LawPoint& at) {
  double nearest = std::numeric_limits<double>::infinity(), prediction = kMissing;
  for (size_t i = 0; i < train.size(); ++i) {
    const LawPoint& from = fit.points[i];
    if (!train[i] || from[LawVariable::bits] != at[LawVariable::bits]) continue;
    const double distance = std::hypot(from.ln(LawVariable::params) - at.ln(LawVariable::params),
                                       from.ln(LawVariable::tokens) - at.ln(LawVariable::tokens));
    if (distance < nearest) {
      nearest = distance;
      prediction = observed_value(data, fit, i);
    }
  }
  return prediction;
}

// Errors of a rule over the test rows for which it has an answer.
template <class Rule>
Baseline baseline(std::string name, const LawData& data, const FitResult& fit,
                  const std::vector<bool>& train, Rule rule) {
  std::vector<double> predicted, observed;
  for (size_t i = 0; i < train.size(); ++i) {
    if (train[i]) continue;
    predicted.push_back(rule(fit.points[i]));
    observed.push_back(observed_value(data, fit, i));
  }
  return {std::move(name), hold_out_errors(predicted, observed)};
}

std::vector<Baseline> baselines_of(const LawData& data, const FitResult& fit,
                                   const std::vector<bool>& train) {
  std::vector<Baseline> result;
  result.push_back(baseline("constant per bit width", data, fit, train, [&](const LawPoint& at) {
    return constant_prediction(data, fit, train, at);
  }));
  result.push_back(baseline("nearest training row", data, fit, train, [&](const LawPoint& at) {
    return nearest_prediction(data, fit, train, at);
  }));
  RowSelection training;
  for (size_t i = 0; i < train.size(); ++i) {
    if (train[i]) training.rows.push_back(fit.selection.rows[i]);
  }
  try {
    const FitResult without =
        fit_law(data, find_law_form("no_tokens"), fit.options, std::move(training));
    result.push_back(baseline("law without tokens", data, fit, train,
                              [&](const LawPoint& at) { return without.law.value(at); }));
  } catch (const Error&) {
    // Too few sizes or bit widths for this baseline: the others stand alone.
  }
  return result;
}

}  // namespace

HoldOutErrors hold_out_errors(std::span<const double> predicted, std::span<const double> observed) {
  require(predicted.size() == observed.size(), "{} predictions of {} values", predicted.size(),
          observed.size());
  HoldOutErrors errors;
  double squares = 0, sum = 0, relative = 0;
  for (size_t i = 0; i < predicted.size(); ++i) {
    if (!(observed[i] > 0) || !(predicted[i] > 0)) continue;
    const double error = std::log(predicted[i]) - std::log(observed[i]);
    squares += error * error;
    sum += error;
    relative += std::abs(predicted[i] / observed[i] - 1);
    ++errors.rows;
  }
  if (errors.rows == 0) return errors;
  const double n = static_cast<double>(errors.rows);
  errors.rms_log_error = std::sqrt(squares / n);
  errors.mean_log_error = sum / n;
  errors.mean_abs_relative_error = relative / n;
  return errors;
}

std::vector<HoldOutFit> leave_one_run_out(const LawData& data, const FitResult& fit) {
  const FitProblem problem = problem_of(data, fit);
  const RunGroups groups = group_by_run(data, fit.selection.rows);
  std::vector<HoldOutFit> fits;
  for (size_t run = 0; run < groups.names.size(); ++run) {
    std::vector<bool> train(fit.n(), true);
    for (const uint32_t row : groups.rows[run]) train[row] = false;
    fits.push_back(fit_part(data, fit, problem, train, groups.names[run]));
  }
  return fits;
}

double pooled_rms_log_error(const std::vector<HoldOutFit>& fits) {
  double squares = 0, rows = 0;
  for (const HoldOutFit& fit : fits) {
    if (!fit.problem.empty()) return kMissing;
    if (fit.errors.rows == 0) continue;
    const double n = static_cast<double>(fit.errors.rows);
    squares += n * fit.errors.rms_log_error * fit.errors.rms_log_error;
    rows += n;
  }
  return rows > 0 ? std::sqrt(squares / rows) : kMissing;
}

Extrapolation extrapolate(const LawData& data, const FitResult& fit, double max_params,
                          double max_tokens) {
  Extrapolation result;
  // A form without N or D still sees the rows split by them.
  for (size_t i = 0; i < fit.n(); ++i) {
    for (const LawVariable variable : {LawVariable::params, LawVariable::tokens}) {
      require(fit.points[i].has(variable), "{}: no {}: an extrapolation splits by N and D",
              data.place(fit.selection.rows[i]), law_variable_column(variable));
    }
  }
  result.max_params = max_params > 0 ? max_params : middle_value(fit.points, LawVariable::params);
  result.max_tokens = max_tokens > 0 ? max_tokens : middle_value(fit.points, LawVariable::tokens);
  std::vector<bool> train(fit.n());
  for (size_t i = 0; i < fit.n(); ++i) {
    train[i] = fit.points[i][LawVariable::params] <= result.max_params &&
               fit.points[i][LawVariable::tokens] <= result.max_tokens;
  }
  const std::string rule =
      fmt::format("N > {:g} or D > {:g}", result.max_params, result.max_tokens);
  result.fit = fit_part(data, fit, problem_of(data, fit), train, rule);
  if (fit.form().quantity == LawQuantity::qid) {
    result.baselines = baselines_of(data, fit, train);
  }
  return result;
}

}  // namespace fewbit
