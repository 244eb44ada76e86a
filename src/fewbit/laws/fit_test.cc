#include "fewbit/laws/fit.h"

#include <ceres/ceres.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/laws/compare.h"
#include "fewbit/laws/fit_statistics.h"
#include "fewbit/laws/holdout.h"
#include "fewbit/laws/profile.h"
#include "fewbit/laws/test_rows.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;

constexpr FitObjective kAll[] = {FitObjective::log, FitObjective::linear, FitObjective::weighted,
                                 FitObjective::huber};

FitResult fit(const LawData& data, const std::string& form, FitObjective objective) {
  return fit_law(data, find_law_form(form), with_objective(objective), RowRules{});
}

FitResult fit(const LawData& data, const std::string& form, FitOptions options) {
  return fit_law(data, find_law_form(form), options, RowRules{});
}

void expect_close(double actual, double expected, double tolerance, const std::string& what) {
  EXPECT_NEAR(actual, expected, tolerance * (1 + std::abs(expected))) << what;
}

TEST(FitTest, EveryObjectiveRecoversNoiseFreeConstants) {
  const LawData data = unified_rows(0);
  for (const FitObjective objective : kAll) {
    const FitResult result = fit(data, "unified", objective);
    const std::string what(fit_objective_name(objective));
    expect_close(result.law.fitted[0], std::log(0.017), 1e-8, what);
    expect_close(result.law.fitted[1], 0.5251, 1e-9, what);
    expect_close(result.law.fitted[2], 0.2261, 1e-9, what);
    expect_close(result.law.fitted[3], 5.4967, 1e-9, what);
  }
}

TEST(FitTest, UnitsOfTokensAndParametersChangeThePrefactorOnly) {
  const LawData data = unified_rows(0.15);
  LawData billions = data;
  for (LawRow& row : billions.rows) {
    row.point.set(LawVariable::tokens, row.point[LawVariable::tokens] / 1e9);
    row.point.set(LawVariable::params, row.point[LawVariable::params] / 1e9);
  }
  for (const FitObjective objective : kAll) {
    const FitResult a = fit(data, "unified", objective), b = fit(billions, "unified", objective);
    const std::string what(fit_objective_name(objective));
    const double tolerance = objective == FitObjective::huber ? 1e-7 : 1e-9;
    for (size_t j = 1; j < 4; ++j) expect_close(b.law.fitted[j], a.law.fitted[j], tolerance, what);
    const double shift = 9 * std::log(10.0) * (a.law.fitted[1] - a.law.fitted[2]);
    expect_close(b.law.fitted[0], a.law.fitted[0] + shift, tolerance, what);
    expect_close(b.goodness.r2, a.goodness.r2, tolerance, what);
    expect_close(b.goodness.aic, a.goodness.aic, tolerance, what);
    for (size_t i = 0; i < a.n(); ++i)
      expect_close(b.predicted[i], a.predicted[i], tolerance, what);
  }
}

TEST(FitTest, ScalingTheValuesMovesLnKOnly) {
  const LawData data = unified_rows(0.15);
  LawData scaled = data;
  for (LawRow& row : scaled.rows) row.qid *= 7;
  for (const FitObjective objective :
       {FitObjective::log, FitObjective::linear, FitObjective::weighted}) {
    FitOptions options = with_objective(objective), scaled_options = options;
    options.floor = 0.003;
    scaled_options.floor = 7 * options.floor;
    // Rows below the noise are the same ones: both floors scale along.
    const FitResult a = fit(data, "unified", options), b = fit(scaled, "unified", scaled_options);
    ASSERT_EQ(a.n(), b.n());
    expect_close(b.law.fitted[0], a.law.fitted[0] + std::log(7.0), 1e-9, "ln k");
    for (size_t j = 1; j < 4; ++j) {
      expect_close(b.law.fitted[j], a.law.fitted[j], 1e-9,
                   std::string(fit_objective_name(objective)));
    }
  }
}

TEST(FitTest, OrderOfRowsDoesNotMatter) {
  const LawData data = unified_rows(0.15);
  LawData shuffled = data;
  const auto order = RandomStream(3, "shuffle").permutation(data.rows.size());
  for (size_t i = 0; i < order.size(); ++i) shuffled.rows[i] = data.rows[order[i]];
  for (const FitObjective objective : kAll) {
    const FitResult a = fit(data, "unified", objective), b = fit(shuffled, "unified", objective);
    for (size_t j = 0; j < 4; ++j) {
      expect_close(b.law.fitted[j], a.law.fitted[j],
                   objective == FitObjective::huber ? 1e-7 : 1e-10,
                   std::string(fit_objective_name(objective)));
    }
  }
}

TEST(FitTest, DuplicatedRowsKeepParametersAndShrinkStandardErrors) {
  const LawData data = unified_rows(0.15);
  LawData twice = data;
  twice.rows.insert(twice.rows.end(), data.rows.begin(), data.rows.end());
  const double n = static_cast<double>(data.rows.size()), p = 4;
  for (const FitObjective objective : {FitObjective::log, FitObjective::linear}) {
    const FitResult a = fit(data, "unified", objective), b = fit(twice, "unified", objective);
    for (size_t j = 0; j < 4; ++j) {
      expect_close(b.law.fitted[j], a.law.fitted[j], 1e-9, "parameter");
      EXPECT_NEAR(b.fitted_errors[j] / a.fitted_errors[j], std::sqrt((n - p) / (2 * n - p)), 1e-8);
    }
  }
}

TEST(FitTest, NestedFormsFitNoWorse) {
  const LawData data = unified_rows(0.15);
  const double power = fit(data, "unified", FitObjective::log).goodness.rss;
  const double exponential = fit(data, "exponential", FitObjective::log).goodness.rss;
  const double categorical = fit(data, "categorical", FitObjective::log).goodness.rss;
  const double per_bits = fit(data, "per_bits", FitObjective::log).goodness.rss;
  EXPECT_LE(categorical, power);
  EXPECT_LE(categorical, exponential);
  EXPECT_LE(per_bits, categorical);

  LawData two_widths = data;
  std::erase_if(two_widths.rows,
                [](const LawRow& row) { return row.point[LawVariable::bits] == 3; });
  const double two_power = fit(two_widths, "unified", FitObjective::log).goodness.rss;
  EXPECT_NEAR(fit(two_widths, "exponential", FitObjective::log).goodness.rss / two_power, 1, 1e-10);
  EXPECT_NEAR(fit(two_widths, "categorical", FitObjective::log).goodness.rss / two_power, 1, 1e-10);
}

TEST(FitTest, TiedExponentsEqualAFitAgainstTokensPerParameter) {
  const LawData data = unified_rows(0.15);
  LawData ratio = data;
  for (LawRow& row : ratio.rows) {
    row.point.set(LawVariable::tokens,
                  row.point[LawVariable::tokens] / row.point[LawVariable::params]);
    row.point.set(LawVariable::params, 1);
  }
  const FitResult a = fit(data, "ratio", FitObjective::log),
                  b = fit(ratio, "ratio", FitObjective::log);
  for (size_t j = 0; j < 3; ++j) expect_close(a.law.fitted[j], b.law.fitted[j], 1e-10, "tied");
}

TEST(FitTest, SingleVariableFormsOnABalancedGridGiveTheUnifiedExponents) {
  const LawData data = unified_rows(0.15);
  const FitResult unified = fit(data, "unified", FitObjective::log);
  const std::pair<std::string, size_t> forms[] = {{"tokens", 1}, {"size", 2}, {"bits", 3}};
  for (const auto& [form, parameter] : forms) {
    const FitResult one = fit(data, form, FitObjective::log);
    EXPECT_NEAR(one.law.fitted.back(), unified.law.fitted[parameter],
                1e-12 * std::abs(unified.law.fitted[parameter]) * 10)
        << form;
  }
  EXPECT_EQ(fit(data, "tokens", FitObjective::log).law.form.levels.size(), 18u);
}

TEST(FitTest, HuberWithAWideQuadraticPartIsLeastSquares) {
  const LawData data = unified_rows(0.15);
  FitOptions wide = with_objective(FitObjective::huber);
  wide.huber_delta = 1e6;
  const FitResult huber = fit(data, "unified", wide), log = fit(data, "unified", FitObjective::log);
  for (size_t j = 0; j < 4; ++j) {
    expect_close(huber.law.fitted[j], log.law.fitted[j], 1e-7, "wide Huber");
    EXPECT_NEAR(huber.fitted_errors[j] / log.fitted_errors[j], 1, 1e-6);
  }
  EXPECT_NEAR(huber.objective, log.objective / 2, 1e-9 * log.objective);
}

// A row's residual under the unified form, for automatic differentiation.
struct UnifiedResidual {
  const LawRow& row;
  template <class T>
  bool operator()(const T* p, T* r) const {
    const LawPoint& at = row.point;
    r[0] = T(row.qid) - exp(p[0] + p[1] * at.ln(LawVariable::tokens) -
                            p[2] * at.ln(LawVariable::params) - p[3] * at.ln(LawVariable::bits));
    return true;
  }
};

TEST(FitTest, AgreesWithCeresOnTheLinearObjective) {
  const LawData data = unified_rows(0.3);
  const FitResult ours = fit(data, "unified", FitObjective::linear);
  ceres::Problem problem;
  std::vector<double> p = fit(data, "unified", FitObjective::log).law.fitted;
  for (const LawRow& row : data.rows) {
    problem.AddResidualBlock(
        new ceres::AutoDiffCostFunction<UnifiedResidual, 1, 4>(new UnifiedResidual{row}), nullptr,
        p.data());
  }
  ceres::Solver::Options options;
  options.logging_type = ceres::SILENT;
  options.linear_solver_type = ceres::DENSE_QR;
  options.max_num_iterations = 500;
  options.function_tolerance = 1e-16;
  options.gradient_tolerance = 1e-14;
  options.parameter_tolerance = 1e-14;
  ceres::Solver::Summary summary;
  ceres::Solve(options, &problem, &summary);
  for (size_t j = 0; j < 4; ++j) expect_close(ours.law.fitted[j], p[j], 1e-6, "Ceres");
  EXPECT_LE(ours.objective, 2 * summary.final_cost * (1 + 1e-12));
}

TEST(FitTest, AicPrefersTheFormThatMadeTheRows) {
  const Comparison comparison =
      compare_forms(unified_rows(0.15), {"exponential", "unified", "no_tokens", "unified_group"},
                    with_objective(FitObjective::log), RowRules{});
  EXPECT_EQ(comparison.forms[0].form, "unified");
  EXPECT_EQ(comparison.forms[1].form, "exponential");
  EXPECT_GT(comparison.forms[1].delta_aic, 10);
  EXPECT_EQ(comparison.forms.back().form, "unified_group");
  EXPECT_THAT(comparison.forms.back().problem, HasSubstr("group_size"));
  EXPECT_THROW(compare_forms(unified_rows(0.15), {"unified", "kaplan"},
                             with_objective(FitObjective::log), RowRules{}),
               Error);
}

TEST(FitTest, RowsAreLeftOutWithTheirReasons) {
  LawData data = unified_rows(0.1);
  data.rows[0].qid = 6;
  for (LawRow& row : data.rows) {
    row.loss16 = 3;
    row.qid_se = 1e-4;
  }
  data.rows[1].qid = -0.01;
  data.rows[2].qid = 2e-4;
  data.rows[3].point.set(LawVariable::bits, 16);
  data.rows[4].qid = kMissing;
  RowRules rules;
  rules.vocab = kPythiaVocabulary;
  const RowSelection log = select_rows(data, find_law_form("unified"), FitObjective::log, rules);
  const auto counts = log.dropped_counts(data);
  EXPECT_EQ(log.rows.size() + log.dropped.size(), data.rows.size());
  std::vector<std::string> reasons;
  for (const DroppedRow& drop : log.dropped) {
    if (drop.row < 5) reasons.push_back(drop.reason);
  }
  ASSERT_EQ(reasons.size(), 5u);
  EXPECT_THAT(reasons[0], HasSubstr("saturated"));
  EXPECT_THAT(reasons[1], HasSubstr("noise"));
  EXPECT_THAT(reasons[2], HasSubstr("noise"));
  EXPECT_THAT(reasons[3], HasSubstr("not quantized"));
  EXPECT_EQ(reasons[4], "no qid");
  // The weighted objective uses negative and noisy rows.
  const RowSelection all =
      select_rows(data, find_law_form("unified"), FitObjective::weighted, rules);
  EXPECT_TRUE(std::find(all.rows.begin(), all.rows.end(), 1u) != all.rows.end());
}

TEST(FitTest, RowsThatDoNotDetermineAParameterAreRefusedByName) {
  LawData data = unified_rows(0.1);
  for (LawRow& row : data.rows) row.point.set(LawVariable::tokens, 3e11);
  try {
    fit(data, "unified", FitObjective::log);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("beta"));
    EXPECT_THAT(error.what(), testing::Not(HasSubstr("gamma")));
  }
  EXPECT_NO_THROW(fit(data, "no_tokens", FitObjective::log));
  data.rows.resize(3);
  EXPECT_THROW(fit(data, "unified", FitObjective::log), Error);
}

TEST(FitTest, WarnsOfWhatTheRowsCannotTell) {
  LawData data = unified_rows(0.1);
  std::erase_if(data.rows, [](const LawRow& row) {
    return row.point[LawVariable::bits] == 4 || row.point[LawVariable::tokens] < 5e10;
  });
  data.rows[0].method = "rtn";
  const FitResult result = fit(data, "unified", FitObjective::log);
  const std::string all = fmt::format("{}", fmt::join(result.warnings, "\n"));
  EXPECT_THAT(all, HasSubstr("D spans only a factor"));
  EXPECT_THAT(all, HasSubstr("2 bit widths"));
  EXPECT_THAT(all, HasSubstr("2 methods"));
  EXPECT_THAT(all, HasSubstr("saturation"));

  // Tokens in proportion to size: only the difference of the exponents is known.
  LawData proportional = unified_rows(0.1);
  for (size_t i = 0; i < proportional.rows.size(); ++i) {
    LawPoint& at = proportional.rows[i].point;
    at.set(LawVariable::tokens,
           20 * at[LawVariable::params] * (1 + 0.01 * static_cast<double>(i % 7)));
  }
  const FitResult tied = fit(proportional, "unified", FitObjective::log);
  EXPECT_THAT(fmt::format("{}", fmt::join(tied.warnings, "\n")), HasSubstr("difference"));
}

TEST(FitTest, ProfileIntervalsOfALinearFitAreNormal) {
  const LawData data = unified_rows(0.15);
  for (const FitObjective objective : {FitObjective::log, FitObjective::weighted}) {
    const FitResult result = fit(data, "unified", objective);
    const auto profiles = profile_intervals(data, result);
    ASSERT_EQ(profiles.size(), 4u);
    for (size_t j = 0; j < 4; ++j) {
      const double reach = kNormal95 * result.fitted_errors[j];
      // Exact where the form is linear; the weighted fit is curved a little.
      const double tolerance = (objective == FitObjective::log ? 1e-6 : 0.05) * reach;
      EXPECT_NEAR(profiles[j].interval.low, result.law.fitted[j] - reach, tolerance);
      EXPECT_NEAR(profiles[j].interval.high, result.law.fitted[j] + reach, tolerance);
    }
  }
  EXPECT_THROW(profile_intervals(data, fit(data, "unified", FitObjective::huber)), Error);
}

TEST(FitTest, HoldOutsBeatTheBaselines) {
  const LawData data = unified_rows(0.1);
  const FitResult result = fit(data, "unified", FitObjective::log);
  const Extrapolation split = extrapolate(data, result);
  EXPECT_EQ(split.max_params, 805736448);
  EXPECT_EQ(split.fit.train_rows, 3u * 3 * 3);
  ASSERT_EQ(split.baselines.size(), 3u);
  for (const Baseline& baseline : split.baselines) {
    EXPECT_GT(baseline.errors.rms_log_error, split.fit.errors.rms_log_error) << baseline.name;
  }
  EXPECT_LT(pooled_rms_log_error(leave_one_run_out(data, result)), 0.2);
  EXPECT_EQ(leave_one_run_out(data, result).size(), 6u);
}

TEST(FitTest, NormalQuantileIsThatOfTheTables) {
  EXPECT_NEAR(normal_quantile(0.975), kNormal95, 1e-12);
  EXPECT_NEAR(normal_quantile(0.5), 0, 1e-15);
}

TEST(FitTest, LikelihoodsOnTheScaleOfTheValuesCarryTheJacobian) {
  const LawData data = unified_rows(0.15);
  const FitResult log = fit(data, "unified", FitObjective::log);
  double sum = 0;
  for (const LawRow& row : data.rows) sum += std::log(row.qid);
  EXPECT_NEAR(log.goodness.log_likelihood_of_values, log.goodness.log_likelihood - sum, 1e-9);
  // Log-normal rows: the log-scale likelihood wins on the same scale.
  const FitResult linear = fit(data, "unified", FitObjective::linear);
  EXPECT_GT(log.goodness.log_likelihood_of_values, linear.goodness.log_likelihood_of_values);
  // A density must be likelier at its own noise than a Gaussian one on Huber-like residuals, and
  // equal where Huber is quadratic throughout.
  EXPECT_NEAR(huber_log_likelihood(log.goodness.rss / 2, 1e3, log.n()),
              gaussian_log_likelihood(log.goodness.rss, log.n()), 1e-6);
}

}  // namespace
}  // namespace fewbit
