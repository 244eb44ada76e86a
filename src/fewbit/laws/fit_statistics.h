// What is said about a fit once it is found: standard errors, goodness, information criteria,
// identifiability.
#pragma once

#include "fewbit/laws/fit.h"

namespace fewbit {

// Two-sided 95 % point of the normal distribution.
inline constexpr double kNormal95 = 1.959963984540054;

// Point z of the standard normal distribution below which the share `probability` lies, in (0, 1).
double normal_quantile(double probability);

struct InformationCriteria {
  double aic = 0, aicc = 0, bic = 0;
};
// From ln likelihood, number of counted parameters k and of rows n. AICc is infinite for n <= k
// + 1.
InformationCriteria information_criteria(double log_likelihood, size_t k, size_t n);
// Gaussian ln likelihood at the estimated variance RSS / n.
double gaussian_log_likelihood(double rss, size_t n);
// ln likelihood under the density exp(-Huber_delta(r) / tau) / Z(tau), at the best tau, given the
// sum of the Huber losses.
double huber_log_likelihood(double huber_sum, double delta, size_t n);

// Covariance of the fitted parameters at the solution.
Eigen::MatrixXd fitted_covariance(const FitProblem& problem, const ObjectiveOptions& options,
                                  const Solution& solution);

// Estimates of the reported parameters by the chain rule.
void report_parameters(const Form& form, std::span<const double> fitted,
                       const Eigen::MatrixXd& covariance, std::vector<ParameterEstimate>& estimates,
                       DoubleMatrix& correlation);

void fill_statistics(const FitProblem& problem, const Solution& solution, FitResult& result);

// Appends what the rows cannot tell: short ranges, collinear sizes and tokens, correlated
// parameters, few bit widths, few runs, mixed methods, group sizes, data sets and schedules.
void add_identifiability_warnings(const LawData& data, FitResult& result);

}  // namespace fewbit
