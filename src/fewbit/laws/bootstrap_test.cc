#include "fewbit/laws/bootstrap.h"

#include <gtest/gtest.h>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/laws/refit.h"
#include "fewbit/laws/test_rows.h"

namespace fewbit {
namespace {

FitResult unified_fit(const LawData& data, FitObjective objective) {
  return fit_law(data, find_law_form("unified"), with_objective(objective), RowRules{});
}

TEST(BootstrapTest, IsTheSameForAnyNumberOfThreads) {
  const LawData data = unified_rows(0.15);
  const size_t before = thread_count();
  for (const FitObjective objective :
       {FitObjective::log, FitObjective::linear, FitObjective::weighted, FitObjective::huber}) {
    const FitResult fit = unified_fit(data, objective);
    for (const bool by_run : {false, true}) {
      std::vector<std::vector<std::vector<double>>> results;
      for (const size_t threads : {1, 2, 5}) {
        set_thread_count(threads);
        results.push_back(bootstrap(data, fit, {.draws = 40, .seed = 9, .by_run = by_run}).fitted);
      }
      EXPECT_EQ(results[0], results[1]);
      EXPECT_EQ(results[0], results[2]);
    }
  }
  set_thread_count(before);
}

TEST(BootstrapTest, SeedDecidesTheDraws) {
  const LawData data = unified_rows(0.15);
  const FitResult fit = unified_fit(data, FitObjective::log);
  const auto a = bootstrap(data, fit, {.draws = 20, .seed = 1});
  const auto b = bootstrap(data, fit, {.draws = 20, .seed = 2});
  EXPECT_NE(a.fitted, b.fitted);
  // More draws continue the fewer ones.
  const auto more = bootstrap(data, fit, {.draws = 30, .seed = 1});
  EXPECT_TRUE(std::equal(a.fitted.begin(), a.fitted.end(), more.fitted.begin()));
}

TEST(BootstrapTest, RowErrorsAreNearTheAnalyticOnes) {
  const LawData data = unified_rows(0.15);
  for (const FitObjective objective : {FitObjective::log, FitObjective::weighted}) {
    const FitResult fit = unified_fit(data, objective);
    const auto result = bootstrap(data, fit, {.draws = 1000, .seed = 4});
    for (size_t j = 0; j < 4; ++j) {
      const double ratio = result.standard_errors[j] / fit.parameters[j].standard_error;
      EXPECT_GT(ratio, 0.6);
      EXPECT_LT(ratio, 1.5);
      EXPECT_LT(result.intervals[j].low, fit.parameters[j].value);
      EXPECT_GT(result.intervals[j].high, fit.parameters[j].value);
    }
  }
}

TEST(BootstrapTest, RefitOfCountsEqualsAFitOfRepeatedRows) {
  const LawData data = unified_rows(0.15);
  for (const FitObjective objective :
       {FitObjective::log, FitObjective::linear, FitObjective::weighted}) {
    const FitResult fit = unified_fit(data, objective);
    std::vector<uint32_t> counts(data.rows.size());
    LawData repeated;
    for (size_t i = 0; i < counts.size(); ++i) {
      counts[i] = static_cast<uint32_t>((i * 7) % 3);
      for (uint32_t k = 0; k < counts[i]; ++k) repeated.rows.push_back(data.rows[i]);
    }
    const FitProblem problem = problem_of(data, fit);
    const auto solution = refit(problem, fit.options.for_quantity(LawQuantity::qid),
                                problem.to_solver(fit.law.fitted), counts);
    ASSERT_TRUE(solution);
    const auto refitted = problem.to_fitted(solution->z);
    const FitResult expected = unified_fit(repeated, objective);
    for (size_t j = 0; j < 4; ++j) {
      EXPECT_NEAR(refitted[j], expected.law.fitted[j], 1e-7 * (1 + std::abs(refitted[j])));
    }
  }
}

TEST(BootstrapTest, RunsStayTogetherAndOneSizeIsDrawnAgain) {
  LawData data = unified_rows(0.15);
  // Two runs: half of the draws hold one size only.
  std::erase_if(data.rows, [](const LawRow& row) {
    return row.run != "85056000" && row.run != "11327027200";
  });
  const FitResult fit = unified_fit(data, FitObjective::log);
  const auto result = bootstrap(data, fit, {.draws = 60, .seed = 3, .by_run = true});
  EXPECT_EQ(result.clusters, 2u);
  EXPECT_GT(result.redrawn, 20u);
  // The only draw left is both runs once: every refit is the fit.
  for (const auto& draw : result.fitted) EXPECT_NEAR(draw[1], fit.law.fitted[1], 1e-9);
}

TEST(BootstrapTest, NeedsRuns) {
  LawData data = unified_rows(0.15);
  const FitResult fit = unified_fit(data, FitObjective::log);
  for (LawRow& row : data.rows) row.run = "one";
  EXPECT_THROW(bootstrap(data, fit, {.draws = 10, .by_run = true}), Error);
  data.rows[5].run = "";
  EXPECT_THROW(bootstrap(data, fit, {.draws = 10, .by_run = true}), Error);
  EXPECT_THROW(bootstrap(data, fit, {.draws = 1}), Error);
}

}  // namespace
}  // namespace fewbit
