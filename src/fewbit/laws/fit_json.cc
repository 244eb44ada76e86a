#include "fewbit/laws/fit_json.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// JSON has no NaN and no infinity.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

Json interval_json(const Interval& interval) {
  return {number(interval.low), number(interval.high)};
}

Json point_json(const LawPoint& point) {
  Json json = Json::object();
  for (size_t i = 0; i < kLawVariableCount; ++i) {
    const auto variable = static_cast<LawVariable>(i);
    if (point.has(variable)) json[law_variable_column(variable)] = point[variable];
  }
  return json;
}

LawPoint point_from_json(const Json& json) {
  LawPoint point;
  for (size_t i = 0; i < kLawVariableCount; ++i) {
    const auto variable = static_cast<LawVariable>(i);
    const std::string column(law_variable_column(variable));
    if (json.contains(column)) point.set(variable, json_get<double>(json, column.c_str()));
  }
  return point;
}

Json parameter_json(const ParameterEstimate& parameter) {
  return {{"name", parameter.name},
          {"value", number(parameter.value)},
          {"se", number(parameter.standard_error)},
          {"low", number(parameter.low)},
          {"high", number(parameter.high)},
          {"meaning", parameter.meaning}};
}

Json goodness_json(const LawData& data, const FitResult& fit) {
  const GoodnessOfFit& g = fit.goodness;
  Json by_bits = Json::object();
  for (const auto& [bits, r2] : g.r2_log_by_bits) by_bits[fmt::format("{:g}", bits)] = number(r2);
  Json json = {{"rss", number(g.rss)},
               {"s2", number(g.s2)},
               {"chi2", number(g.chi2)},
               {"r2", number(g.r2)},
               {"r2_log", number(g.r2_log)},
               {"r2_linear", number(g.r2_linear)},
               {"r2_log_by_bits", by_bits},
               {"rms_log_error", number(g.rms_log_error)},
               {"mean_abs_relative_error", number(g.mean_abs_relative_error)},
               {"max_log_error", number(g.max_log_error)},
               {"log_likelihood", number(g.log_likelihood)},
               {"log_likelihood_of_values", number(g.log_likelihood_of_values)},
               {"counted_parameters", g.counted_parameters},
               {"aic", number(g.aic)},
               {"aicc", number(g.aicc)},
               {"bic", number(g.bic)}};
  if (std::isfinite(g.max_log_error)) {
    json["max_log_error_row"] = data.place(g.max_log_error_row);
  }
  return json;
}

Json dropped_json(const LawData& data, const RowSelection& selection) {
  Json dropped = Json::array();
  for (const DroppedRow& drop : selection.dropped) {
    dropped.push_back({{"row", data.place(drop.row)}, {"reason", drop.reason}});
  }
  return dropped;
}

Json matrix_json(const DoubleMatrix& matrix) {
  Json rows = Json::array();
  for (size_t i = 0; i < matrix.rows(); ++i) {
    Json row = Json::array();
    for (const double value : matrix.row(i)) row.push_back(number(value));
    rows.push_back(std::move(row));
  }
  return rows;
}

Json named_values(const Form& form, std::span<const double> reported) {
  Json json = Json::object();
  for (size_t i = 0; i < reported.size(); ++i) json[form.reported[i].name] = number(reported[i]);
  return json;
}

}  // namespace

Json to_json(const LawData& data, const FitResult& fit, const BootstrapResult* bootstrap,
             size_t max_draws) {
  Json parameters = Json::array(), fitted = Json::array(), points = Json::array(),
       draws = Json::array();
  for (const ParameterEstimate& parameter : fit.parameters) {
    parameters.push_back(parameter_json(parameter));
  }
  for (size_t i = 0; i < fit.law.fitted.size(); ++i) {
    fitted.push_back({{"name", fit.law.form.fitted[i].name},
                      {"value", fit.law.fitted[i]},
                      {"se", number(fit.fitted_errors[i])}});
  }
  for (size_t i = 0; i < fit.n(); ++i) {
    const size_t row = fit.selection.rows[i];
    Json point = point_json(fit.points[i]);
    point["row"] = data.place(row);
    point["observed"] = number(data.rows[row].quantity(fit.form().quantity));
    point["predicted"] = number(fit.predicted[i]);
    points.push_back(std::move(point));
  }
  Json json = {{"schema", kFitSchema},
               {"form", fit.form().name},
               {"equation", fit.form().equation},
               {"quantity", law_quantity_name(fit.form().quantity)},
               {"objective", fit_objective_name(fit.options.objective)},
               {"source", data.source},
               {"levels", fit.law.form.levels},
               {"parameters", parameters},
               {"fitted", fitted},
               {"correlation", matrix_json(fit.correlation)},
               {"n_rows", fit.n()},
               {"dropped", dropped_json(data, fit.selection)},
               {"objective_value", number(fit.objective)},
               {"starts", fit.starts},
               {"starts_reaching_best", fit.starts_reaching_best},
               {"goodness", goodness_json(data, fit)},
               {"reference",
                {{"point", point_json(fit.reference.point)},
                 {"value", number(fit.reference.value)},
                 {"low", number(fit.reference.low)},
                 {"high", number(fit.reference.high)}}},
               {"points", points},
               {"warnings", fit.warnings}};
  const ObjectiveOptions options = fit.options.for_quantity(fit.form().quantity);
  json["options"] = {{"floor", options.floor},
                     {"relative_scatter", options.relative_scatter},
                     {"huber_delta", options.huber_delta}};
  if (bootstrap != nullptr) {
    for (size_t i = 0; i < std::min(max_draws, bootstrap->fitted.size()); ++i) {
      draws.push_back(bootstrap->fitted[i]);
    }
    json["bootstrap"] = {{"draws", bootstrap->options.draws},   {"seed", bootstrap->options.seed},
                         {"by_run", bootstrap->options.by_run}, {"level", bootstrap->options.level},
                         {"clusters", bootstrap->clusters},     {"redrawn", bootstrap->redrawn}};
    json["draws"] = draws;
  }
  return json;
}

Json to_json(const HoldOutErrors& errors) {
  return {{"rows", errors.rows},
          {"rms_log_error", number(errors.rms_log_error)},
          {"mean_log_error", number(errors.mean_log_error)},
          {"mean_abs_relative_error", number(errors.mean_abs_relative_error)}};
}

Json to_json(const HoldOutFit& fit, const Form& form) {
  Json json = {{"left_out", fit.left_out}, {"train_rows", fit.train_rows}};
  if (!fit.problem.empty()) {
    json["problem"] = fit.problem;
    return json;
  }
  json["parameters"] = named_values(form, fit.reported);
  json["test"] = to_json(fit.errors);
  return json;
}

Json to_json(const Extrapolation& split, const Form& form) {
  Json json = to_json(split.fit, form);
  json["max_params"] = split.max_params;
  json["max_tokens"] = split.max_tokens;
  json["baselines"] = Json::array();
  for (const Baseline& baseline : split.baselines) {
    Json entry = to_json(baseline.errors);
    entry["name"] = baseline.name;
    json["baselines"].push_back(std::move(entry));
  }
  return json;
}

Json to_json(const Comparison& comparison, const LawData& data) {
  Json forms = Json::array();
  for (const ComparedForm& form : comparison.forms) {
    Json entry = {{"form", form.form}};
    if (!form.problem.empty()) {
      entry["problem"] = form.problem;
    } else {
      entry["parameters"] = Json::array();
      for (const ParameterEstimate& parameter : form.fit.parameters) {
        entry["parameters"].push_back(parameter_json(parameter));
      }
      entry["goodness"] = goodness_json(data, form.fit);
      entry["delta_aic"] = number(form.delta_aic);
      entry["leave_one_run_out_rms_log_error"] = number(form.left_out_rms);
      entry["extrapolation_rms_log_error"] = number(form.extrapolation_rms);
    }
    forms.push_back(std::move(entry));
  }
  return {{"objective", fit_objective_name(comparison.objective)},
          {"n_rows", comparison.rows},
          {"forms", forms},
          {"warnings", comparison.warnings}};
}

Json to_json(const Prediction& prediction) {
  Json json = point_json(prediction.point);
  json["loss16"] = number(prediction.loss16);
  json["loss16_interval"] = interval_json(prediction.loss16_interval);
  json["qid"] = number(prediction.qid);
  json["qid_interval"] = interval_json(prediction.qid_interval);
  json["loss"] = number(prediction.loss);
  json["loss_interval"] = interval_json(prediction.loss_interval);
  json["headroom"] = number(prediction.headroom);
  json["at_or_below_random"] = prediction.at_or_below_random;
  json["extrapolation"] = prediction.offset.outside;
  json["extrapolation_by"] = {{"ln_N", prediction.offset.ln_params},
                              {"ln_D", prediction.offset.ln_tokens},
                              {"bits", prediction.offset.bits}};
  if (!prediction.warning.empty()) json["warning"] = prediction.warning;
  return json;
}

LawWithErrors law_from_json(const Json& document) {
  const int schema = json_get<int>(document, "schema");
  require(schema == kFitSchema, "schema {}: this version reads {}", schema, kFitSchema);
  LawWithErrors result;
  const FormInfo& info = find_law_form(json_get<std::string>(document, "form"));
  auto levels = json_get<std::vector<FormLevel>>(document, "levels");
  for (const FormLevel& level : levels) {
    require(level.size() == info.grouped_by.size(), "levels: {} values for {} variables",
            level.size(), info.grouped_by.size());
  }
  require(info.grouped_by.empty() == levels.empty() && std::is_sorted(levels.begin(), levels.end()),
          "levels do not fit form {}", info.name);
  result.law.form = info.bind_levels(std::move(levels));
  for (const Json& parameter : json_get<Json>(document, "fitted")) {
    result.law.fitted.push_back(json_get<double>(parameter, "value"));
  }
  const size_t size = result.law.form.fitted.size();
  require(result.law.fitted.size() == size, "fitted: {} values, form {} has {} parameters",
          result.law.fitted.size(), info.name, size);
  result.draws = json_get_or<std::vector<std::vector<double>>>(document, "draws", {});
  for (const auto& draw : result.draws) {
    require(draw.size() == size, "draws: {} values, form {} has {} parameters", draw.size(),
            info.name, size);
  }
  std::vector<LawPoint> points;
  for (const Json& point : json_get_or<Json>(document, "points", Json::array())) {
    points.push_back(point_from_json(point));
  }
  if (!points.empty()) result.hull = DataHull(points);
  return result;
}

}  // namespace fewbit
