#include "fewbit/laws/bootstrap.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <set>
#include <unordered_map>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/laws/fit_statistics.h"

namespace fewbit {
namespace {

// A refit starts close to its optimum: hardly any damping. Parameters end within about 1e-8
// standard errors of it, far below what draws scatter.
constexpr LeastSquaresOptions kRefitSettings = {
    .max_iterations = 100, .damping = 1e-8, .tolerance = 1e-18};
// A draw that is still unusable after so many attempts never will be usable.
constexpr size_t kMaxAttempts = 1000;

struct DrawSource {
  const FitProblem& problem;
  RunGroups groups;  // empty: by row
  bool needs_two_sizes;

  // False if fewer than two model sizes were drawn where the law needs them.
  bool draw(RandomStream& random, std::vector<uint32_t>& counts) const {
    counts.assign(problem.rows(), 0);
    if (groups.rows.empty()) {
      for (size_t i = 0; i < counts.size(); ++i) ++counts[random.below(counts.size())];
      return true;
    }
    std::set<double> sizes;
    for (size_t i = 0; i < groups.rows.size(); ++i) {
      for (const uint32_t row : groups.rows[random.below(groups.rows.size())]) {
        ++counts[row];
        if (needs_two_sizes) sizes.insert(problem.points()[row][LawVariable::params]);
      }
    }
    return !needs_two_sizes || sizes.size() >= 2;
  }
};

bool has_two_sizes(const std::vector<LawPoint>& points) {
  return std::any_of(points.begin(), points.end(), [&](const LawPoint& at) {
    return at[LawVariable::params] != points.front()[LawVariable::params];
  });
}

}  // namespace

RunGroups group_by_run(const LawData& data, std::span<const size_t> rows) {
  RunGroups groups;
  std::unordered_map<std::string, size_t> index;
  for (size_t i = 0; i < rows.size(); ++i) {
    const LawRow& row = data.rows[rows[i]];
    require(!row.run.empty(),
            "{}: no run: rows of one training run must share a name in column run",
            data.place(rows[i]));
    const auto [found, added] = index.try_emplace(row.run, groups.names.size());
    if (added) {
      groups.names.push_back(row.run);
      groups.rows.emplace_back();
    }
    groups.rows[found->second].push_back(static_cast<uint32_t>(i));
  }
  return groups;
}

std::optional<Solution> refit(const FitProblem& problem, const ObjectiveOptions& options,
                              const Eigen::VectorXd& start, std::span<const uint32_t> counts) {
  const FitProblem sample = problem.resampled(counts);
  if (!sample.determines_parameters()) return std::nullopt;
  Solution solution = solve(sample, options, start, kRefitSettings);
  if (!std::isfinite(solution.objective) || !solution.z.allFinite()) return std::nullopt;
  return solution;
}

BootstrapResult bootstrap(const LawData& data, const FitResult& fit,
                          const BootstrapOptions& options) {
  require(options.draws > 1, "a bootstrap needs at least 2 draws, not {}", options.draws);
  const FitProblem problem = problem_of(data, fit);
  const ObjectiveOptions objective = fit.options.for_quantity(fit.form().quantity);
  const Eigen::VectorXd start = problem.to_solver(fit.law.fitted);
  DrawSource source{
      problem, {}, fit.form().reads(LawVariable::params) && has_two_sizes(fit.points)};
  BootstrapResult result;
  result.options = options;
  result.clusters = fit.n();
  if (options.by_run) {
    source.groups = group_by_run(data, fit.selection.rows);
    result.clusters = source.groups.names.size();
    require(result.clusters > 1,
            "{}: a bootstrap by run needs at least 2 runs; all rows have run '{}'", data.source,
            source.groups.names.front());
  }
  result.fitted.resize(options.draws);
  std::atomic<size_t> redrawn{0};
  parallel_for(options.draws, [&](size_t i) {
    RandomStream random(options.seed, fmt::format("law bootstrap {}", i));
    std::vector<uint32_t> counts;
    for (size_t attempt = 0; attempt < kMaxAttempts; ++attempt) {
      if (source.draw(random, counts)) {
        if (const auto solution = refit(problem, objective, start, counts)) {
          result.fitted[i] = problem.to_fitted(solution->z);
          return;
        }
      }
      ++redrawn;
    }
    fail("{}: bootstrap: {} draws in a row do not determine form {}", data.source, kMaxAttempts,
         fit.form().name);
  });
  result.redrawn = redrawn;
  for (const auto& draw : result.fitted) {
    result.reported.push_back(fit.law.form.reported_values(draw));
  }
  for (size_t j = 0; j < fit.law.form.reported.size(); ++j) {
    std::vector<double> values;
    for (const auto& draw : result.reported) values.push_back(draw[j]);
    result.intervals.push_back(percentile_interval(values, options.level));
    const double n = static_cast<double>(values.size());
    result.standard_errors.push_back(mean_estimate(values).standard_error * std::sqrt(n));
  }
  return result;
}

void apply_bootstrap(const BootstrapResult& bootstrap, FitResult& fit) {
  for (size_t j = 0; j < fit.parameters.size(); ++j) {
    fit.parameters[j].standard_error = bootstrap.standard_errors[j];
    fit.parameters[j].low = bootstrap.intervals[j].low;
    fit.parameters[j].high = bootstrap.intervals[j].high;
  }
  std::vector<double> values;
  for (const auto& draw : bootstrap.fitted) {
    values.push_back(fit.law.form.value(draw, fit.reference.point));
  }
  const Interval interval = percentile_interval(values, bootstrap.options.level);
  fit.reference.low = interval.low;
  fit.reference.high = interval.high;
}

}  // namespace fewbit
