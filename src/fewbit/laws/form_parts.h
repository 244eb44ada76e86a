// Building blocks of the registry's forms.
#pragma once

#include <limits>
#include <optional>

#include "fewbit/laws/form.h"

namespace fewbit {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One column of a log-linear form: parameter times term(point).
struct LogLinearTerm {
  std::string name;
  std::string meaning;
  std::function<double(const LawPoint&)> term;
  bool per_level = false;  // one parameter for each level
};

// Columns that several forms share.
LogLinearTerm intercept_term(std::string name = "ln k", bool per_level = false);
LogLinearTerm tokens_term(std::string name = "beta", bool per_level = false);
LogLinearTerm size_term(std::string name = "alpha", bool per_level = false);
LogLinearTerm bits_power_term();
LogLinearTerm inverse_bits_scale_term();

// A form ln value = sum of parameter * term. Parameters that are per level stand level by level.
// `reciprocal` names a fitted parameter that is reported as its reciprocal: {"1/gamma", "gamma"}.
struct Reciprocal {
  std::string fitted, reported;
};
Form make_log_linear(std::vector<LogLinearTerm> terms, std::vector<FormLevel> levels,
                     std::vector<LawVariable> grouped_by,
                     std::optional<Reciprocal> reciprocal = std::nullopt);

// Reported as it is fitted.
ReportedParameter report_same(size_t index, std::string name, std::string meaning,
                              double lower = -kInfinity, double upper = kInfinity);
// Fitted as its logarithm, reported itself.
ReportedParameter report_exp(size_t index, std::string name, std::string meaning);

// ln(e^a + e^b).
double log_add_exp(double a, double b);
// ln(sum e^a_i) and, if `shares` is not empty, each term's share of the sum.
double log_sum_exp(std::span<const double> terms, std::span<double> shares);

// All combinations of one value from each list; the last list varies fastest.
std::vector<std::vector<double>> grid_of_starts(const std::vector<std::vector<double>>& values);

// The forms of each quantity, for the registry.
std::vector<FormInfo> qid_forms();
std::vector<FormInfo> loss_forms();
std::vector<FormInfo> precision_forms();

}  // namespace fewbit
