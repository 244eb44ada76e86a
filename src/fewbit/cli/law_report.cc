#include "fewbit/cli/law_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/laws/fit_json.h"

namespace fewbit::cli {
namespace {

constexpr FitObjective kSideBySide[] = {FitObjective::log, FitObjective::linear,
                                        FitObjective::weighted};
// Forms with more parameters than this are printed without their per-level constants.
constexpr size_t kMostParameters = 40;

std::string shown(double value, const char* format = "{:.4g}") {
  return std::isnan(value) ? "-" : fmt::format(fmt::runtime(format), value);
}

void print_rows(const LawReport& report) {
  const RowSelection& selection = report.fit.selection;
  fmt::print("{}: {} of {} rows used, {} left out\n", report.data.source, report.fit.n(),
             report.data.rows.size(), selection.dropped.size());
  for (const auto& [reason, counts] : selection.dropped_counts(report.data)) {
    size_t total = 0;
    std::string places;
    for (const auto& [where, count] : counts) {
      total += count;
      places += fmt::format("{}N {:.3g}{}: {}", places.empty() ? "" : "; ", where.first,
                            where.second > 0 ? fmt::format(" P {:g}", where.second) : "", count);
    }
    fmt::print("  {} {} ({})\n", total, reason, places);
  }
}

void print_parameters(const LawReport& report) {
  const FitResult& fit = report.fit;
  fmt::print("{:<20} {:>14} {:>12} {:>30}{}  meaning\n", "parameter", "value", "s.e.",
             fmt::format("{:g} % interval ({})",
                         report.bootstrap ? 100 * report.bootstrap->options.level : 95.0,
                         report.bootstrap ? "bootstrap" : "analytic"),
             report.preset == nullptr ? "" : fmt::format(" {:>12}", "published"));
  for (size_t j = 0; j < std::min(fit.parameters.size(), kMostParameters); ++j) {
    const ParameterEstimate& parameter = fit.parameters[j];
    fmt::print("{:<20} {:>14.6g} {:>12.3g} {:>30}{}  {}\n", parameter.name, parameter.value,
               parameter.standard_error,
               fmt::format("[{:.6g}, {:.6g}]", parameter.low, parameter.high),
               report.preset == nullptr
                   ? ""
                   : fmt::format(" {:>12}", shown(report.preset->value(parameter.name), "{:.6g}")),
               parameter.meaning);
  }
  if (fit.parameters.size() > kMostParameters) {
    fmt::print("... {} more (--json has all)\n", fit.parameters.size() - kMostParameters);
  }
}

void print_goodness(const LawReport& report) {
  const FitResult& fit = report.fit;
  const GoodnessOfFit& g = fit.goodness;
  fmt::print("R2 {} on the scale of the fit, {} of logarithms, {} of values\n",
             shown(g.r2, "{:.5f}"), shown(g.r2_log, "{:.5f}"), shown(g.r2_linear, "{:.5f}"));
  if (!g.r2_log_by_bits.empty()) {
    std::string widths;
    for (const auto& [bits, r2] : g.r2_log_by_bits) {
      widths +=
          fmt::format("{}{:g} bits {}", widths.empty() ? "" : ", ", bits, shown(r2, "{:.4f}"));
    }
    fmt::print("R2 of logarithms by bit width: {}\n", widths);
  }
  if (std::isfinite(g.max_log_error)) {
    fmt::print("rms log error {:.4f}, largest {:+.4f} at {}\n", g.rms_log_error, g.max_log_error,
               report.data.place(g.max_log_error_row));
  }
  if (std::isfinite(g.chi2)) {
    const double freedom = static_cast<double>(fit.n() - fit.law.fitted.size());
    fmt::print("chi2 / (n - p) {:.3f}\n", g.chi2 / freedom);
  }
  fmt::print("ln L {:.2f}, AIC {:.2f}, AICc {:.2f}, BIC {:.2f}; {} of {} starts reach the best\n",
             g.log_likelihood, g.aic, g.aicc, g.bic, fit.starts_reaching_best, fit.starts);
  std::string place;
  for (const LawVariable variable : fit.form().variables) {
    place += fmt::format("{}{} = {:.4g}", place.empty() ? "" : ", ", law_variable_symbol(variable),
                         fit.reference.point[variable]);
  }
  fmt::print("at {}: {} {:.5g} [{:.5g}, {:.5g}]\n", place, law_quantity_name(fit.form().quantity),
             fit.reference.value, fit.reference.low, fit.reference.high);
}

void print_bootstrap(const BootstrapResult& bootstrap) {
  fmt::print("bootstrap: {} draws of {} {}, seed {}", bootstrap.options.draws, bootstrap.clusters,
             bootstrap.options.by_run ? "runs" : "rows", bootstrap.options.seed);
  if (bootstrap.redrawn > 0) fmt::print(", {} unusable draws replaced", bootstrap.redrawn);
  fmt::print("\n");
}

void print_alternatives(const LawReport& report) {
  if (report.alternatives.empty()) return;
  fmt::print("\nOther objectives, and each bit width alone:\n");
  for (const AlternativeFit& other : report.alternatives) {
    fmt::print("  {:<10} {:<9}", other.form, fit_objective_name(other.objective));
    if (!other.fit) {
      fmt::print(" not fitted: {}\n", other.problem.substr(0, other.problem.find('\n')));
      continue;
    }
    fmt::print(" {:>4} rows, rms log error {}", other.fit->n(),
               shown(other.fit->goodness.rms_log_error));
    const Form& form = other.fit->law.form;
    const size_t per_line =
        form.levels.empty() ? form.fitted.size() : form.fitted.size() / form.levels.size();
    for (size_t j = 0; j < other.fit->parameters.size(); ++j) {
      if (!form.levels.empty() && j % per_line == 0) fmt::print("\n     ");
      fmt::print("  {} {:.4g} ({:.2g})", other.fit->parameters[j].name,
                 other.fit->parameters[j].value, other.fit->parameters[j].standard_error);
    }
    fmt::print("\n");
  }
}

void print_hold_outs(const LawReport& report) {
  if (!report.left_out.empty()) {
    fmt::print("\nWithout each run in turn:\n");
    for (const HoldOutFit& fit : report.left_out) {
      fmt::print("  {:<24}", fit.left_out);
      if (!fit.problem.empty()) {
        fmt::print(" {}\n", fit.problem);
        continue;
      }
      fmt::print(" rms log error {}", shown(fit.errors.rms_log_error));
      for (size_t j = 0; j < std::min<size_t>(fit.reported.size(), 8); ++j) {
        fmt::print("  {} {:.4g}", report.fit.parameters[j].name, fit.reported[j]);
      }
      fmt::print("\n");
    }
  }
  if (!report.extrapolation) return;
  const Extrapolation& split = *report.extrapolation;
  fmt::print("\nTrained on N <= {:.4g} and D <= {:.4g} ({} rows), tested on the rest:\n",
             split.max_params, split.max_tokens, split.fit.train_rows);
  const auto line = [](const std::string& name, const HoldOutErrors& errors) {
    fmt::print("  {:<24} rms log error {}, mean {}, mean |relative error| {} ({} rows)\n", name,
               shown(errors.rms_log_error), shown(errors.mean_log_error, "{:+.3g}"),
               shown(errors.mean_abs_relative_error), errors.rows);
  };
  if (!split.fit.problem.empty()) {
    fmt::print("  {}\n", split.fit.problem);
    return;
  }
  line("the law", split.fit.errors);
  for (const Baseline& baseline : split.baselines) line(baseline.name, baseline.errors);
}

void print_profiles(const LawReport& report) {
  if (report.profiles.empty()) return;
  fmt::print("\nProfile likelihood intervals (95 %):\n");
  for (const ProfileInterval& profile : report.profiles) {
    fmt::print("  {:<20} {:>14.6g}  [{:.6g}, {:.6g}]\n", profile.name, profile.value,
               profile.interval.low, profile.interval.high);
  }
}

}  // namespace

std::vector<AlternativeFit> alternative_fits(const LawData& data, const FormInfo& form,
                                             const FitOptions& options, const RowRules& rules) {
  std::vector<AlternativeFit> fits;
  if (form.quantity != LawQuantity::qid) return fits;
  const auto add = [&](const FormInfo& which, FitObjective objective) {
    AlternativeFit entry{which.name, objective, "", std::nullopt};
    FitOptions other = options;
    other.objective = objective;
    try {
      entry.fit = fit_law(data, which, other, rules);
    } catch (const Error& error) {
      entry.problem = error.what();
    }
    fits.push_back(std::move(entry));
  };
  for (const FitObjective objective : kSideBySide) {
    if (objective != options.objective) add(form, objective);
  }
  if (form.name == "unified") {
    for (const FitObjective objective : kSideBySide) add(find_law_form("per_bits"), objective);
  }
  return fits;
}

double vocabulary_of(const LawData& data, const RowRules& rules) {
  for (const LawRow& row : data.rows) {
    if (row.vocab > 0) return row.vocab;
  }
  return rules.vocab;
}

Json to_json(const LawReport& report) {
  Json json = to_json(report.data, report.fit, report.bootstrap ? &*report.bootstrap : nullptr);
  for (const AlternativeFit& other : report.alternatives) {
    Json entry = {{"form", other.form}, {"objective", fit_objective_name(other.objective)}};
    if (other.fit) {
      const Json full = to_json(report.data, *other.fit, nullptr);
      for (const char* key : {"parameters", "n_rows", "goodness"}) entry[key] = full.at(key);
    } else {
      entry["problem"] = other.problem;
    }
    json["alternatives"].push_back(std::move(entry));
  }
  for (const HoldOutFit& fit : report.left_out) {
    json["leave_one_run_out"].push_back(to_json(fit, report.fit.law.form));
  }
  if (report.extrapolation) {
    json["extrapolation"] = to_json(*report.extrapolation, report.fit.law.form);
  }
  const auto end = [](double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); };
  for (const ProfileInterval& profile : report.profiles) {
    json["profiles"].push_back({{"name", profile.name},
                                {"value", profile.value},
                                {"low", end(profile.interval.low)},
                                {"high", end(profile.interval.high)}});
  }
  if (report.preset != nullptr) {
    json["published"] = {{"preset", report.preset->name}, {"source", report.preset->source}};
    for (const auto& [name, value] : report.preset->values) {
      json["published"]["values"][name] = value;
    }
  }
  return json;
}

void print_report(const LawReport& report) {
  const FitResult& fit = report.fit;
  print_rows(report);
  fmt::print("{}: {}\nobjective {}\n\n", fit.form().name, fit.form().equation,
             fit_objective_name(fit.options.objective));
  print_parameters(report);
  fmt::print("\n");
  print_goodness(report);
  if (report.bootstrap) print_bootstrap(*report.bootstrap);
  print_alternatives(report);
  print_hold_outs(report);
  print_profiles(report);
  if (!fit.warnings.empty()) fmt::print("\n");
  for (const std::string& warning : fit.warnings) fmt::print("warning: {}\n", warning);
}

void print_comparison(const Comparison& comparison) {
  fmt::print(
      "{} rows, objective {}\n{:<22} {:>3} {:>10} {:>8} {:>10} {:>10} {:>8} {:>9} {:>9} {:>9}\n",
      comparison.rows, fit_objective_name(comparison.objective), "form", "p", "AIC", "dAIC", "AICc",
      "BIC", "R2 (ln)", "rms ln", "no run", "beyond");
  for (const ComparedForm& form : comparison.forms) {
    if (!form.problem.empty()) {
      fmt::print("{:<22} not fitted: {}\n", form.form,
                 form.problem.substr(0, form.problem.find('\n')));
      continue;
    }
    const GoodnessOfFit& g = form.fit.goodness;
    fmt::print("{:<22} {:>3} {:>10.2f} {:>8.2f} {:>10.2f} {:>10.2f} {:>8} {:>9} {:>9} {:>9}\n",
               form.form, form.fit.law.fitted.size(), g.aic, form.delta_aic, g.aicc, g.bic,
               shown(g.r2_log, "{:.4f}"), shown(g.rms_log_error, "{:.4f}"),
               shown(form.left_out_rms, "{:.4f}"), shown(form.extrapolation_rms, "{:.4f}"));
  }
  fmt::print(
      "p parameters; rms ln: rms log error of the rows; no run: of runs left out of the fit; "
      "beyond: of\n"
      "larger sizes and later tokens than the fit saw. dAIC below 2 is no evidence, above 10 "
      "decisive.\n");
  for (const std::string& warning : comparison.warnings) fmt::print("warning: {}\n", warning);
}

}  // namespace fewbit::cli
