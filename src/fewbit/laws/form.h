// Functional forms of scaling laws.
//
// A form is a positive function of a point (N, D, P, ...) with named parameters. It is fitted in
// one set of coordinates, chosen so that the optimiser has no bounds to keep (constants that must
// be positive enter as logarithms), and reported in another, the paper's. The fitter, the
// bootstrap, the comparison and the prediction know only this interface.
//
// Some forms have constants per level (one intercept per bit width, say). The registry therefore
// holds FormInfo, and bind() makes the Form for the levels that the data have.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fewbit/laws/law_point.h"

namespace fewbit {

// What a form predicts.
enum class LawQuantity {
  qid,     // loss after quantization minus loss before, nats per token
  loss16,  // loss of the unquantized checkpoint
  loss     // loss of a model as it was trained: in low precision, or quantized
};
std::string_view law_quantity_name(LawQuantity quantity);

enum class FitObjective { log, linear, weighted, huber };
std::string_view fit_objective_name(FitObjective objective);
// Error that lists the allowed words.
FitObjective read_fit_objective(std::string_view name);

// A coordinate of the fit.
struct FormParameter {
  std::string name;
  std::string meaning;
};

// A parameter as the paper writes it: a smooth function of the fitted coordinates.
struct ReportedParameter {
  std::string name;
  std::string meaning;
  double lower, upper;  // where the value can lie
  // Value at fitted coordinates; fills the gradient if it is not empty.
  std::function<double(std::span<const double> fitted, std::span<double> gradient)> value;
};

// Values of the grouping variables, in the order of FormInfo::grouped_by.
using FormLevel = std::vector<double>;

struct FormInfo;

class Form {
 public:
  // ln of the value at `point`; fills its gradient with respect to the fitted parameters unless
  // that span is empty. NaN where the form is undefined. Error if the point is of no known level.
  std::function<double(std::span<const double> fitted, const LawPoint& point,
                       std::span<double> gradient)>
      log_value;
  // Fitted coordinates of reported values.
  std::function<std::vector<double>(std::span<const double> reported)> from_reported;
  // Only for forms that are linear in their fitted parameters on the log scale: the row x of
  // ln value = x . fitted.
  std::function<void(const LawPoint& point, std::span<double> row)> design;
  // Starting points for an iterative fit of `values` at `points`, best guesses first.
  std::function<std::vector<std::vector<double>>(std::span<const LawPoint> points,
                                                 std::span<const double> values)>
      starts;
  // Of many starts, only so many with the lowest objective are optimised; 0: all.
  size_t starts_to_optimise = 0;

  const FormInfo* info = nullptr;
  std::vector<FormParameter> fitted;
  std::vector<ReportedParameter> reported;
  std::vector<FormLevel> levels;

  bool log_linear() const { return design != nullptr; }
  double value(std::span<const double> parameters, const LawPoint& point) const;
  std::vector<double> reported_values(std::span<const double> parameters) const;
  // Index of a reported parameter; Error that lists the names.
  size_t reported_index(std::string_view name) const;
};

struct FormInfo {
  std::string name;
  std::string summary;
  std::string equation;
  std::string source;
  LawQuantity quantity = LawQuantity::qid;
  FitObjective default_objective = FitObjective::weighted;
  // Variables that the form reads.
  std::vector<LawVariable> variables;
  // Variables whose combinations are the levels; empty: one level.
  std::vector<LawVariable> grouped_by;
  // Why the form has no value at a point whose variables are all there; empty: it has one.
  std::function<std::string(const LawPoint& point)> domain_problem;
  std::function<Form(std::vector<FormLevel> levels)> make;

  bool reads(LawVariable variable) const;
  // Why the form cannot be asked at `point`: a variable is missing or not positive, or
  // domain_problem(); empty if it can.
  std::string problem_at(const LawPoint& point) const;
  // The form for the levels that `points` have, in ascending order.
  Form bind(std::span<const LawPoint> points) const;
  Form bind_levels(std::vector<FormLevel> levels) const;
};

// All forms, in the order in which they are listed to the user.
std::span<const FormInfo> law_forms();
// Error that lists the names.
const FormInfo& find_law_form(std::string_view name);

// A form with numbers: what predicts.
struct Law {
  Form form;
  std::vector<double> fitted;

  double value(const LawPoint& point) const { return form.value(fitted, point); }
};

}  // namespace fewbit
