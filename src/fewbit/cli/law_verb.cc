// fewbit law: fits, comparisons, predictions and the published table, from any CSV.
#include <fmt/format.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/laws/bootstrap.h"
#include "fewbit/laws/compare.h"
#include "fewbit/laws/fit_json.h"
#include "fewbit/laws/hull.h"
#include "fewbit/laws/law_csv.h"
#include "fewbit/laws/predict.h"
#include "fewbit/laws/presets.h"

namespace fewbit::cli {
namespace {

struct LawArguments {
  std::string csv, form = "unified", objective, output, law, loss_law, preset = "ouyang-unified";
  std::vector<std::string> where, forms, params, tokens, bits;
  size_t draws = 1000;
  uint64_t seed = 0;
  double vocabulary = 0;
  bool json = false;
};

LawData read_data(const LawArguments& arguments) {
  std::vector<RowFilter> filters;
  for (const std::string& text : arguments.where) filters.push_back(read_row_filter(text));
  return read_law_csv(arguments.csv, filters);
}

RowRules row_rules(const LawArguments& arguments) {
  RowRules rules;
  rules.vocab = arguments.vocabulary;
  return rules;
}

FitOptions fit_options(const LawArguments& arguments, FitObjective fallback) {
  FitOptions options;
  options.objective =
      arguments.objective.empty() ? fallback : read_fit_objective(arguments.objective);
  return options;
}

void print_fit(const FitResult& fit) {
  fmt::print("{}: {}\n{} rows used, {} left out, objective {}, R2 of logs {:.4f}\n",
             fit.form().name, fit.form().equation, fit.n(), fit.selection.dropped.size(),
             fit_objective_name(fit.options.objective), fit.goodness.r2_log);
  for (const ParameterEstimate& parameter : fit.parameters) {
    fmt::print("  {:<12} {:>14.6g}  se {:<12.4g} 95 % [{:.6g}, {:.6g}]  {}\n", parameter.name,
               parameter.value, parameter.standard_error, parameter.low, parameter.high,
               parameter.meaning);
  }
  fmt::print("  AIC {:.2f}, AICc {:.2f}, BIC {:.2f}, rms log error {:.4f}\n", fit.goodness.aic,
             fit.goodness.aicc, fit.goodness.bic, fit.goodness.rms_log_error);
  for (const std::string& warning : fit.warnings) fmt::print("warning: {}\n", warning);
}

void run_fit(const LawArguments& arguments) {
  const LawData data = read_data(arguments);
  const FormInfo& form = find_law_form(arguments.form);
  FitResult fit =
      fit_law(data, form, fit_options(arguments, form.default_objective), row_rules(arguments));
  std::optional<BootstrapResult> draws;
  if (arguments.draws > 0) {
    const RunGroups runs = group_by_run(data, fit.selection.rows);
    draws = bootstrap(
        data, fit,
        {.draws = arguments.draws, .seed = arguments.seed, .by_run = runs.names.size() > 1});
    apply_bootstrap(*draws, fit);
  }
  const Json document = to_json(data, fit, draws ? &*draws : nullptr);
  if (!arguments.output.empty()) write_file_atomically(arguments.output, document.dump(1) + "\n");
  if (arguments.json) {
    fmt::print("{}\n", document.dump(2));
  } else {
    print_fit(fit);
  }
}

void run_compare(const LawArguments& arguments) {
  const LawData data = read_data(arguments);
  std::vector<std::string> forms = arguments.forms;
  if (forms.empty()) forms = default_comparison(find_law_form(arguments.form).quantity);
  const Comparison comparison =
      compare_forms(data, forms, fit_options(arguments, FitObjective::log), row_rules(arguments));
  if (arguments.json) {
    fmt::print("{}\n", to_json(comparison, data).dump(2));
    return;
  }
  fmt::print("{} rows, objective {}\n{:<16} {:>10} {:>10} {:>10} {:>14} {:>14}\n", comparison.rows,
             fit_objective_name(comparison.objective), "form", "AIC", "dAIC", "BIC",
             "leave-run-out", "extrapolation");
  for (const ComparedForm& form : comparison.forms) {
    if (!form.problem.empty()) {
      fmt::print("{:<16} not fitted: {}\n", form.form, form.problem);
      continue;
    }
    fmt::print("{:<16} {:>10.2f} {:>10.2f} {:>10.2f} {:>14.4f} {:>14.4f}\n", form.form,
               form.fit.goodness.aic, form.delta_aic, form.fit.goodness.bic, form.left_out_rms,
               form.extrapolation_rms);
  }
  for (const std::string& warning : comparison.warnings) fmt::print("warning: {}\n", warning);
}

// A file that `fewbit law fit -o` wrote, or the name of published constants.
LawWithErrors read_law(const std::string& name) {
  constexpr size_t kMaxFitBytes = size_t{256} << 20;
  if (name.ends_with(".json")) {
    return law_from_json(parse_json(read_text_file(name, kMaxFitBytes), name));
  }
  return {law_of(find_law_preset(name)), {}, {}};
}

std::vector<double> quantities(const std::vector<std::string>& texts, const char* what) {
  std::vector<double> values;
  for (const std::string& text : texts) {
    for (const double value : read_quantities(text, what)) values.push_back(value);
  }
  return values;
}

void run_predict(const LawArguments& arguments) {
  Predictor predictor;
  predictor.qid = read_law(arguments.law.empty() ? arguments.preset : arguments.law);
  if (!arguments.loss_law.empty()) predictor.loss16 = read_law(arguments.loss_law);
  predictor.vocab = arguments.vocabulary;
  Json list = Json::array();
  for (const double params : quantities(arguments.params, "--params")) {
    for (const double tokens : quantities(arguments.tokens, "--tokens")) {
      for (const double bits : quantities(arguments.bits, "--bits")) {
        const Prediction prediction = predict(predictor, LawPoint(params, tokens, bits));
        if (arguments.json) {
          list.push_back(to_json(prediction));
          continue;
        }
        fmt::print("N {:.4g}  D {:.4g}  P {:g}  QiD {:.5g}", params, tokens, bits, prediction.qid);
        // Published constants come without draws, hence without an interval.
        if (!std::isnan(prediction.qid_interval.low)) {
          fmt::print(" [{:.5g}, {:.5g}]", prediction.qid_interval.low,
                     prediction.qid_interval.high);
        }
        if (predictor.loss16) fmt::print("  loss {:.5g}", prediction.loss);
        if (prediction.at_or_below_random) fmt::print("  NO BETTER THAN RANDOM");
        if (!prediction.warning.empty()) fmt::print("  {}", prediction.warning);
        fmt::print("\n");
      }
    }
  }
  if (arguments.json) fmt::print("{}\n", list.dump(2));
}

// Tokens (in trillions) at which QiD reaches a level, as Table 1 of arXiv 2411.17691 is laid out.
void run_table(const LawArguments& arguments) {
  constexpr double kSizes[] = {1e9, 7e9, 70e9, 405e9};
  constexpr double kLevels[] = {0.2, 0.3, 0.4, 0.5};
  constexpr double kBits[] = {2, 3, 4};
  constexpr double kTrillion = 1e12;
  const Law per_bit = law_of(find_law_preset("ouyang-per-bits"));
  const Law unified = law_of(find_law_preset("ouyang-unified"));
  Json list = Json::array();
  if (!arguments.json) {
    fmt::print(
        "Trillions of tokens at which QiD reaches a level: by the law of each bit width "
        "(as printed in Table 1 of arXiv 2411.17691), and by the unified law\n");
    fmt::print("{:>5} {:>5} {:>5} {:>12} {:>12} {:>9}\n", "N", "QiD", "bits", "per bit", "unified",
               "ratio");
  }
  for (const double params : kSizes) {
    for (const double level : kLevels) {
      for (const double bits : kBits) {
        const double printed = tokens_for_qid(per_bit, params, bits, level) / kTrillion;
        const double general = tokens_for_qid(unified, params, bits, level) / kTrillion;
        if (arguments.json) {
          list.push_back({{"N", params},
                          {"qid", level},
                          {"bits", bits},
                          {"tokens_trillion", printed},
                          {"tokens_trillion_unified", general}});
        } else {
          fmt::print("{:>4.0f}B {:>5.1f} {:>5.0f} {:>12.4f} {:>12.4f} {:>9.4f}\n", params / 1e9,
                     level, bits, printed, general, printed / general);
        }
      }
    }
  }
  if (arguments.json) fmt::print("{}\n", list.dump(2));
}

void run_list(const LawArguments& arguments) {
  Json forms = Json::array(), presets = Json::array();
  for (const FormInfo& form : law_forms()) {
    if (arguments.json) {
      forms.push_back({{"name", form.name}, {"equation", form.equation}, {"source", form.source}});
    } else {
      fmt::print("form   {:<22} {}  ({})\n", form.name, form.equation, form.source);
    }
  }
  for (const LawPreset& preset : law_presets()) {
    if (arguments.json) {
      presets.push_back({{"name", preset.name}, {"form", preset.form}, {"source", preset.source}});
    } else {
      fmt::print("preset {:<22} {}  ({})\n", preset.name, preset.summary, preset.source);
    }
  }
  if (arguments.json) fmt::print("{}\n", Json{{"forms", forms}, {"presets", presets}}.dump(2));
}

void add_data_options(CLI::App* verb, LawArguments& arguments) {
  verb->add_option("csv", arguments.csv, "rows: run, N, D, bits, qid, qid_se, loss16, ...")
      ->required();
  verb->add_option("--where", arguments.where, "only rows with column=value; may be repeated");
  verb->add_option("--form", arguments.form, "form to fit (default unified; see fewbit law list)");
  verb->add_option("--objective", arguments.objective, "log, linear, weighted or huber");
  verb->add_option("--vocabulary", arguments.vocabulary, "entries, where the rows do not say")
      ->check(CLI::Range(0.0, 1e9));
}

}  // namespace

void add_law_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("law", "Fit, compare and use scaling laws");
  verb->require_subcommand(1);
  verb->footer(
      "Examples:\n"
      "  fewbit study export out/study -o rows.csv\n"
      "  fewbit law fit rows.csv --where method=gptq --where dataset=novels -o gptq.json\n"
      "  fewbit law predict --law gptq.json --params 7B --tokens 1T,10T --bits 2,3,4\n"
      "  fewbit law compare rows.csv --where method=gptq --where dataset=novels\n"
      "  fewbit law table");
  auto arguments = std::make_shared<LawArguments>();

  CLI::App* fit = verb->add_subcommand("fit", "Fit a form to the rows of a CSV file");
  add_data_options(fit, *arguments);
  fit->add_option("--bootstrap", arguments->draws,
                  "draws, by training run where there are several (default 1000)")
      ->check(CLI::Range(size_t{0}, size_t{1000000}));
  fit->add_option("--seed", arguments->seed, "of the bootstrap (default 0)");
  fit->add_option("-o,--output", arguments->output, "write the fit as JSON, for law predict");
  fit->callback([arguments] { run_fit(*arguments); });

  CLI::App* compare = verb->add_subcommand("compare", "Forms side by side on the same rows");
  add_data_options(compare, *arguments);
  compare->add_option("--forms", arguments->forms, "forms (default: all of the quantity)")
      ->delimiter(',');
  compare->callback([arguments] { run_compare(*arguments); });

  CLI::App* predict = verb->add_subcommand("predict", "QiD and loss at sizes, tokens and bits");
  predict->add_option("--law", arguments->law, "file of law fit -o, or a preset");
  predict->add_option("--loss-law", arguments->loss_law, "law of the loss before quantization");
  predict->add_option("--preset", arguments->preset,
                      "published constants (default ouyang-unified)");
  predict->add_option("--params", arguments->params, "N: 7e9, 7B, lists with commas")->required();
  predict->add_option("--tokens", arguments->tokens, "D: 15e12, 15T, ...")->required();
  predict->add_option("--bits", arguments->bits, "P")->required();
  predict->add_option("--vocabulary", arguments->vocabulary, "entries: caps the loss at its ln")
      ->check(CLI::Range(0.0, 1e9));
  predict->callback([arguments] { run_predict(*arguments); });

  CLI::App* table =
      verb->add_subcommand("table", "The published Table 1, and what the unified law gives");
  table->callback([arguments] { run_table(*arguments); });
  CLI::App* list = verb->add_subcommand("list", "Forms and published constants");
  list->callback([arguments] { run_list(*arguments); });
  for (CLI::App* sub : {fit, compare, predict, table, list}) {
    sub->add_flag("--json", arguments->json, "machine-readable");
  }
}

}  // namespace fewbit::cli
