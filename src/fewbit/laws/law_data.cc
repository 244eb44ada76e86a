#include "fewbit/laws/law_data.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// Bit widths from here on are no quantization.
constexpr double kUnquantizedBits = 16;

// Why a row's value itself cannot be used; empty if it can.
std::string value_problem(const LawRow& row, LawQuantity quantity, FitObjective objective,
                          const RowRules& rules) {
  const double value = row.quantity(quantity);
  if (!std::isfinite(value)) return fmt::format("no {}", law_quantity_name(quantity));
  if (quantity != LawQuantity::qid) return value > 0 ? "" : "loss is not positive";
  const double headroom = row.headroom(rules.vocab);
  if (value >= rules.saturation * headroom) {
    return fmt::format("saturated: qid >= {:g} x (ln V - loss16)", rules.saturation);
  }
  if (objective != FitObjective::log && objective != FitObjective::huber) return "";
  const bool has_error = std::isfinite(row.qid_se) && row.qid_se > 0;
  if (has_error && !(value > rules.noise_multiple * row.qid_se)) {
    return fmt::format("noise: qid <= {:g} standard errors", rules.noise_multiple);
  }
  if (!has_error && rules.floor > 0 && !(value > rules.noise_multiple * rules.floor)) {
    return fmt::format("noise: qid <= {:g} x floor", rules.noise_multiple);
  }
  return value > 0 ? "" : "qid is not positive (no logarithm)";
}

std::string rule_problem(const LawRow& row, LawQuantity quantity, const RowRules& rules) {
  if (row.point[LawVariable::tokens] < rules.min_tokens) {
    return fmt::format("D < {:g}", rules.min_tokens);
  }
  if (row.loss16 > rules.max_loss16) return fmt::format("loss16 > {:g}", rules.max_loss16);
  if (quantity == LawQuantity::qid && row.point[LawVariable::bits] >= kUnquantizedBits) {
    return fmt::format("not quantized: bits >= {:g}", kUnquantizedBits);
  }
  return "";
}

// The value at and above which losses are left out.
double loss_cut(const LawData& data, const std::vector<size_t>& rows, LawQuantity quantity,
                size_t largest) {
  if (largest == 0) return std::numeric_limits<double>::infinity();
  std::vector<double> losses;
  for (const size_t row : rows) losses.push_back(data.rows[row].quantity(quantity));
  require(largest < losses.size(), "cannot leave out the {} largest of {} losses", largest,
          losses.size());
  std::sort(losses.begin(), losses.end(), std::greater<>());
  return losses[largest - 1];
}

}  // namespace

double LawRow::quantity(LawQuantity which) const {
  switch (which) {
    case LawQuantity::qid:
      return std::isnan(qid) ? loss - loss16 : qid;
    case LawQuantity::loss16:
      return loss16;
    case LawQuantity::loss:
      return loss;
  }
  return kMissing;
}

double LawRow::headroom(double default_vocab) const {
  const double entries = std::isnan(vocab) ? default_vocab : vocab;
  return entries > 0 ? std::log(entries) - loss16 : kMissing;
}

std::string LawData::place(size_t row) const {
  const size_t line = rows[row].line;
  return line > 0 ? fmt::format("{}:{}", source, line) : fmt::format("row {}", row + 1);
}

std::map<std::string, std::map<std::pair<double, double>, size_t>> RowSelection::dropped_counts(
    const LawData& data) const {
  std::map<std::string, std::map<std::pair<double, double>, size_t>> counts;
  for (const DroppedRow& drop : dropped) {
    const LawPoint& at = data.rows[drop.row].point;
    // A missing value must not be NaN in a key.
    const auto key = [&](LawVariable variable) { return at.has(variable) ? at[variable] : 0.0; };
    ++counts[drop.reason][{key(LawVariable::params), key(LawVariable::bits)}];
  }
  return counts;
}

RowSelection select_rows(const LawData& data, const FormInfo& form, FitObjective objective,
                         const RowRules& rules) {
  RowSelection selection;
  std::vector<size_t> usable;
  std::vector<std::string> reasons(data.rows.size());
  // A table of quantized models repeats the loss of its checkpoint in each row.
  std::set<std::tuple<std::string, std::string, double, double, double>> checkpoints;
  for (size_t i = 0; i < data.rows.size(); ++i) {
    const LawRow& row = data.rows[i];
    std::string& reason = reasons[i];
    reason = form.problem_at(row.point);
    if (reason.empty()) reason = rule_problem(row, form.quantity, rules);
    if (reason.empty()) reason = value_problem(row, form.quantity, objective, rules);
    if (reason.empty() && form.quantity == LawQuantity::loss16 && !row.run.empty() &&
        !checkpoints
             .insert({row.run, row.dataset, row.point[LawVariable::params],
                      row.point[LawVariable::tokens], row.loss16})
             .second) {
      reason = "same checkpoint as an earlier row";
    }
    if (reason.empty()) usable.push_back(i);
    if (form.quantity == LawQuantity::qid && std::isfinite(row.headroom(rules.vocab))) {
      ++selection.saturation_tested;
    }
  }
  const size_t largest = form.quantity == LawQuantity::qid ? 0 : rules.drop_largest_losses;
  const double cut = loss_cut(data, usable, form.quantity, largest);
  for (const size_t i : usable) {
    if (data.rows[i].quantity(form.quantity) >= cut) {
      reasons[i] = fmt::format("one of the {} largest losses", largest);
    }
  }
  for (size_t i = 0; i < data.rows.size(); ++i) {
    if (reasons[i].empty()) {
      selection.rows.push_back(i);
    } else {
      selection.dropped.push_back({i, reasons[i]});
    }
  }
  return selection;
}

}  // namespace fewbit
