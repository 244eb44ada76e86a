#include "fewbit/laws/compare.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/laws/holdout.h"

namespace fewbit {
namespace {

// RSS below this share of n on the log scale is rounding: the rows were made by a law.
constexpr double kNoiseFree = 1e-10;

void fill_hold_outs(const LawData& data, ComparedForm& form) {
  const auto& rows = form.fit.selection.rows;
  const bool have_runs = std::all_of(rows.begin(), rows.end(),
                                     [&](size_t row) { return !data.rows[row].run.empty(); });
  if (have_runs) form.left_out_rms = pooled_rms_log_error(leave_one_run_out(data, form.fit));
  const bool can_split =
      std::all_of(form.fit.points.begin(), form.fit.points.end(), [](const LawPoint& at) {
        return at.has(LawVariable::params) && at.has(LawVariable::tokens);
      });
  if (can_split) {
    form.extrapolation_rms = extrapolate(data, form.fit).fit.errors.rms_log_error;
  }
}

}  // namespace

std::vector<std::string> default_comparison(LawQuantity quantity) {
  switch (quantity) {
    case LawQuantity::qid:
      return {"unified",   "exponential", "categorical",   "per_bits",  "ratio",
              "no_tokens", "constant",    "unified_group", "unified_lr"};
    case LawQuantity::loss16:
      return {"kaplan", "chinchilla"};
    case LawQuantity::loss:
      return {"low_precision", "low_precision_untied", "low_precision_parts", "capacity",
              "float_training"};
  }
  return {};
}

Comparison compare_forms(const LawData& data, const std::vector<std::string>& forms,
                         const FitOptions& options, const RowRules& rules) {
  require(!forms.empty(), "no forms to compare");
  RowRules with_floor = rules;
  if (with_floor.floor == 0) with_floor.floor = options.floor;
  const LawQuantity quantity = find_law_form(forms.front()).quantity;
  Comparison result;
  result.objective = options.objective;
  RowSelection common;
  bool first = true;
  for (const std::string& name : forms) {
    const FormInfo& form = find_law_form(name);
    require(form.quantity == quantity, "forms {} ({}) and {} ({}) predict different quantities",
            forms.front(), law_quantity_name(quantity), name, law_quantity_name(form.quantity));
    ComparedForm entry;
    entry.form = name;
    const RowSelection selection = select_rows(data, form, options.objective, with_floor);
    if (selection.rows.empty()) {
      entry.problem = selection.dropped.empty() ? "no rows" : selection.dropped.front().reason;
    } else if (first) {
      common = selection;
      first = false;
    } else {
      std::vector<size_t> both;
      std::set_intersection(common.rows.begin(), common.rows.end(), selection.rows.begin(),
                            selection.rows.end(), std::back_inserter(both));
      common.rows = std::move(both);
    }
    result.forms.push_back(std::move(entry));
  }
  require(!common.rows.empty(), "{}: no row can be used for all forms: {}", data.source,
          result.forms.front().problem);
  result.rows = common.rows.size();
  double lowest = std::numeric_limits<double>::infinity();
  for (ComparedForm& entry : result.forms) {
    if (!entry.problem.empty()) continue;
    try {
      entry.fit = fit_law(data, find_law_form(entry.form), options, common);
      fill_hold_outs(data, entry);
      lowest = std::min(lowest, entry.fit.goodness.aic);
    } catch (const Error& error) {
      entry.problem = error.what();
    }
  }
  for (ComparedForm& entry : result.forms) {
    if (entry.problem.empty()) entry.delta_aic = entry.fit.goodness.aic - lowest;
  }
  std::stable_sort(result.forms.begin(), result.forms.end(),
                   [](const ComparedForm& a, const ComparedForm& b) {
                     if (a.problem.empty() != b.problem.empty()) return a.problem.empty();
                     return a.problem.empty() && a.delta_aic < b.delta_aic;
                   });
  const ComparedForm& best = result.forms.front();
  if (best.problem.empty() &&
      best.fit.goodness.rms_log_error * best.fit.goodness.rms_log_error < kNoiseFree) {
    result.warnings.push_back(
        "the rows are free of noise: AIC and BIC measure rounding, do not compare them");
  }
  return result;
}

}  // namespace fewbit
