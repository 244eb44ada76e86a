#include "fewbit/laws/form.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/base/options.h"
#include "fewbit/laws/form_parts.h"

namespace fewbit {
namespace {

struct VariableName {
  std::string_view symbol, column;
};
// In the order of LawVariable.
constexpr VariableName kVariableNames[kLawVariableCount] = {{"N", "N"},
                                                            {"D", "D"},
                                                            {"P", "bits"},
                                                            {"G", "group_size"},
                                                            {"lr_ratio", "lr_ratio"},
                                                            {"P_train", "train_bits"},
                                                            {"P_a", "activation_bits"},
                                                            {"P_kv", "cache_bits"},
                                                            {"E", "exponent_bits"},
                                                            {"M", "mantissa_bits"},
                                                            {"gmse", "gmse"}};

constexpr std::pair<FitObjective, std::string_view> kObjectiveNames[] = {
    {FitObjective::log, "log"},
    {FitObjective::linear, "linear"},
    {FitObjective::weighted, "weighted"},
    {FitObjective::huber, "huber"}};

}  // namespace

std::string_view law_variable_symbol(LawVariable variable) {
  return kVariableNames[static_cast<size_t>(variable)].symbol;
}

std::string_view law_variable_column(LawVariable variable) {
  return kVariableNames[static_cast<size_t>(variable)].column;
}

std::string_view law_quantity_name(LawQuantity quantity) {
  switch (quantity) {
    case LawQuantity::qid:
      return "qid";
    case LawQuantity::loss16:
      return "loss16";
    case LawQuantity::loss:
      return "loss";
  }
  return "?";
}

std::string_view fit_objective_name(FitObjective objective) {
  return kObjectiveNames[static_cast<size_t>(objective)].second;
}

FitObjective read_fit_objective(std::string_view name) {
  std::vector<std::string> words;
  for (const auto& [objective, word] : kObjectiveNames) {
    if (word == name) return objective;
    words.emplace_back(word);
  }
  fail("objective '{}' is not known; allowed: {}", name, join_choices(words));
}

double Form::value(std::span<const double> parameters, const LawPoint& point) const {
  return std::exp(log_value(parameters, point, {}));
}

std::vector<double> Form::reported_values(std::span<const double> parameters) const {
  std::vector<double> values;
  for (const ReportedParameter& parameter : reported) {
    values.push_back(parameter.value(parameters, {}));
  }
  return values;
}

size_t Form::reported_index(std::string_view name) const {
  std::vector<std::string> names;
  for (size_t i = 0; i < reported.size(); ++i) {
    if (reported[i].name == name) return i;
    names.push_back(reported[i].name);
  }
  fail("form {} has no parameter '{}'; it has: {}", info->name, name, join_choices(names));
}

bool FormInfo::reads(LawVariable variable) const {
  return std::find(variables.begin(), variables.end(), variable) != variables.end();
}

std::string FormInfo::problem_at(const LawPoint& point) const {
  for (const LawVariable variable : variables) {
    if (!point.has(variable)) return fmt::format("no {}", law_variable_column(variable));
    if (!(point[variable] > 0) || std::isinf(point[variable])) {
      return fmt::format("{} = {} is not a positive number", law_variable_column(variable),
                         point[variable]);
    }
  }
  return domain_problem ? domain_problem(point) : std::string();
}

Form FormInfo::bind(std::span<const LawPoint> points) const {
  std::vector<FormLevel> levels;
  if (!grouped_by.empty()) {
    for (const LawPoint& point : points) {
      FormLevel level;
      for (const LawVariable variable : grouped_by) level.push_back(point[variable]);
      levels.push_back(std::move(level));
    }
    std::sort(levels.begin(), levels.end());
    levels.erase(std::unique(levels.begin(), levels.end()), levels.end());
  }
  return bind_levels(std::move(levels));
}

Form FormInfo::bind_levels(std::vector<FormLevel> levels) const {
  Form form = make(std::move(levels));
  form.info = this;
  return form;
}

std::span<const FormInfo> law_forms() {
  static const std::vector<FormInfo> forms = [] {
    std::vector<FormInfo> all;
    for (auto part : {qid_forms(), loss_forms(), precision_forms()}) {
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  }();
  return forms;
}

const FormInfo& find_law_form(std::string_view name) {
  std::vector<std::string> names;
  for (const FormInfo& form : law_forms()) {
    if (form.name == name) return form;
    names.push_back(form.name);
  }
  fail("form '{}' is not known; allowed: {}", name, join_choices(names));
}

}  // namespace fewbit
