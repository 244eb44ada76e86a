#include "fewbit/laws/refit.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/laws/row_sampler.h"
#include "fewbit/laws/stream_kernels.h"
#include "fewbit/laws/test_rows.h"

namespace fewbit {
namespace {

constexpr FitObjective kObjectives[] = {FitObjective::linear, FitObjective::weighted};

// Calls `check` on each instruction set that this machine has.
template <class Check>
void for_each_target(Check check) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    check();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

TEST(RowSamplerTest, CountsWhatTheStreamDraws) {
  for_each_target([] {
    for (const size_t rows : {1, 2, 7, 16, 33, 500, 501}) {
      RowSampler sampler(rows);
      sampler.restart(5, "draws");
      RandomStream random(5, "draws");
      for (int draw = 0; draw < 4; ++draw) {
        std::vector<uint32_t> counts, expected(rows);
        for (size_t i = 0; i < rows; ++i) ++expected[random.below(rows)];
        sampler.draw(counts);
        EXPECT_EQ(counts, expected) << rows << " rows, draw " << draw;
      }
    }
  });
}

TEST(StreamKernelsTest, CounterGoesBeyondOneWord) {
  for_each_target([] {
    constexpr uint64_t kBlock = 0xFFFFFFFF - 3;
    const std::array<uint32_t, 2> key = {3, 4};
    std::array<uint64_t, kStreamValues> values;
    fill_stream_values(key, kBlock, values);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint64_t block = kBlock + i / 2;
      const auto words =
          philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}, key);
      EXPECT_EQ(values[i], words[i % 2 * 2] | uint64_t{words[i % 2 * 2 + 1]} << 32);
    }
  });
}

// Random rows for the kernels.
struct KernelRows {
  hwy::AlignedFreeUniquePtr<double[]> memory;
  hwy::AlignedFreeUniquePtr<uint32_t[]> counts;
  hwy::AlignedFreeUniquePtr<double[]> real_counts;
  RefitRows rows;
  RefitTerms terms;
  std::vector<double> z;

  KernelRows(size_t parameters, bool weighted) : z(parameters) {
    constexpr size_t kRows = 5 * kRefitRowAlignment;
    memory = hwy::AllocateAligned<double>((parameters + 5) * kRows);
    counts = hwy::AllocateAligned<uint32_t>(kRows);
    real_counts = hwy::AllocateAligned<double>(kRows);
    RandomStream random(parameters, "kernel rows");
    for (size_t i = 0; i < (parameters + 5) * kRows; ++i) memory[i] = random.uniform() - 0.3;
    for (size_t i = 0; i < kRows; ++i) {
      counts[i] = static_cast<uint32_t>(random.below(4));
      memory[(parameters + 1) * kRows + i] = 0.1 + random.uniform();
    }
    for (double& value : z) value = random.normal();
    double* const other = memory.get() + parameters * kRows;
    rows = {kRows, parameters, memory.get(), other, weighted ? other + kRows : nullptr, 0.04};
    terms = {other + 2 * kRows, other + 3 * kRows, other + 4 * kRows};
  }
};

// The sums of the header's equations, and the Gram matrix.
RefitSums plain_sums(const KernelRows& from, std::array<double, kMaxRefitPairs>& gram) {
  const RefitRows& rows = from.rows;
  RefitSums sums{};
  gram = {};
  for (size_t i = 0; i < rows.rows; ++i) {
    const auto x = [&](size_t j) { return rows.design[j * rows.rows + i]; };
    double eta = 0;
    for (size_t j = 0; j < rows.parameters; ++j) eta += x(j) * from.z[j];
    const double p = std::exp(eta), r = p - rows.values[i], c = from.counts[i];
    const double scatter = rows.squared_scatter * p * p;
    const bool weighted = rows.variances != nullptr;
    const double w = weighted ? 1 / (rows.variances[i] + scatter) : 1;
    const double share = weighted ? 1 - 2 * scatter * w : 1;
    sums.objective += c * w * r * r;
    size_t k = 0;
    for (size_t j = 0; j < rows.parameters; ++j) {
      sums.gradient[j] += c * w * r * p * x(j);
      for (size_t l = 0; l <= j; ++l, ++k) {
        sums.hessian[k] += c * w * p * (p + r * share) * x(j) * x(l);
        gram[k] += c * x(j) * x(l);
      }
    }
  }
  return sums;
}

void expect_sums(const RefitSums& sums, const RefitSums& expected, size_t parameters) {
  constexpr double kTolerance = 1e-12;
  EXPECT_NEAR(sums.objective, expected.objective, kTolerance * expected.objective);
  size_t k = 0;
  for (size_t j = 0; j < parameters; ++j) {
    EXPECT_NEAR(sums.gradient[j], expected.gradient[j], kTolerance * expected.objective);
    for (size_t l = 0; l <= j; ++l, ++k) {
      EXPECT_NEAR(sums.hessian[k], expected.hessian[k], kTolerance * expected.objective);
    }
  }
}

TEST(RefitKernelsTest, SumsAreThoseOfTheEquations) {
  for_each_target([] {
    for (const bool weighted : {false, true}) {
      for (size_t parameters = 1; parameters <= kMaxRefitParameters; ++parameters) {
        SCOPED_TRACE(fmt::format("{} parameters, weighted {}", parameters, weighted));
        KernelRows from(parameters, weighted);
        std::array<double, kMaxRefitPairs> expected_gram, gram{};
        const RefitSums expected = plain_sums(from, expected_gram);
        RefitSums sums{};
        fill_refit_terms(from.rows, from.z.data(), from.terms);
        sum_refit_terms(from.rows, from.terms, from.counts.get(), from.real_counts.get(), sums,
                        gram);
        expect_sums(sums, expected, parameters);
        for (size_t k = 0; k < gram.size(); ++k) EXPECT_NEAR(gram[k], expected_gram[k], 1e-12);
        sums = {};
        sum_refit_rows(from.rows, from.z.data(), from.real_counts.get(), sums);
        expect_sums(sums, expected, parameters);
      }
    }
  });
}

struct RefitCase {
  LawData data = unified_rows(0.3);
  FitResult fit;
  FitProblem problem;
  ObjectiveOptions options;
  Eigen::VectorXd start;

  explicit RefitCase(FitObjective objective)
      : fit(fit_law(data, find_law_form("unified"), with_objective(objective), RowRules{})),
        problem(problem_of(data, fit)),
        options(fit.options.for_quantity(LawQuantity::qid)),
        start(problem.to_solver(fit.law.fitted)) {}
};

void expect_equal_solutions(const Eigen::VectorXd& z, const Eigen::VectorXd& expected) {
  ASSERT_EQ(z.size(), expected.size());
  for (Eigen::Index j = 0; j < z.size(); ++j) {
    EXPECT_NEAR(z[j], expected[j], 1e-8 * (1 + std::abs(expected[j])));
  }
}

TEST(RefitTest, EndsWhereTheIterativeSolverEnds) {
  for (const FitObjective objective : kObjectives) {
    SCOPED_TRACE(fit_objective_name(objective));
    const RefitCase at(objective);
    const Refitter refitter(at.problem, at.options, at.start);
    RowSampler sampler(at.problem.rows());
    sampler.restart(1, "refit test");
    std::vector<uint32_t> counts;
    RefitWorkspace work;
    for (int draw = 0; draw < 50; ++draw) {
      sampler.draw(counts);
      const auto z = refitter.refit(counts, work);
      ASSERT_TRUE(z);
      expect_equal_solutions(*z, solve(at.problem.resampled(counts), at.options, at.start).z);
    }
  }
}

TEST(RefitTest, FindsTheOptimumFromAfar) {
  for (const FitObjective objective : kObjectives) {
    SCOPED_TRACE(fit_objective_name(objective));
    const RefitCase at(objective);
    const std::vector<uint32_t> once(at.problem.rows(), 1);
    for (const double shift : {-8.0, -2.0, 2.0, 8.0}) {
      const Eigen::VectorXd start = at.start + Eigen::VectorXd::Constant(at.start.size(), shift);
      const auto solution = refit(at.problem, at.options, start, once);
      ASSERT_TRUE(solution);
      expect_equal_solutions(solution->z, at.start);
      EXPECT_NEAR(solution->objective, at.fit.objective, 1e-9 * at.fit.objective);
    }
  }
}

TEST(RefitTest, IsNoneWhereRowsDoNotDetermineTheParameters) {
  for (const FitObjective objective : kObjectives) {
    const RefitCase at(objective);
    // One bit width: its exponent cannot be told from the prefactor.
    std::vector<uint32_t> counts;
    for (const LawRow& row : at.data.rows) counts.push_back(row.point[LawVariable::bits] == 2);
    EXPECT_FALSE(refit(at.problem, at.options, at.start, counts));
    EXPECT_FALSE(
        refit(at.problem, at.options, at.start, std::vector<uint32_t>(at.problem.rows(), 0)));
  }
}

}  // namespace
}  // namespace fewbit
