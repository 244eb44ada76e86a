// Golden cases of the laws: each is told by its tensors, and every part that it has is checked.
// Reference numbers come from an independent NumPy/SciPy implementation in double precision, on
// inputs stored as 32-bit floats.
#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cmath>
#include <set>
#include <sstream>

#include "fewbit/base/file.h"
#include "fewbit/base/json.h"
#include "fewbit/io/safetensors.h"
#include "fewbit/laws/bootstrap.h"
#include "fewbit/laws/capacity.h"
#include "fewbit/laws/fit.h"
#include "fewbit/laws/fit_statistics.h"
#include "fewbit/laws/holdout.h"
#include "fewbit/laws/kumar.h"
#include "fewbit/laws/predict.h"
#include "fewbit/laws/presets.h"
#include "fewbit/laws/refit.h"
#include "fewbit/laws/weight_fluctuation.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

constexpr double kLogFit = 1e-7, kFloatTensor = 1e-6, kLinearFit = 1e-5;

void expect_relative(double actual, double expected, double tolerance, const std::string& what) {
  EXPECT_LE(std::abs(actual - expected), tolerance * std::abs(expected))
      << what << ": " << actual << " instead of " << expected;
}

class LawFixture {
 public:
  explicit LawFixture(const std::filesystem::path& path) : file_(SafetensorsFile::open(path)) {}

  bool has(const std::string& tensor) const { return file_.contains(tensor); }
  bool has_value(const std::string& key) const { return file_.metadata().contains(key); }
  std::vector<double> column(const std::string& name) const {
    const auto floats = to_floats(file_.tensor(name));
    return {floats.begin(), floats.end()};
  }
  std::vector<float> floats(const std::string& name) const { return to_floats(file_.tensor(name)); }
  std::vector<int64_t> integers(const std::string& name) const {
    return to_integers(file_.tensor(name));
  }
  const std::vector<size_t>& shape(const std::string& name) const {
    return file_.tensor(name).shape;
  }
  double value(const std::string& key) const { return std::stod(file_.metadata(key)); }
  std::string text(const std::string& key) const { return file_.metadata(key); }
  std::vector<double> list(const std::string& key) const {
    std::vector<double> values;
    std::stringstream stream(text(key));
    for (std::string item; std::getline(stream, item, ',');) values.push_back(std::stod(item));
    return values;
  }

  // Rows with N, D and the given further columns.
  LawData rows(LawQuantity quantity, const std::string& value_column,
               std::vector<std::pair<LawVariable, std::string>> more = {}) const {
    const auto params = column("N"), tokens = column("D"), values = column(value_column);
    LawData data;
    data.source = "fixture";
    data.rows.resize(params.size());
    for (size_t i = 0; i < params.size(); ++i) {
      data.rows[i].point = LawPoint(params[i], tokens[i]);
      (quantity == LawQuantity::qid      ? data.rows[i].qid
       : quantity == LawQuantity::loss16 ? data.rows[i].loss16
                                         : data.rows[i].loss) = values[i];
    }
    for (const auto& [variable, name] : more) {
      const auto numbers = column(name);
      for (size_t i = 0; i < numbers.size(); ++i) data.rows[i].point.set(variable, numbers[i]);
    }
    if (has("run_id")) {
      const auto runs = integers("run_id");
      for (size_t i = 0; i < runs.size(); ++i) data.rows[i].run = std::to_string(runs[i]);
    }
    return data;
  }

 private:
  SafetensorsFile file_;
};

const std::pair<LawVariable, std::string> kBits{LawVariable::bits, "P"};

FitResult fit(const LawData& data, const std::string& form, FitObjective objective) {
  FitOptions options;
  options.objective = objective;
  return fit_law(data, find_law_form(form), options, RowRules{});
}

LawData subset(const LawData& data, const std::vector<bool>& use) {
  LawData result;
  result.source = data.source;
  for (size_t i = 0; i < use.size(); ++i) {
    if (use[i]) result.rows.push_back(data.rows[i]);
  }
  return result;
}

std::vector<bool> mask(const LawFixture& fixture, const std::string& name) {
  std::vector<bool> result;
  for (const int64_t value : fixture.integers(name)) result.push_back(value != 0);
  return result;
}

// Law A -------------------------------------------------------------------------------------------

const std::vector<std::string> kLawA = {"ln_k", "beta", "alpha", "gamma"};

void check_values(const LawFixture& fixture, const std::string& prefix,
                  const std::vector<std::string>& names, std::span<const double> actual,
                  double tolerance) {
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string key = prefix + names[i];
    if (fixture.has_value(key)) expect_relative(actual[i], fixture.value(key), tolerance, key);
  }
}

void check_float_tensor(const LawFixture& fixture, const std::string& name,
                        std::span<const double> actual, double tolerance = kFloatTensor) {
  if (!fixture.has(name)) return;
  const auto expected = fixture.column(name);
  ASSERT_EQ(expected.size(), actual.size()) << name;
  for (size_t i = 0; i < expected.size(); ++i) {
    expect_relative(actual[i], expected[i], tolerance, name + " " + std::to_string(i));
  }
}

void check_statistics(const LawFixture& fixture, const std::string& prefix,
                      const GoodnessOfFit& goodness, double tolerance) {
  check_values(fixture, prefix, {"r2", "rss", "loglik", "aic", "aicc", "bic", "k_params"},
               std::vector<double>{goodness.r2, goodness.rss, goodness.log_likelihood, goodness.aic,
                                   goodness.aicc, goodness.bic,
                                   static_cast<double>(goodness.counted_parameters)},
               tolerance);
}

void check_noise_free(const LawFixture& fixture, const LawData& data) {
  for (const auto objective : {FitObjective::log, FitObjective::linear, FitObjective::weighted}) {
    const FitResult result = fit(data, "unified", objective);
    const std::string what(fit_objective_name(objective));
    EXPECT_NEAR(result.law.fitted[0], std::log(fixture.value("k_true")),
                1e-4 * std::abs(std::log(fixture.value("k_true"))))
        << what;
    expect_relative(result.law.fitted[1], fixture.value("beta_true"), 1e-5, what);
    expect_relative(result.law.fitted[2], fixture.value("alpha_true"), 1e-5, what);
    expect_relative(result.law.fitted[3], fixture.value("gamma_true"), 1e-5, what);
  }
}

// Refits of given resamples; `counts_of(draw)` makes the counts.
template <class CountsOf>
void check_refits(const LawFixture& fixture, const LawData& data, const FitResult& full,
                  size_t draws, const std::string& prefix, const std::string& params_name,
                  CountsOf counts_of) {
  const FitProblem problem = problem_of(data, full);
  const auto expected = fixture.column(params_name);
  std::vector<std::vector<double>> columns(full.law.fitted.size());
  for (size_t draw = 0; draw < draws; ++draw) {
    const auto solution = refit(problem, full.options.for_quantity(full.form().quantity),
                                problem.to_solver(full.law.fitted), counts_of(draw));
    ASSERT_TRUE(solution) << params_name << " " << draw;
    const auto fitted = problem.to_fitted(solution->z);
    for (size_t j = 0; j < fitted.size(); ++j) {
      columns[j].push_back(fitted[j]);
      expect_relative(fitted[j], expected[draw * fitted.size() + j], kFloatTensor,
                      params_name + " " + std::to_string(draw));
    }
  }
  for (size_t j = 0; j < columns.size(); ++j) {
    const Interval interval = percentile_interval(columns[j], 0.95);
    if (fixture.has(prefix + "_ci95")) {
      const auto expected_interval = fixture.column(prefix + "_ci95");
      expect_relative(interval.low, expected_interval[j], kFloatTensor, prefix + " low");
      expect_relative(interval.high, expected_interval[columns.size() + j], kFloatTensor,
                      prefix + " high");
    }
    if (fixture.has(prefix + "_se")) {
      expect_relative(
          mean_estimate(columns[j]).standard_error * std::sqrt(static_cast<double>(draws)),
          fixture.column(prefix + "_se")[j], kFloatTensor, prefix + " se");
    }
  }
}

void check_bootstraps(const LawFixture& fixture, const LawData& data, const FitResult& full) {
  if (fixture.has("boot_indices")) {
    const auto indices = fixture.integers("boot_indices");
    const size_t draws = fixture.shape("boot_indices")[0], size = fixture.shape("boot_indices")[1];
    check_refits(fixture, data, full, draws, "boot", "boot_logols_params", [&](size_t draw) {
      const auto first = indices.begin() + static_cast<std::ptrdiff_t>(draw * size);
      return resample_counts(
          std::vector<uint32_t>(first, first + static_cast<std::ptrdiff_t>(size)), full.n());
    });
  }
  if (fixture.has("cluster_indices")) {
    const auto indices = fixture.integers("cluster_indices");
    const auto runs = fixture.integers("run_id");
    const size_t draws = fixture.shape("cluster_indices")[0],
                 size = fixture.shape("cluster_indices")[1];
    check_refits(fixture, data, full, draws, "cluster", "cluster_params", [&](size_t draw) {
      std::vector<uint32_t> counts(full.n(), 0);
      for (size_t k = 0; k < size; ++k) {
        for (size_t row = 0; row < runs.size(); ++row) {
          counts[row] += runs[row] == indices[draw * size + k];
        }
      }
      return counts;
    });
  }
}

void check_hold_outs(const LawFixture& fixture, const LawData& data, const FitResult& full) {
  if (fixture.has("leave_one_run_out")) {
    const auto expected = fixture.column("leave_one_run_out");
    const auto fits = leave_one_run_out(data, full);
    ASSERT_EQ(fits.size(), fixture.shape("leave_one_run_out")[0]);
    for (size_t run = 0; run < fits.size(); ++run) {
      std::vector<double> row = fits[run].fitted;
      row.push_back(fits[run].errors.rms_log_error);
      for (size_t j = 0; j < row.size(); ++j) {
        expect_relative(row[j], expected[run * row.size() + j], kFloatTensor,
                        "leave out " + fits[run].left_out);
      }
    }
  }
  if (!fixture.has_value("extrap_N_max")) return;
  const Extrapolation split =
      extrapolate(data, full, fixture.value("extrap_N_max"), fixture.value("extrap_D_max"));
  check_values(fixture, "extrap_", kLawA, split.fit.fitted, kLogFit);
  EXPECT_EQ(static_cast<double>(split.fit.train_rows), fixture.value("extrap_n_train"));
  EXPECT_EQ(static_cast<double>(split.fit.errors.rows), fixture.value("extrap_n_test"));
  expect_relative(split.fit.errors.rms_log_error, fixture.value("extrap_rms_log_err"), kLogFit,
                  "extrapolation");
  expect_relative(split.fit.errors.mean_abs_relative_error,
                  fixture.value("extrap_mean_abs_rel_err"), kLogFit, "extrapolation");
}

void check_qid_law(const LawFixture& fixture) {
  const LawData data = fixture.rows(LawQuantity::qid, "qid", {kBits});
  if (fixture.value("lognormal_sigma") == 0) return check_noise_free(fixture, data);

  const FitResult log_fit = fit(data, "unified", FitObjective::log);
  check_values(fixture, "logols_", kLawA, log_fit.law.fitted, kLogFit);
  check_statistics(fixture, "logols_", log_fit.goodness, kLogFit);
  check_float_tensor(fixture, "logols_params", log_fit.law.fitted);
  check_float_tensor(fixture, "logols_se", log_fit.fitted_errors);

  const FitResult linear = fit(data, "unified", FitObjective::linear);
  check_values(fixture, "linnls_", kLawA, linear.law.fitted, kLinearFit);
  check_statistics(fixture, "linnls_", linear.goodness, kLinearFit);
  check_float_tensor(fixture, "linnls_params", linear.law.fitted, kLinearFit);
  check_float_tensor(fixture, "linnls_se", linear.fitted_errors, kLinearFit);
  EXPECT_GE(linear.starts_reaching_best, 1u);

  const FitResult exponential = fit(data, "exponential", FitObjective::log);
  check_values(fixture, "expform_", {"ln_CT", "gamma_D", "gamma_N", "inv_gamma_post"},
               exponential.law.fitted, kLogFit);
  check_statistics(fixture, "expform_", exponential.goodness, kLogFit);

  const FitResult categorical = fit(data, "categorical", FitObjective::log);
  check_statistics(fixture, "catform_", categorical.goodness, kLogFit);
  std::vector<std::string> names;
  for (const FormLevel& level : categorical.law.form.levels) {
    names.push_back(fmt::format("ln_k_P{:g}", level[0]));
  }
  names.insert(names.end(), {"beta", "alpha"});
  check_values(fixture, "catform_", names, categorical.law.fitted, kLogFit);

  check_bootstraps(fixture, data, log_fit);
  check_hold_outs(fixture, data, log_fit);
}

// Saturated and floor-level rows: `use`, `pos` masks and the weighted objective.
void check_rules(const LawFixture& fixture) {
  LawData data = fixture.rows(LawQuantity::qid, "qid", {kBits});
  const auto loss16 = fixture.column("loss16");
  for (size_t i = 0; i < loss16.size(); ++i) data.rows[i].loss16 = loss16[i];
  RowRules rules;
  rules.vocab = fixture.value("vocab");
  FitOptions options;
  options.floor = rules.floor = fixture.value("sigma_floor");
  options.relative_scatter = fixture.value("rel_sigma");

  const FormInfo& form = find_law_form("unified");
  const auto check_mask = [&](FitObjective objective, const std::string& name) {
    std::vector<bool> used(data.rows.size(), false);
    for (const size_t row : select_rows(data, form, objective, rules).rows) used[row] = true;
    EXPECT_EQ(used, mask(fixture, name)) << name;
  };
  check_mask(FitObjective::weighted, "use");
  check_mask(FitObjective::log, "pos");

  const FitResult weighted = fit_law(data, form, options, rules);
  check_values(fixture, "weighted_", kLawA, weighted.law.fitted, kLinearFit);
  check_values(fixture, "weighted_se_", kLawA, weighted.fitted_errors, kLinearFit);
  if (fixture.has_value("chi2")) {
    expect_relative(weighted.goodness.chi2, fixture.value("chi2"), kLinearFit, "chi2");
  }
  options.objective = FitObjective::log;
  const FitResult positive = fit_law(data, form, options, rules);
  check_values(fixture, "logols_pos_", kLawA, positive.law.fitted, kFloatTensor);
  FitOptions naive_options;
  naive_options.objective = FitObjective::log;
  RowRules naive_rules;
  naive_rules.saturation = std::numeric_limits<double>::infinity();
  const FitResult naive = fit_law(data, form, naive_options, naive_rules);
  check_values(fixture, "logols_naive_", kLawA, naive.law.fitted, kFloatTensor);
}

// Laws of the loss --------------------------------------------------------------------------------

void check_kaplan(const LawFixture& fixture) {
  const LawData data = fixture.rows(LawQuantity::loss16, "loss");
  const FitResult result = fit(data, "kaplan", FitObjective::log);
  expect_relative(result.objective, fixture.value("fit_obj"), 1e-6, "objective");
  const std::vector<std::string> names = {"ln_Nc", "ln_Dc", "aN", "aD"};
  const std::vector<double> tolerances = {1e-3, 1e-3, 1e-4, 1e-4};
  for (size_t i = 0; i < names.size(); ++i) {
    expect_relative(result.parameters[i].value, fixture.value("fit_" + names[i]), tolerances[i],
                    names[i]);
    expect_relative(result.parameters[i].standard_error, fixture.value("se_" + names[i]), 1e-2,
                    names[i] + " se");
  }
  if (fixture.has("param_corr")) {
    const auto expected = fixture.column("param_corr");
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(result.correlation.values()[i], expected[i], 1e-2) << "correlation " << i;
    }
  }
  check_float_tensor(fixture, "fit_pred", result.predicted, 1e-5);
}

void check_chinchilla(const LawFixture& fixture) {
  const LawData all = fixture.rows(LawQuantity::loss16, "loss");
  const std::vector<bool> used =
      fixture.has("used") ? mask(fixture, "used") : std::vector<bool>(all.rows.size(), true);
  const LawData data = subset(all, used);
  const FitResult result = fit(data, "chinchilla", FitObjective::huber);
  const auto& at = result.law.fitted;  // a, b, e, alpha, beta
  EXPECT_LE(result.objective, fixture.value("fit_objective") * (1 + 1e-4));
  expect_relative(std::exp(at[0]), std::exp(fixture.value("fit_a")), 0.02, "A");
  expect_relative(std::exp(at[1]), std::exp(fixture.value("fit_b")), 0.03, "B");
  expect_relative(std::exp(at[2]), std::exp(fixture.value("fit_e")), 1e-3, "E");
  expect_relative(at[3], fixture.value("fit_alpha"), 5e-3, "alpha");
  expect_relative(at[4], fixture.value("fit_beta"), 5e-3, "beta");
  if (fixture.has("pred")) {
    const auto expected = fixture.column("pred");
    for (size_t i = 0; i < expected.size(); ++i) {
      expect_relative(result.law.value(all.rows[i].point), expected[i], 1e-3, "pred");
    }
  }
  const ObjectiveOptions objective = result.options.for_quantity(LawQuantity::loss16);
  if (fixture.has_value("fit_all_objective")) {
    EXPECT_NEAR(fit(all, "chinchilla", FitObjective::huber).objective,
                fixture.value("fit_all_objective"), 1e-3 * fixture.value("fit_all_objective"));
  }
  if (fixture.has_value("objective_at_hoffmann_unrounded")) {
    const FitProblem problem = problem_of(data, result);
    const auto objective_of = [&](const std::string& preset) {
      return objective_at(problem, objective,
                          problem.to_solver(law_of(find_law_preset(preset)).fitted));
    };
    expect_relative(objective_of("hoffmann"), fixture.value("objective_at_hoffmann_unrounded"),
                    1e-6, "unrounded Hoffmann");
    expect_relative(objective_of("hoffmann-rounded"),
                    fixture.value("objective_at_hoffmann_rounded"), 1e-6, "rounded Hoffmann");
  }
  if (fixture.has("boot_indices")) {
    const FitProblem problem = problem_of(data, result);
    const auto indices = fixture.integers("boot_indices");
    const auto params = fixture.column("boot_params"),
               objectives = fixture.column("boot_objective");
    const size_t draws = fixture.shape("boot_indices")[0], size = fixture.shape("boot_indices")[1];
    for (size_t draw = 0; draw < draws; ++draw) {
      const auto first = indices.begin() + static_cast<std::ptrdiff_t>(draw * size);
      const auto counts =
          resample_counts(std::vector<uint32_t>(first, first + static_cast<std::ptrdiff_t>(size)),
                          data.rows.size());
      const auto solution = refit(problem, objective, problem.to_solver(at), counts);
      ASSERT_TRUE(solution);
      EXPECT_LE(solution->objective, objectives[draw] * (1 + 1e-3)) << "draw " << draw;
      for (size_t j = 0; j < at.size(); ++j) {
        expect_relative(solution->z[static_cast<Eigen::Index>(j)], params[draw * at.size() + j],
                        0.05, fmt::format("draw {} parameter {}", draw, j));
      }
    }
  }
  if (fixture.has_value("extrap_flop_max")) {
    std::vector<bool> train, test;
    for (const LawRow& row : data.rows) {
      const double flop = 6 * row.point[LawVariable::params] * row.point[LawVariable::tokens];
      train.push_back(flop <= fixture.value("extrap_flop_max"));
      test.push_back(!train.back());
    }
    const FitResult part = fit(subset(data, train), "chinchilla", FitObjective::huber);
    const auto expected = fixture.list("extrap_fit");
    expect_relative(part.law.fitted[3], expected[3], 5e-3, "extrapolation alpha");
    expect_relative(part.law.fitted[4], expected[4], 5e-3, "extrapolation beta");
    std::vector<double> predicted, observed;
    for (const LawRow& row : subset(data, test).rows) {
      predicted.push_back(part.law.value(row.point));
      observed.push_back(row.loss16);
    }
    const HoldOutErrors errors = hold_out_errors(predicted, observed);
    expect_relative(errors.rms_log_error, fixture.value("extrap_rms_log_err"), 1e-2,
                    "extrapolation");
    EXPECT_EQ(static_cast<double>(errors.rows), fixture.value("extrap_n_test"));
  }
}

void check_kumar(const LawFixture& fixture) {
  const LawData data = fixture.rows(LawQuantity::loss, "loss", {{LawVariable::train_bits, "Pw"}});
  const FitResult result = fit(data, "low_precision", FitObjective::log);
  expect_relative(result.objective, fixture.value("fit_objective"), 1e-5, "objective");
  const std::vector<std::string> names = {"A", "B", "E", "alpha", "gamma_w", "n_w"};
  for (size_t i = 0; i < names.size(); ++i) {
    const double value = i < 3 ? std::exp(result.parameters[i].value) : result.parameters[i].value;
    expect_relative(value, fixture.value("fit_" + names[i]), 1e-3, names[i]);
  }
  EXPECT_GE(result.starts_reaching_best, 50u);
  const auto errors = fixture.list("fit_se");
  for (size_t i = 0; i < errors.size(); ++i) {
    expect_relative(result.fitted_errors[i], errors[i], 1e-2, "se " + names[i]);
  }

  const auto constant = [&](const std::string& key, double fallback) {
    return fixture.has_value("true_" + key) ? fixture.value("true_" + key) : fallback;
  };
  KumarConstants c;
  c = {constant("A", c.a),
       constant("B", c.b),
       constant("E", c.e),
       constant("alpha", c.alpha),
       {constant("gw", c.weights.gamma), constant("nw", c.weights.offset)},
       {constant("gi", c.activations.gamma), constant("ni", c.activations.offset)},
       {constant("gkv", c.cache.gamma), constant("nkv", c.cache.offset)},
       constant("CT", c.c_t),
       constant("gD", c.gamma_d),
       constant("gN", c.gamma_n),
       constant("gp", c.gamma_post),
       0};
  if (fixture.has("neff_factor_table")) {
    const auto table = fixture.column("neff_factor_table");
    for (size_t i = 0; i + 3 < table.size(); i += 4) {
      const double bits = table[i];
      expect_relative(unchecked_precision_factor(c.weights, bits), table[i + 1], 1e-5, "f_w");
      expect_relative(unchecked_precision_factor(c.activations, bits), table[i + 2], 1e-5, "f_i");
      expect_relative(unchecked_precision_factor(c.cache, bits), table[i + 3], 1e-5, "f_kv");
    }
  }
  if (fixture.has("critical_D_table")) {
    const auto table = fixture.column("critical_D_table");
    KumarConstants with_offset = c;
    with_offset.post_offset = constant("b", kKumarPostOffset);
    for (size_t i = 0; i + 3 < table.size(); i += 4) {
      expect_relative(critical_tokens(c, table[i], table[i + 1]), table[i + 2], 1e-5, "D_crit");
      expect_relative(critical_tokens(with_offset, table[i], table[i + 1]), table[i + 3], 1e-5,
                      "D_crit with offset");
    }
  }
  if (fixture.has_value("optimal_P_separate")) {
    EXPECT_NEAR(optimal_train_bits({c.weights, c.activations, c.cache}),
                fixture.value("optimal_P_separate"), 1e-3);
  }
  if (fixture.has_value("optimal_P_mean")) {
    const PrecisionPart mean{(c.weights.gamma + c.activations.gamma + c.cache.gamma) / 3,
                             (c.weights.offset + c.activations.offset + c.cache.offset) / 3};
    EXPECT_NEAR(optimal_train_bits({mean, mean, mean}), fixture.value("optimal_P_mean"), 1e-3);
  }
}

// Law G -------------------------------------------------------------------------------------------

// The settings of a case are its tensors delta_X.
std::vector<std::string> settings_of(const std::filesystem::path& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::vector<std::string> settings;
  for (const TensorView& tensor : file.tensors()) {
    if (tensor.name.starts_with("delta_")) settings.push_back(tensor.name.substr(6));
  }
  return settings;
}

void check_group_law(const LawFixture& fixture, const std::filesystem::path& path) {
  for (const std::string& setting : settings_of(path)) {
    SCOPED_TRACE(setting);
    const LawData data =
        fixture.rows(LawQuantity::qid, "delta_" + setting, {{LawVariable::group_size, "G"}});
    const FitResult with = fit(data, "qat_group", FitObjective::log);
    const std::string prefix = setting + "_";
    check_values(fixture, prefix + "fit_", {"ln_k", "gN", "gD", "gG"}, with.law.fitted,
                 kFloatTensor);
    check_values(fixture, prefix, {"r2", "aic", "mean_rel_err"},
                 std::vector<double>{with.goodness.r2, with.goodness.aic,
                                     with.goodness.mean_abs_relative_error},
                 kFloatTensor);
    const FitResult without = fit(data, "qat_group_no_tokens", FitObjective::log);
    check_values(
        fixture, prefix, {"aic_without_D", "mean_rel_err_without_D"},
        std::vector<double>{without.goodness.aic, without.goodness.mean_abs_relative_error},
        kFloatTensor);
    if (!fixture.has("true_" + setting) || !fixture.has_value("constants")) continue;
    // "W4A4 k=0.1582 gN=0.2186 ...; ..."
    std::stringstream stream(fixture.text("constants"));
    for (std::string entry; std::getline(stream, entry, ';');) {
      std::stringstream words(entry);
      std::string name;
      words >> name;
      if (name != setting) continue;
      std::map<std::string, double> constants;
      for (std::string word; words >> word;) {
        const size_t equals = word.find('=');
        constants[word.substr(0, equals)] = std::stod(word.substr(equals + 1));
      }
      Law law{with.law.form,
              {std::log(constants.at("k")), constants.at("gN"), constants.at("gD"),
               constants.at("gG")}};
      const auto expected = fixture.column("true_" + setting);
      for (size_t i = 0; i < expected.size(); ++i) {
        expect_relative(law.value(data.rows[i].point), expected[i], kFloatTensor, "true");
      }
    }
  }
}

// Table 1 -----------------------------------------------------------------------------------------

constexpr double kTrillion = 1e12;

// The law per bit width from the case's full-precision constants.
Law per_bits_of(const LawFixture& fixture, const std::set<double>& widths) {
  std::vector<FormLevel> levels;
  Law law;
  for (const double bits : widths) levels.push_back({bits});
  law.form = find_law_form("per_bits").bind_levels(levels);
  for (const double bits : widths) {
    const std::string suffix = fmt::format("_P{:g}", bits);
    law.fitted.push_back(std::log(fixture.value("per_bit_k" + suffix)));
    law.fitted.push_back(fixture.value("per_bit_beta" + suffix));
    law.fitted.push_back(fixture.value("per_bit_alpha" + suffix));
  }
  return law;
}

void check_token_table(const LawFixture& fixture) {
  const auto params = fixture.column("N"), qid = fixture.column("qid"), bits = fixture.column("P"),
             tokens = fixture.column("tokens_trillion");
  const std::set<double> widths(bits.begin(), bits.end());
  const Law per_bits = per_bits_of(fixture, widths);
  const Law unified = law_of(find_law_preset("ouyang-unified"));
  const auto expected_unified = fixture.column("tokens_unified");
  const auto expected_per_bits = fixture.column("tokens_per_bit");
  for (size_t i = 0; i < params.size(); ++i) {
    expect_relative(tokens_for_qid(unified, params[i], bits[i], qid[i]) / kTrillion,
                    expected_unified[i], 1e-5, "unified");
    const double own = tokens_for_qid(per_bits, params[i], bits[i], qid[i]) / kTrillion;
    expect_relative(own, expected_per_bits[i], 1e-5, "per bit width");
    EXPECT_NEAR(own, tokens[i], 5.1e-5);
  }
  // The refit: ln tokens on [1, ln qid, ln N], weighted by the rounding of the table.
  for (const double width : widths) {
    std::vector<size_t> rows;
    for (size_t i = 0; i < bits.size(); ++i) {
      if (bits[i] == width) rows.push_back(i);
    }
    Eigen::MatrixXd design(static_cast<Eigen::Index>(rows.size()), 3);
    Eigen::VectorXd target(design.rows());
    for (Eigen::Index r = 0; r < design.rows(); ++r) {
      const size_t i = rows[static_cast<size_t>(r)];
      const double root_weight = tokens[i] / 5e-5;
      design.row(r) << root_weight, root_weight * std::log(qid[i]),
          root_weight * std::log(params[i]);
      target[r] = root_weight * std::log(kTrillion * tokens[i]);
    }
    const Eigen::Vector3d c = design.colPivHouseholderQr().solve(target);
    const double tolerance = width == 2 ? 6e-4 : width == 3 ? 3e-5 : 2e-6;
    const std::string suffix = fmt::format("_P{:g}", width);
    EXPECT_NEAR(1 / c[1], fixture.value("per_bit_beta" + suffix), tolerance) << width;
    EXPECT_NEAR(c[2] / c[1], fixture.value("per_bit_alpha" + suffix), tolerance) << width;
  }
}

// Total loss --------------------------------------------------------------------------------------

void check_total_loss(const LawFixture& fixture) {
  Predictor predictor;
  predictor.loss16 = LawWithErrors{law_of(find_law_preset("pythia-kaplan")), {}, {}};
  predictor.qid = LawWithErrors{law_of(find_law_preset("ouyang-unified")), {}, {}};
  predictor.vocab = fixture.value("vocab");
  const auto params = fixture.column("N"), tokens = fixture.column("D"), bits = fixture.column("P");
  const auto loss16 = fixture.column("loss16"), qid = fixture.column("qid"),
             loss = fixture.column("loss_q"), headroom = fixture.column("random_headroom");
  const auto worse = mask(fixture, "worse_than_random");
  for (size_t i = 0; i < params.size(); ++i) {
    const Prediction at = predict(predictor, LawPoint(params[i], tokens[i], bits[i]));
    expect_relative(at.loss16, loss16[i], 1e-5, "loss16");
    expect_relative(at.qid, qid[i], 1e-5, "qid");
    expect_relative(at.loss16 + at.qid, loss[i], 1e-5, "loss_q");
    expect_relative(at.headroom, headroom[i], 1e-5, "headroom");
    EXPECT_EQ(at.at_or_below_random, worse[i]) << i;
    EXPECT_LE(at.loss, std::log(predictor.vocab) + 1e-12);
  }
  const auto best = fixture.column("best_D");
  for (size_t i = 0; i + 3 < best.size(); i += 4) {
    const BestTokens found =
        best_tokens(predictor.loss16->law, predictor.qid->law, best[i], best[i + 1]);
    expect_relative(found.tokens, best[i + 2], 1e-3, "best D");
    expect_relative(found.loss, best[i + 3], 1e-6, "lowest loss");
  }
}

// Capacity and weight fluctuation -----------------------------------------------------------------

void check_capacity(const LawFixture& fixture) {
  const auto uniform = fixture.column("uniform");
  for (size_t i = 0; i + 4 < uniform.size(); i += 5) {
    const int bits = static_cast<int>(uniform[i]);
    expect_relative(optimal_midrise(bits).step, uniform[i + 1], 1e-4, "step");
    expect_relative(optimal_midrise(bits).gmse, uniform[i + 2], 1e-6, "mid-rise");
    expect_relative(optimal_integer(bits).step, uniform[i + 3], 1e-4, "integer step");
    expect_relative(optimal_integer(bits).gmse, uniform[i + 4], 1e-6, "integer");
  }
  if (fixture.has("capacity")) {
    const auto table = fixture.column("capacity");
    for (size_t i = 0; i + 2 < table.size(); i += 3) {
      expect_relative(optimal_midrise(static_cast<int>(table[i])).gmse, table[i + 1], 1e-6, "gmse");
      expect_relative(capacity(table[i + 1]), table[i + 2], 1e-5, "rho");
    }
  }
  if (fixture.has("ternary")) {
    const auto expected = fixture.column("ternary");
    const OptimalQuantizer ternary = optimal_ternary();
    expect_relative(ternary.step / 2, expected[0], 1e-4, "threshold");
    expect_relative(ternary.step, expected[1], 1e-4, "scale");
    expect_relative(ternary.gmse, expected[2], 1e-6, "ternary error");
    expect_relative(capacity(ternary.gmse), expected[3], 1e-5, "ternary rho");
  }
}

// Round to nearest in groups of 32 along the last axis, symmetric, scale absmax / 7.
std::vector<float> rtn4(std::span<const float> weights) {
  constexpr size_t kGroup = 32;
  std::vector<float> result(weights.size());
  for (size_t first = 0; first < weights.size(); first += kGroup) {
    const auto group = weights.subspan(first, kGroup);
    float largest = 0;
    for (const float w : group) largest = std::max(largest, std::abs(w));
    const double scale = static_cast<double>(largest) / 7;
    for (size_t i = 0; i < kGroup; ++i) {
      const double code = scale > 0 ? std::clamp(std::nearbyint(group[i] / scale), -8.0, 7.0) : 0;
      result[first + i] = static_cast<float>(code * scale);
    }
  }
  return result;
}

void check_fluctuation(const LawFixture& fixture) {
  const auto weights = fixture.floats("weights");
  const size_t checkpoints = fixture.shape("weights")[0], size = weights.size() / checkpoints;
  const auto checkpoint = [&](size_t i) { return std::span(weights).subspan(i * size, size); };
  const auto expected = fixture.column("box_stats");
  const auto near = [&](double actual, double wanted, const char* what) {
    EXPECT_NEAR(actual, wanted, 1e-5 * std::abs(wanted) + 1e-7) << what;
  };
  const auto last = checkpoint(checkpoints - 1);
  const auto quantized = rtn4(last);
  for (size_t i = 0; i + 1 < checkpoints; ++i) {
    const FluctuationStatistics stats = fluctuation(checkpoint(i), checkpoint(i + 1));
    const double* row = &expected[9 * i];
    near(stats.mean, row[0], "mean");
    near(stats.standard_deviation, row[1], "standard deviation");
    near(stats.q1, row[2], "q1");
    near(stats.median, row[3], "median");
    near(stats.q3, row[4], "q3");
    near(stats.lower_whisker, row[5], "lower whisker");
    near(stats.upper_whisker, row[6], "upper whisker");
    near(stats.mean_abs, row[7], "mean abs");
    near(stats.share_outside, row[8], "share outside");
    if (fixture.has("rtn4_rms_over_update_rms")) {
      near(quantization_to_update_ratio(checkpoint(i), checkpoint(i + 1), last, quantized),
           fixture.column("rtn4_rms_over_update_rms")[i], "ratio");
    }
  }
}

FEWBIT_FIXTURE_TEST(ScalingLawsFixture, "scaling-laws", ".safetensors") {
  const LawFixture fixture(path());
  if (fixture.has("weights")) {
    check_fluctuation(fixture);
  } else if (fixture.has("uniform")) {
    check_capacity(fixture);
  } else if (fixture.has("Pw")) {
    check_kumar(fixture);
  } else if (fixture.has("G")) {
    check_group_law(fixture, path());
  } else if (fixture.has("tokens_trillion")) {
    check_token_table(fixture);
  } else if (fixture.has("best_D")) {
    check_total_loss(fixture);
  } else if (fixture.has("use")) {
    check_rules(fixture);
  } else if (fixture.has("qid")) {
    check_qid_law(fixture);
  } else if (fixture.has_value("fit_ln_Nc")) {
    check_kaplan(fixture);
  } else if (fixture.has_value("fit_a")) {
    check_chinchilla(fixture);
  } else {
    FAIL() << "unknown kind of case";
  }
}

FEWBIT_FIXTURE_TEST(ScalingLawsTableFixture, "scaling-laws", ".json") {
  const Json table = parse_json(read_text_file(path()), path().string());
  const Law unified = law_of(find_law_preset("ouyang-unified"));
  const Law per_bits = law_of(find_law_preset("ouyang-per-bits"));
  for (const Json& row : json_get<Json>(table, "rows")) {
    const double params = json_get<double>(row, "N"), bits = json_get<double>(row, "bits"),
                 qid = json_get<double>(row, "qid"),
                 printed = json_get<double>(row, "tokens_trillion");
    const double by_unified = tokens_for_qid(unified, params, bits, qid) / kTrillion;
    const double by_bits = tokens_for_qid(per_bits, params, bits, qid) / kTrillion;
    EXPECT_NEAR(by_unified, json_get<double>(row, "tokens_unified_law"), 1e-6);
    EXPECT_NEAR(by_bits, json_get<double>(row, "tokens_per_bit_law"), 1e-6);
    EXPECT_NEAR(printed / by_unified, json_get<double>(row, "ratio_table_over_unified"), 1e-4);
    EXPECT_EQ(fmt::format("{:.4f}", by_bits), fmt::format("{:.4f}", printed));
  }
}

}  // namespace
}  // namespace fewbit
