#include "fewbit/laws/fit_statistics.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/laws/scalar_minimum.h"

namespace fewbit {
namespace {

// Limits of the warnings.
constexpr double kShortSpan = 4;
constexpr double kCollinear = 0.9;
constexpr double kHighCorrelation = 0.99;
constexpr size_t kFewRuns = 6;
constexpr size_t kFewBitWidths = 3;
constexpr double kReferenceBits = 3;

double correlation_of(std::span<const double> a, std::span<const double> b) {
  const auto n = static_cast<Eigen::Index>(a.size());
  const Eigen::Map<const Eigen::ArrayXd> x(a.data(), n), y(b.data(), n);
  const Eigen::ArrayXd dx = x - x.mean(), dy = y - y.mean();
  const double scale = std::sqrt(dx.square().sum() * dy.square().sum());
  return scale > 0 ? (dx * dy).sum() / scale : 0;
}

double r_squared(const Eigen::ArrayXd& observed, const Eigen::ArrayXd& predicted) {
  const double total = (observed - observed.mean()).square().sum();
  return total > 0 ? 1 - (observed - predicted).square().sum() / total : kMissing;
}

void fill_log_errors(const FitProblem& problem, const Eigen::VectorXd& eta, FitResult& result) {
  GoodnessOfFit& goodness = result.goodness;
  std::vector<double> observed, predicted, relative;
  std::map<double, std::pair<std::vector<double>, std::vector<double>>> by_bits;
  double squares = 0, largest = -1;
  for (size_t i = 0; i < problem.rows(); ++i) {
    const auto row = static_cast<Eigen::Index>(i);
    const double y = problem.ln_values()[row];
    if (std::isnan(y)) continue;
    observed.push_back(y);
    predicted.push_back(eta[row]);
    const double error = eta[row] - y;
    squares += error * error;
    relative.push_back(std::abs(std::expm1(error)));
    if (std::abs(error) > largest) {
      largest = std::abs(error);
      goodness.max_log_error = error;
      goodness.max_log_error_row = result.selection.rows[i];
    }
    if (result.points[i].has(LawVariable::bits)) {
      auto& [seen, fitted] = by_bits[result.points[i][LawVariable::bits]];
      seen.push_back(y);
      fitted.push_back(eta[row]);
    }
  }
  const auto as_array = [](const std::vector<double>& values) {
    return Eigen::ArrayXd(
        Eigen::Map<const Eigen::ArrayXd>(values.data(), static_cast<Eigen::Index>(values.size())));
  };
  if (observed.empty()) return;
  const double n = static_cast<double>(observed.size());
  goodness.r2_log = r_squared(as_array(observed), as_array(predicted));
  goodness.rms_log_error = std::sqrt(squares / n);
  goodness.mean_abs_relative_error = as_array(relative).mean();
  if (problem.form().info->quantity != LawQuantity::qid) return;
  for (const auto& [bits, pair] : by_bits) {
    goodness.r2_log_by_bits[bits] = r_squared(as_array(pair.first), as_array(pair.second));
  }
}

void fill_likelihood(const FitProblem& problem, const ObjectiveOptions& options,
                     const Solution& solution, FitResult& result) {
  GoodnessOfFit& goodness = result.goodness;
  const size_t n = problem.rows(), p = problem.parameters();
  goodness.counted_parameters = p + 1;
  bool log_scale = true;
  switch (options.objective) {
    case FitObjective::linear:
      log_scale = false;
      [[fallthrough]];
    case FitObjective::log:
      goodness.log_likelihood = gaussian_log_likelihood(goodness.rss, n);
      break;
    case FitObjective::huber:
      goodness.log_likelihood = huber_log_likelihood(result.objective, options.huber_delta, n);
      break;
    case FitObjective::weighted:
      log_scale = false;
      goodness.counted_parameters = p;
      goodness.chi2 = result.objective;
      goodness.log_likelihood =
          0.5 *
          ((solution.weights.array() / (2 * std::numbers::pi)).log().sum() - result.objective);
      break;
  }
  goodness.log_likelihood_of_values = goodness.log_likelihood;
  if (log_scale) goodness.log_likelihood_of_values -= problem.ln_values().sum();
  const auto criteria =
      information_criteria(goodness.log_likelihood, goodness.counted_parameters, n);
  goodness.aic = criteria.aic;
  goodness.aicc = criteria.aicc;
  goodness.bic = criteria.bic;
}

// The middle of the data; for a form with levels, at the level of the nearest row.
LawPoint reference_point(const FitResult& result) {
  const FormInfo& form = result.form();
  LawPoint centre;
  for (const LawVariable variable : form.variables) {
    double sum = 0;
    for (const LawPoint& at : result.points) sum += at.ln(variable);
    centre.set(variable, variable == LawVariable::bits
                             ? kReferenceBits
                             : std::exp(sum / static_cast<double>(result.n())));
  }
  if (form.grouped_by.empty()) return centre;
  const auto distance = [&](const LawPoint& at) {
    double sum = 0;
    for (const LawVariable variable : form.grouped_by) {
      sum += std::pow(at.ln(variable) - centre.ln(variable), 2);
    }
    return sum;
  };
  const auto nearest = std::min_element(
      result.points.begin(), result.points.end(),
      [&](const LawPoint& a, const LawPoint& b) { return distance(a) < distance(b); });
  for (const LawVariable variable : form.grouped_by) centre.set(variable, (*nearest)[variable]);
  return centre;
}

void fill_reference(const Eigen::MatrixXd& covariance, FitResult& result) {
  ReferenceValue& reference = result.reference;
  reference.point = reference_point(result);
  Eigen::VectorXd gradient(covariance.rows());
  const double ln_value = result.law.form.log_value(
      result.law.fitted, reference.point, {gradient.data(), static_cast<size_t>(gradient.size())});
  const double error = std::sqrt(std::max(0.0, gradient.dot(covariance * gradient)));
  reference.value = std::exp(ln_value);
  reference.low = std::exp(ln_value - kNormal95 * error);
  reference.high = std::exp(ln_value + kNormal95 * error);
}

// Pairs of parameters that the rows hardly tell apart. Prefactors of log-linear forms are left out:
// they are extrapolated to N = D = P = 1 and always correlated with the exponents.
void warn_of_correlations(FitResult& result) {
  const Form& form = result.law.form;
  for (size_t i = 0; i < form.reported.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      const auto is_prefactor = [&](size_t k) {
        return form.log_linear() && form.reported[k].name.starts_with("ln ");
      };
      const double r = result.correlation(i, j);
      if (is_prefactor(i) || is_prefactor(j) || !(std::abs(r) > kHighCorrelation)) continue;
      result.warnings.push_back(
          fmt::format("{} and {} are correlated ({:.4f}): compare predictions, not these constants",
                      form.reported[j].name, form.reported[i].name, r));
    }
  }
}

std::vector<double> logs_of(const std::vector<LawPoint>& points, LawVariable variable) {
  std::vector<double> values;
  for (const LawPoint& at : points) values.push_back(at.ln(variable));
  return values;
}

void warn_of_ranges(FitResult& result) {
  const FormInfo& form = result.form();
  for (const LawVariable variable : {LawVariable::params, LawVariable::tokens}) {
    if (!form.reads(variable)) continue;
    const auto logs = logs_of(result.points, variable);
    const auto [low, high] = std::minmax_element(logs.begin(), logs.end());
    const double span = std::exp(*high - *low);
    if (span < kShortSpan) {
      result.warnings.push_back(
          fmt::format("{} spans only a factor {:.2f} (below {:g}): its "
                      "exponent is hardly determined",
                      law_variable_symbol(variable), span, kShortSpan));
    }
  }
  if (form.reads(LawVariable::params) && form.reads(LawVariable::tokens)) {
    const double r = correlation_of(logs_of(result.points, LawVariable::params),
                                    logs_of(result.points, LawVariable::tokens));
    if (std::abs(r) > kCollinear) {
      result.warnings.push_back(
          fmt::format("ln N and ln D are correlated over the rows ({:.3f}): only the difference of "
                      "their exponents is well determined",
                      r));
    }
  }
  if (form.reads(LawVariable::bits) && form.grouped_by.empty()) {
    std::set<double> widths;
    for (const LawPoint& at : result.points) widths.insert(at[LawVariable::bits]);
    if (widths.size() <= kFewBitWidths) {
      result.warnings.push_back(
          fmt::format("{} bit widths: a power law and an exponential in P can {} be told apart",
                      widths.size(), widths.size() < kFewBitWidths ? "not" : "hardly"));
    }
  }
}

void warn_of_mixtures(const LawData& data, FitResult& result) {
  std::set<std::string> runs, methods, datasets;
  std::set<double> groups;
  bool decayed = false, undecayed = false;
  for (const size_t row : result.selection.rows) {
    const LawRow& from = data.rows[row];
    if (!from.run.empty()) runs.insert(from.run);
    if (!from.method.empty()) methods.insert(from.method);
    if (!from.dataset.empty()) datasets.insert(from.dataset);
    if (from.point.has(LawVariable::group_size)) groups.insert(from.point[LawVariable::group_size]);
    if (from.point.has(LawVariable::lr_ratio)) {
      // Half the peak: between a decayed and an undecayed checkpoint.
      (from.point[LawVariable::lr_ratio] < 0.5 ? decayed : undecayed) = true;
    }
  }
  const bool is_qid = result.form().quantity == LawQuantity::qid;
  const auto list = [](const std::set<std::string>& words) {
    return fmt::format("{}", fmt::join(words, ", "));
  };
  if (is_qid && methods.size() > 1) {
    result.warnings.push_back(
        fmt::format("one law through {} methods ({}): constants do not carry over between "
                    "methods; select one",
                    methods.size(), list(methods)));
  }
  if (datasets.size() > 1) {
    result.warnings.push_back(fmt::format("one law through {} data sets ({}); select one",
                                          datasets.size(), list(datasets)));
  }
  if (is_qid && groups.size() > 1 && !result.form().reads(LawVariable::group_size)) {
    result.warnings.push_back(
        fmt::format("{} group sizes in one law without a term for them; select one or use form "
                    "unified_group",
                    groups.size()));
  }
  if (is_qid && decayed && undecayed && !result.form().reads(LawVariable::lr_ratio)) {
    result.warnings.push_back(
        "checkpoints with decayed and undecayed learning rate are mixed: the effect of tokens is "
        "confounded with the schedule; select one or use form unified_lr");
  }
  if (!runs.empty() && runs.size() < kFewRuns) {
    result.warnings.push_back(fmt::format(
        "{} runs: a cluster bootstrap has few distinct draws; look at leave-one-run-out",
        runs.size()));
  }
  if (is_qid && result.selection.saturation_tested < data.rows.size()) {
    result.warnings.push_back(fmt::format(
        "{} of {} rows could not be tested for saturation: loss16 or the vocabulary is unknown",
        data.rows.size() - result.selection.saturation_tested, data.rows.size()));
  }
}

}  // namespace

double normal_quantile(double probability) {
  require(probability > 0 && probability < 1, "normal quantile of {}", probability);
  // Bisection on the error function: exact to the last bits and used a few times only.
  double low = -40, high = 40;
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle == low || middle == high) break;
    (std::erfc(-middle / std::numbers::sqrt2) / 2 < probability ? low : high) = middle;
  }
  return (low + high) / 2;
}

InformationCriteria information_criteria(double log_likelihood, size_t k, size_t n) {
  const double count = static_cast<double>(n), parameters = static_cast<double>(k);
  InformationCriteria result;
  result.aic = 2 * parameters - 2 * log_likelihood;
  result.bic = parameters * std::log(count) - 2 * log_likelihood;
  result.aicc = n > k + 1
                    ? result.aic + 2 * parameters * (parameters + 1) / (count - parameters - 1)
                    : std::numeric_limits<double>::infinity();
  return result;
}

double gaussian_log_likelihood(double rss, size_t n) {
  const double count = static_cast<double>(n);
  return -count / 2 * (std::log(2 * std::numbers::pi * rss / count) + 1);
}

double huber_log_likelihood(double huber_sum, double delta, size_t n) {
  const double count = static_cast<double>(n);
  const auto negative = [&](double ln_tau) {
    const double tau = std::exp(ln_tau);
    const double normaliser =
        std::sqrt(2 * std::numbers::pi * tau) * std::erf(delta / std::sqrt(2 * tau)) +
        2 * tau / delta * std::exp(-delta * delta / (2 * tau));
    return huber_sum / tau + count * std::log(normaliser);
  };
  // tau lies near the mean loss: between a hundredth and a hundred times it.
  const double centre = std::log(std::max(huber_sum / count, std::numeric_limits<double>::min()));
  const double range = std::log(100.0);
  return -golden_minimum(negative, centre - range, centre + range).value;
}

Eigen::MatrixXd fitted_covariance(const FitProblem& problem, const ObjectiveOptions& options,
                                  const Solution& solution) {
  const bool on_log_scale =
      options.objective == FitObjective::log || options.objective == FitObjective::huber;
  const Eigen::VectorXd weights =
      options.objective == FitObjective::weighted
          ? solution.weights
          : Eigen::VectorXd::Ones(static_cast<Eigen::Index>(problem.rows()));
  FitWorkspace work;
  NormalEquations equations;
  least_squares_equations(problem, on_log_scale, weights, solution.z, work, equations);
  const double n = problem.total_count(), p = static_cast<double>(problem.parameters());
  double variance = 1;
  if (options.objective == FitObjective::huber) {
    double squares = 0, quadratic = 0;
    for (Eigen::Index i = 0; i < work.eta.size(); ++i) {
      const double residual = problem.ln_values()[i] - work.eta[i];
      const double slope = huber_slope(residual, options.huber_delta);
      squares += problem.counts()[i] * slope * slope;
      quadratic += std::abs(residual) <= options.huber_delta ? problem.counts()[i] : 0;
    }
    variance = squares / (n - p) / std::pow(quadratic / n, 2);
  } else if (options.objective != FitObjective::weighted) {
    variance = 2 * equations.cost / (n - p);
  }
  // Scaled to a unit diagonal before it is inverted: parameters differ by many decades.
  const Eigen::VectorXd scale = equations.hessian.diagonal().cwiseSqrt().cwiseInverse();
  const Eigen::MatrixXd scaled = scale.asDiagonal() * equations.hessian * scale.asDiagonal();
  const Eigen::MatrixXd inverse =
      scaled.ldlt().solve(Eigen::MatrixXd::Identity(scaled.rows(), scaled.cols()));
  const Eigen::MatrixXd map = problem.fitted_from_solver() * scale.asDiagonal();
  return variance * map * inverse * map.transpose();
}

void report_parameters(const Form& form, std::span<const double> fitted,
                       const Eigen::MatrixXd& covariance, std::vector<ParameterEstimate>& estimates,
                       DoubleMatrix& correlation) {
  const auto p = static_cast<Eigen::Index>(fitted.size());
  const size_t count = form.reported.size();
  Eigen::MatrixXd jacobian(static_cast<Eigen::Index>(count), p);
  estimates.clear();
  Eigen::VectorXd gradient(p);
  for (size_t i = 0; i < count; ++i) {
    const ReportedParameter& parameter = form.reported[i];
    const double value = parameter.value(fitted, {gradient.data(), fitted.size()});
    estimates.push_back({parameter.name, parameter.meaning, value});
    jacobian.row(static_cast<Eigen::Index>(i)) = gradient.transpose();
  }
  const Eigen::MatrixXd reported = jacobian * covariance * jacobian.transpose();
  correlation = DoubleMatrix(count, count);
  for (size_t i = 0; i < count; ++i) {
    ParameterEstimate& estimate = estimates[i];
    const auto a = static_cast<Eigen::Index>(i);
    estimate.standard_error = std::sqrt(std::max(0.0, reported(a, a)));
    const double reach = kNormal95 * estimate.standard_error;
    estimate.low = std::max(form.reported[i].lower, estimate.value - reach);
    estimate.high = std::min(form.reported[i].upper, estimate.value + reach);
    for (size_t j = 0; j < count; ++j) {
      const auto b = static_cast<Eigen::Index>(j);
      correlation(i, j) = i == j ? 1 : reported(a, b) / std::sqrt(reported(a, a) * reported(b, b));
    }
  }
}

void fill_statistics(const FitProblem& problem, const Solution& solution, FitResult& result) {
  const ObjectiveOptions options = result.options.for_quantity(result.form().quantity);
  const Eigen::MatrixXd covariance = fitted_covariance(problem, options, solution);
  const auto p = static_cast<size_t>(covariance.rows());
  result.fitted_covariance = DoubleMatrix(p, p);
  for (size_t i = 0; i < p; ++i) {
    for (size_t j = 0; j < p; ++j) {
      result.fitted_covariance(i, j) =
          covariance(static_cast<Eigen::Index>(i), static_cast<Eigen::Index>(j));
    }
    result.fitted_errors.push_back(std::sqrt(std::max(0.0, result.fitted_covariance(i, i))));
  }
  report_parameters(result.law.form, result.law.fitted, covariance, result.parameters,
                    result.correlation);

  FitWorkspace work;
  problem.evaluate(solution.z, false, work);
  const Eigen::ArrayXd predicted = work.eta.array().exp();
  result.predicted.assign(predicted.begin(), predicted.end());
  GoodnessOfFit& goodness = result.goodness;
  const bool on_log_scale =
      options.objective == FitObjective::log || options.objective == FitObjective::huber;
  goodness.rss = on_log_scale ? (problem.ln_values() - work.eta).squaredNorm()
                              : (problem.values().array() - predicted).square().sum();
  goodness.s2 = goodness.rss / static_cast<double>(problem.rows() - problem.parameters());
  goodness.r2_linear = r_squared(problem.values().array(), predicted);
  fill_log_errors(problem, work.eta, result);
  goodness.r2 = on_log_scale ? goodness.r2_log : goodness.r2_linear;
  fill_likelihood(problem, options, solution, result);
  fill_reference(covariance, result);
}

void add_identifiability_warnings(const LawData& data, FitResult& result) {
  warn_of_ranges(result);
  warn_of_correlations(result);
  warn_of_mixtures(data, result);
}

}  // namespace fewbit
