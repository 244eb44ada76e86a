#include "fewbit/study/report_data.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/base/version.h"
#include "fewbit/laws/bootstrap.h"
#include "fewbit/laws/fit.h"
#include "fewbit/laws/presets.h"
#include "fewbit/study/export.h"
#include "fewbit/study/report_page.h"

namespace fewbit {
namespace {

// Draws that the page gets for its bands; it reads no more.
constexpr size_t kPageDraws = 200;
constexpr double kReferenceBits = 16;
// Published fits that the page shows beside those of the study.
constexpr const char* kQidPreset = "ouyang-unified";

double number(const Json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && found->is_number() ? found->get<double>() : kMissing;
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// A row of the export as the page reads it: N, D and bits are there, unknown or not.
Json page_row(const Json& exported) {
  Json row;
  for (const char* key : {"checkpoint",
                          "run",
                          "N",
                          "D",
                          "lr",
                          "schedule",
                          "method",
                          "bits",
                          "group_size",
                          "bpw",
                          "model_bytes",
                          "dataset",
                          "loss16",
                          "loss",
                          "qid",
                          "qid_se",
                          "kl",
                          "kl_se",
                          "top1_agreement",
                          "perplexity",
                          "wall_seconds",
                          "peak_bytes",
                          "status",
                          "error"}) {
    if (exported.contains(key)) row[key] = exported.at(key);
  }
  for (const char* key : {"N", "D", "bits"}) {
    if (!row.contains(key)) row[key] = nullptr;
  }
  row["recipe"] = exported.value("recipe_text", "");
  if (exported.contains("train_seed")) row["seed"] = exported.at("train_seed");
  return row;
}

// The checkpoints themselves, as rows of 16 bits and more.
std::vector<Json> reference_rows(const StudyStore& store) {
  std::vector<Json> rows;
  for (const Job& job : store.jobs()) {
    if (job.kind != JobKind::reference) continue;
    const auto result = store.result(job.key);
    if (!result) continue;
    Json row = page_row(result->result);
    row["dataset"] = job.spec.at("dataset").at("name");
    row["method"] = "original";
    row["bits"] = kReferenceBits;
    row["loss"] = row["loss16"];
    row["status"] = job_state_name(job.state);
    rows.push_back(std::move(row));
  }
  return rows;
}

LawRow law_row(const Json& row, double vocabulary) {
  LawRow result;
  result.run = row.value("run", "");
  result.method = row.value("method", "");
  result.dataset = row.value("dataset", "");
  result.point = LawPoint(number(row, "N"), number(row, "D"), number(row, "bits"));
  result.qid = number(row, "qid");
  result.qid_se = number(row, "qid_se");
  result.loss16 = number(row, "loss16");
  result.loss = number(row, "loss");
  result.vocab = vocabulary;
  return result;
}

Json finite(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// The page names prefactors by their logarithm where the fit has it so.
Json fit_json(const LawData& data, const std::vector<size_t>& page_rows, FitResult fit,
              const ReportOptions& options, Json& notes, const std::string& name) {
  Json draws = Json::array();
  std::set<std::string> runs;
  for (const size_t row : fit.selection.rows) runs.insert(data.rows[row].run);
  if (options.bootstrap_draws > 0) {
    BootstrapOptions bootstrap_options;
    bootstrap_options.draws = options.bootstrap_draws;
    bootstrap_options.seed = options.seed;
    bootstrap_options.by_run = runs.size() > 1;
    const BootstrapResult result = bootstrap(data, fit, bootstrap_options);
    apply_bootstrap(result, fit);
    for (size_t d = 0; d < std::min(kPageDraws, result.reported.size()); ++d) {
      draws.push_back(result.reported[d]);
    }
  }
  Json params = Json::array();
  for (const ParameterEstimate& parameter : fit.parameters) {
    params.push_back({{"name", parameter.name},
                      {"value", parameter.value},
                      {"se", finite(parameter.standard_error)},
                      {"low", finite(parameter.low)},
                      {"high", finite(parameter.high)}});
  }
  Json points = Json::array();
  for (size_t i = 0; i < fit.selection.rows.size(); ++i) {
    points.push_back(
        {{"row", page_rows[fit.selection.rows[i]]}, {"predicted", finite(fit.predicted[i])}});
  }
  for (const std::string& warning : fit.warnings) notes.push_back(name + ": " + warning);
  return {
      {"name", name},
      {"form", fit.form().name},
      {"objective", fit_objective_name(fit.options.objective)},
      {"params", std::move(params)},
      {"n_rows", fit.n()},
      {"dropped", fit.selection.dropped.size()},
      {"r2", finite(std::isfinite(fit.goodness.r2_log) ? fit.goodness.r2_log : fit.goodness.r2)},
      {"rms_log_error", finite(fit.goodness.rms_log_error)},
      {"draws", std::move(draws)},
      {"points", std::move(points)}};
}

// Fits `form` to the chosen rows, or notes why that cannot be done.
void add_fit(Json& fits, Json& notes, const std::string& form, const std::string& name,
             const std::string& method, const std::string& dataset, const LawData& data,
             const std::vector<size_t>& page_rows, double vocabulary,
             const ReportOptions& options) {
  try {
    const FormInfo& info = find_law_form(form);
    FitOptions fit_options;
    fit_options.objective = info.default_objective;
    RowRules rules;
    rules.vocab = vocabulary;
    Json fit =
        fit_json(data, page_rows, fit_law(data, info, fit_options, rules), options, notes, name);
    if (!method.empty()) fit["method"] = method;
    fit["dataset"] = dataset;
    if (form == "unified") {
      for (const auto& [parameter, value] : find_law_preset(kQidPreset).values) {
        fit["paper"][parameter] = value;
      }
    }
    fits.push_back(std::move(fit));
  } catch (const Error& error) {
    notes.push_back(name + ": not fitted: " + error.what());
  }
}

// The plan's title.
std::string title_of(const StudyStore& store) {
  try {
    const toml::table plan = toml::parse(std::string_view(store.plan_text()));
    return plan["title"].value_or(store.directory().filename().string());
  } catch (const toml::parse_error&) {
    return store.directory().filename().string();
  }
}

}  // namespace

Json report_data(const StudyStore& store, const ReportOptions& options) {
  Json rows = Json::array(), fits = Json::array(), loss_fits = Json::array(), notes = Json::array();
  double vocabulary = kMissing;
  // Rows by method and data set, in order of appearance.
  std::vector<std::pair<std::string, std::string>> groups;
  std::map<std::pair<std::string, std::string>, std::vector<size_t>> members;
  for (const Json& exported : study_rows(store)) {
    if (std::isnan(vocabulary)) vocabulary = number(exported, "vocab_size");
    Json row = page_row(exported);
    if (row.value("status", "") == "done" && row["D"].is_number()) {
      const std::pair<std::string, std::string> group = {row.value("method", ""),
                                                         row.value("dataset", "")};
      auto& list = members[group];
      if (list.empty()) groups.push_back(group);
      list.push_back(rows.size());
    }
    rows.push_back(std::move(row));
  }
  // Methods with a choice of bit widths first: theirs is the law of the headline.
  const auto widths = [&](const std::pair<std::string, std::string>& group) {
    std::set<double> bits;
    for (const size_t row : members[group]) bits.insert(number(rows[row], "bits"));
    return bits.size();
  };
  std::stable_sort(groups.begin(), groups.end(), [&](const auto& a, const auto& b) {
    return std::make_tuple(widths(a) > 1, a.first == "gptq") >
           std::make_tuple(widths(b) > 1, b.first == "gptq");
  });
  for (const auto& group : groups) {
    LawData data{store.directory().string(), {}};
    for (const size_t row : members[group]) data.rows.push_back(law_row(rows[row], vocabulary));
    if (widths(group) < 2) continue;  // One bit width says nothing about gamma.
    add_fit(fits, notes, "unified", group.first + ", " + group.second, group.first, group.second,
            data, members[group], vocabulary, options);
  }

  std::map<std::string, std::vector<size_t>> references;
  for (Json& row : reference_rows(store)) {
    if (row["D"].is_number()) references[row.at("dataset")].push_back(rows.size());
    rows.push_back(std::move(row));
  }
  for (const auto& [dataset, list] : references) {
    LawData data{store.directory().string(), {}};
    for (const size_t row : list) data.rows.push_back(law_row(rows[row], vocabulary));
    for (const char* form : {"chinchilla", "kaplan"}) {
      add_fit(loss_fits, notes, form, fmt::format("{}, {}", form, dataset), "", dataset, data, list,
              vocabulary, options);
    }
  }
  return {{"schema", kReportSchema},
          {"title", title_of(store)},
          {"generated", utc_now()},
          {"fewbit_version", kVersion},
          {"vocab_size", finite(vocabulary)},
          {"rows", std::move(rows)},
          {"fits", std::move(fits)},
          {"loss_fits", std::move(loss_fits)},
          {"notes", std::move(notes)},
          {"environment",
           {{"study", store.directory().string()},
            {"bootstrap draws", options.bootstrap_draws},
            {"bootstrap seed", options.seed}}}};
}

std::string fit_summary(const Json& report) {
  std::string text;
  for (const Json& fit : report.at("fits")) {
    text += fmt::format("{}: QiD = k D^beta / (N^alpha P^gamma), {} rows of {}, R2 {:.3f}\n",
                        fit.at("name").get<std::string>(), fit.at("n_rows").get<size_t>(),
                        fit.at("n_rows").get<size_t>() + fit.at("dropped").get<size_t>(),
                        number(fit, "r2"));
    for (const char* name : {"beta", "alpha", "gamma"}) {
      for (const Json& parameter : fit.at("params")) {
        if (parameter.at("name") != name) continue;
        const double low = number(parameter, "low"), high = number(parameter, "high");
        text += fmt::format("  {:<6} {:8.4f}  95 % [{:.4f}, {:.4f}]  published {:.4f}  {}\n", name,
                            number(parameter, "value"), low, high,
                            number(fit.value("paper", Json::object()), name),
                            low > 0    ? "sign as published"
                            : high < 0 ? "sign opposite to the published one"
                                       : "sign not resolved");
      }
    }
  }
  for (const Json& note : report.at("notes")) text += "note: " + note.get<std::string>() + "\n";
  if (!text.empty()) text.pop_back();
  return text;
}

}  // namespace fewbit
