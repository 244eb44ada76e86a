// Fits a form to rows: selection, starts, solution, standard errors, statistics, warnings.
//
// Standard errors are analytic: s^2 (J'J)^-1 with s^2 = RSS / (n - p); for `weighted` (J'WJ)^-1, to
// be read next to chi^2 / (n - p); for `huber` the M-estimator's
// [sum psi^2 / (n - p)] / (mean psi')^2 (J'J)^-1. Rows of one run are not independent: for
// conclusions take the cluster bootstrap (bootstrap.h).
//
// Likelihood of log and linear: Gaussian with the variance estimated, -n/2 (ln(2 pi RSS/n) + 1).
// weighted: Gaussian with the given variances, of which none is counted as a parameter. huber: the
// density proportional to exp(-Huber/tau), tau at its maximum. Compare fits of the same rows on the
// same scale; log_likelihood_of_values puts all of them on the scale of the values themselves.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "fewbit/base/matrix.h"
#include "fewbit/laws/law_data.h"
#include "fewbit/laws/solver.h"

namespace fewbit {

struct FitOptions {
  FitObjective objective = FitObjective::weighted;
  double floor = 0;                // weighted; also the noise floor of RowRules
  double relative_scatter = 0.15;  // weighted
  double huber_delta = 0;          // 0: 0.1 for QiD, 1e-3 for losses

  ObjectiveOptions for_quantity(LawQuantity quantity) const;
};

struct ParameterEstimate {
  std::string name, meaning;
  double value = 0, standard_error = 0;
  // 95 % interval: value -+ 1.96 standard errors until a bootstrap replaces it.
  double low = 0, high = 0;
};

struct GoodnessOfFit {
  double rss = 0;          // on the scale of the fit
  double s2 = 0;           // rss / (n - p)
  double chi2 = kMissing;  // weighted only
  double r2 = 0;           // on the scale of the fit
  double r2_log = kMissing, r2_linear = 0;
  // On ln, over the rows with positive values.
  std::map<double, double> r2_log_by_bits;
  double rms_log_error = kMissing;
  double max_log_error = kMissing;  // signed, of the row where it is largest
  size_t max_log_error_row = 0;     // index into the data
  double mean_abs_relative_error = 0;
  double log_likelihood = 0, log_likelihood_of_values = 0;
  size_t counted_parameters = 0;  // fitted parameters, and the variance where it is estimated
  double aic = 0, aicc = 0, bic = 0;
};

// The value at a point in the middle of the data says more than a prefactor extrapolated to
// D = N = P = 1.
struct ReferenceValue {
  LawPoint point;
  double value = 0, low = 0, high = 0;
};

struct FitResult {
  Law law;
  FitOptions options;
  RowSelection selection;
  std::vector<LawPoint> points;       // of the rows used
  std::vector<double> predicted;      // at the rows used
  std::vector<double> fitted_errors;  // standard errors of law.fitted
  DoubleMatrix fitted_covariance;
  std::vector<ParameterEstimate> parameters;  // as reported
  DoubleMatrix correlation;                   // of the reported parameters
  GoodnessOfFit goodness;
  ReferenceValue reference;
  double objective = 0;
  size_t starts = 0, starts_reaching_best = 0;
  std::vector<std::string> warnings;

  const FormInfo& form() const { return *law.form.info; }
  size_t n() const { return points.size(); }
};

// Error if too few rows remain or they do not determine the parameters.
FitResult fit_law(const LawData& data, const FormInfo& form, const FitOptions& options,
                  const RowRules& rules);
// The same on rows that the caller has selected.
FitResult fit_law(const LawData& data, const FormInfo& form, const FitOptions& options,
                  RowSelection selection);

// The fit's rows, bound to its form: what bootstraps and profiles refit.
FitProblem problem_of(const LawData& data, const FitResult& fit);

// Best solution over the form's starts; for log-linear forms over the log-scale solution and
// perturbations of it. `weighted`: always from the first usable start, because each start's final
// weights define another objective.
struct MultiStart {
  Solution best;
  size_t starts = 0, reaching_best = 0;
};
MultiStart solve_from_starts(const FitProblem& problem, const ObjectiveOptions& options,
                             const std::vector<bool>& on_log_scale);

// Rows of `problem` whose value may enter a log-scale start.
std::vector<bool> log_scale_rows(const FitProblem& problem, double noise_multiple, double floor);

}  // namespace fewbit
