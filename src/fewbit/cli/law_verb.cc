// fewbit law: fits, comparisons, predictions and the published table, from any CSV.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "fewbit/base/error.h"
#include "fewbit/base/file.h"
#include "fewbit/cli/law_plan.h"
#include "fewbit/cli/law_report.h"
#include "fewbit/cli/verbs.h"
#include "fewbit/laws/fit_json.h"
#include "fewbit/laws/law_csv.h"

namespace fewbit::cli {
namespace {

// Below so many runs the fits without each of them are shown unasked.
constexpr size_t kFewRuns = 6;

// What fit and compare share: rows, their selection, the objective.
struct RowArguments {
  std::string csv, form = "unified", objective;
  std::vector<std::string> where;
  FitOptions options;
  RowRules rules;

  LawData read() const {
    std::vector<RowFilter> filters;
    for (const std::string& text : where) filters.push_back(read_row_filter(text));
    return read_law_csv(csv, filters);
  }
  FitOptions fit_options(FitObjective fallback) const {
    FitOptions result = options;
    result.objective = objective.empty() ? fallback : read_fit_objective(objective);
    return result;
  }
  RowRules row_rules() const {
    RowRules result = rules;
    result.floor = options.floor;
    return result;
  }
};

struct FitArguments : RowArguments {
  std::string output, preset, cluster;
  BootstrapOptions bootstrap;
  bool profile = false, hold_out = false, json = false;
};

struct CompareArguments : RowArguments {
  std::vector<std::string> forms;
  bool json = false;
};

// Whether the bootstrap resamples runs: as asked for, or where there are several.
bool by_run(const FitArguments& arguments, const LawData& data, const FitResult& fit) {
  if (!arguments.cluster.empty()) return arguments.cluster == "run";
  const auto& rows = fit.selection.rows;
  return std::all_of(rows.begin(), rows.end(),
                     [&](size_t row) { return !data.rows[row].run.empty(); }) &&
         group_by_run(data, rows).names.size() > 1;
}

void run_fit(const FitArguments& arguments) {
  LawReport report;
  report.data = arguments.read();
  const FormInfo& form = find_law_form(arguments.form);
  const FitOptions options = arguments.fit_options(form.default_objective);
  const RowRules rules = arguments.row_rules();
  if (!arguments.preset.empty()) {
    report.preset = &find_law_preset(arguments.preset);
    require(report.preset->form == form.name, "preset {} has constants of form {}, not of {}",
            arguments.preset, report.preset->form, form.name);
  }
  report.fit = fit_law(report.data, form, options, rules);
  const bool runs = by_run(arguments, report.data, report.fit);
  if (arguments.bootstrap.draws > 0) {
    BootstrapOptions bootstrap_options = arguments.bootstrap;
    bootstrap_options.by_run = runs;
    report.bootstrap = bootstrap(report.data, report.fit, bootstrap_options);
    apply_bootstrap(*report.bootstrap, report.fit);
    if (!runs) {
      report.fit.warnings.push_back(
          "rows were resampled one by one, as if checkpoints of one run were independent: "
          "intervals are too narrow for conclusions");
    }
  }
  report.alternatives = alternative_fits(report.data, form, options, rules);
  const bool few_runs =
      runs && group_by_run(report.data, report.fit.selection.rows).names.size() < kFewRuns;
  if (runs && (arguments.hold_out || few_runs)) {
    report.left_out = leave_one_run_out(report.data, report.fit);
  }
  if (arguments.hold_out) report.extrapolation = extrapolate(report.data, report.fit);
  if (arguments.profile) report.profiles = profile_intervals(report.data, report.fit);

  Json document = to_json(report);
  document["vocab"] = vocabulary_of(report.data, rules);
  if (!arguments.output.empty()) write_file_atomically(arguments.output, document.dump(1) + "\n");
  if (arguments.json) {
    fmt::print("{}\n", document.dump(2));
  } else {
    print_report(report);
  }
}

void run_compare(const CompareArguments& arguments) {
  const LawData data = arguments.read();
  std::vector<std::string> forms = arguments.forms;
  if (forms.empty()) forms = default_comparison(find_law_form(arguments.form).quantity);
  const Comparison comparison =
      compare_forms(data, forms, arguments.fit_options(FitObjective::log), arguments.row_rules());
  if (arguments.json) {
    fmt::print("{}\n", to_json(comparison, data).dump(2));
  } else {
    print_comparison(comparison);
  }
}

void run_list(bool json) {
  Json forms = Json::array(), presets = Json::array(), columns = Json::array();
  for (const FormInfo& form : law_forms()) {
    if (!json) {
      fmt::print("form   {:<20} {:<7} {}\n{:>35}{}\n", form.name, law_quantity_name(form.quantity),
                 form.equation, "", form.source);
    }
    forms.push_back({{"name", form.name},
                     {"quantity", law_quantity_name(form.quantity)},
                     {"summary", form.summary},
                     {"equation", form.equation},
                     {"objective", fit_objective_name(form.default_objective)},
                     {"source", form.source}});
  }
  for (const LawPreset& preset : law_presets()) {
    if (!json) {
      fmt::print("preset {:<20} {}{}\n{:>27} ({})\n", preset.name, preset.summary,
                 preset.complete() ? "" : " [incomplete: to compare with only]", "", preset.source);
    }
    presets.push_back({{"name", preset.name},
                       {"form", preset.form},
                       {"summary", preset.summary},
                       {"complete", preset.complete()},
                       {"source", preset.source}});
    for (const auto& [name, value] : preset.values) presets.back()["values"][name] = value;
  }
  for (const LawColumn& column : law_columns()) {
    if (!json) fmt::print("column {:<20} {}\n", column.name, column.meaning);
    columns.push_back(
        {{"name", column.name}, {"aliases", column.aliases}, {"meaning", column.meaning}});
  }
  if (json) {
    fmt::print("{}\n", Json{{"forms", forms}, {"presets", presets}, {"columns", columns}}.dump(2));
  }
}

void add_row_options(CLI::App* verb, RowArguments& arguments) {
  RowRules& rules = arguments.rules;
  FitOptions& options = arguments.options;
  verb->add_option("csv", arguments.csv,
                   "rows: run, N, D, bits, qid, qid_se, loss16, ... (fewbit law list)")
      ->required();
  verb->add_option("--where", arguments.where,
                   "only rows with column=value; may be repeated (method=gptq)");
  verb->add_option("--form", arguments.form, "form to fit (default unified; fewbit law list)");
  verb->add_option("--objective", arguments.objective,
                   "log, linear, weighted or huber (default: that of the form)");
  verb->add_option("--floor", options.floor, "noise floor of QiD from evaluation, nats (default 0)")
      ->check(CLI::Range(0.0, 100.0));
  verb->add_option("--relative-scatter", options.relative_scatter,
                   "weighted: scatter of QiD from run to run (default 0.15)")
      ->check(CLI::Range(0.0, 10.0));
  verb->add_option("--huber-delta", options.huber_delta,
                   "huber: where it turns linear (default 0.1 for QiD, 0.001 for losses)")
      ->check(CLI::PositiveNumber);
  verb->add_option("--vocabulary", rules.vocab, "entries, where the rows do not say")
      ->check(CLI::Range(0.0, 1e9));
  verb->add_option("--saturation", rules.saturation,
                   "leave out QiD from this share of ln V - loss16 on (default 0.5)")
      ->check(CLI::PositiveNumber);
  verb->add_option("--noise-multiple", rules.noise_multiple,
                   "log, huber: leave out QiD up to so many standard errors (default 3)")
      ->check(CLI::Range(0.0, 100.0));
  verb->add_option("--min-tokens", rules.min_tokens, "leave out earlier checkpoints");
  verb->add_option("--max-loss16", rules.max_loss16, "leave out checkpoints with a higher loss");
  verb->add_option("--drop-largest", rules.drop_largest_losses,
                   "loss laws: leave out the so many largest losses");
}

void add_law_fit(CLI::App& verb) {
  CLI::App* fit = verb.add_subcommand("fit", "Fit a form to the rows of a CSV file");
  auto a = std::make_shared<FitArguments>();
  add_row_options(fit, *a);
  fit->add_option("--bootstrap", a->bootstrap.draws, "draws; 0: none (default 1000)")
      ->check(CLI::Range(size_t{0}, size_t{1000000}));
  fit->add_option("--cluster", a->cluster,
                  "what is resampled: run or row (default: run where there are several)")
      ->check(CLI::IsMember({"run", "row"}));
  fit->add_option("--seed", a->bootstrap.seed, "of the bootstrap (default 0)");
  fit->add_option("--level", a->bootstrap.level, "of the bootstrap intervals (default 0.95)")
      ->check(CLI::Range(0.5, 0.999));
  fit->add_option("--preset", a->preset, "published constants to print beside the fit");
  fit->add_flag("--hold-out", a->hold_out,
                "also leave out each run in turn, and extrapolate to the larger and later half");
  fit->add_flag("--profile", a->profile, "also profile likelihood intervals");
  fit->add_option("-o,--output", a->output, "write the fit as JSON, for law predict");
  fit->add_flag("--json", a->json, "machine-readable");
  fit->footer(
      "Examples:\n"
      "  fewbit law fit rows.csv --where method=gptq --preset ouyang-unified -o gptq.json\n"
      "  fewbit law fit rows.csv --where method=gptq --form per_bits --objective log --hold-out\n"
      "  fewbit law fit chinchilla.csv --form chinchilla --drop-largest 5 --preset epoch");
  fit->callback([a] { run_fit(*a); });
}

void add_law_compare(CLI::App& verb) {
  CLI::App* compare = verb.add_subcommand("compare", "Forms side by side on the same rows");
  auto a = std::make_shared<CompareArguments>();
  add_row_options(compare, *a);
  compare
      ->add_option("--forms", a->forms,
                   "forms, with commas (default: the usual ones of the quantity of --form)")
      ->delimiter(',');
  compare->add_flag("--json", a->json, "machine-readable");
  compare->footer(
      "Examples:\n"
      "  fewbit law compare rows.csv --where method=gptq\n"
      "  fewbit law compare rows.csv --forms unified,exponential,categorical --objective log\n"
      "  fewbit law compare losses.csv --form kaplan");
  compare->callback([a] { run_compare(*a); });
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
  add_law_fit(*verb);
  add_law_compare(*verb);
  add_law_predict(*verb);
  add_law_table(*verb);
  CLI::App* list = verb->add_subcommand("list", "Forms, published constants and columns");
  auto json = std::make_shared<bool>(false);
  list->add_flag("--json", *json, "machine-readable");
  list->callback([json] { run_list(*json); });
}

}  // namespace fewbit::cli
