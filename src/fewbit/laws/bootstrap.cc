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
#include "fewbit/laws/refit.h"
#include "fewbit/laws/row_sampler.h"

namespace fewbit {
namespace {

// Draws that share a workspace.
constexpr size_t kDrawsAtATime = 16;
// A draw that is still unusable after so many attempts never will be usable.
constexpr size_t kMaxAttempts = 1000;

struct DrawSource {
  const FitProblem& problem;
  uint64_t seed;
  RunGroups groups;  // empty: by row
  bool needs_two_sizes;
};

// The attempts at one draw after the other.
class Draws {
 public:
  explicit Draws(const DrawSource& source) : source_(source), rows_(source.problem.rows()) {}

  void start(size_t index) {
    const std::string purpose = fmt::format("law bootstrap {}", index);
    if (source_.groups.rows.empty()) {
      rows_.restart(source_.seed, purpose);
    } else {
      runs_ = RandomStream(source_.seed, purpose);
    }
  }

  // False if fewer than two model sizes were drawn where the law needs them.
  bool attempt(std::vector<uint32_t>& counts) {
    const auto& groups = source_.groups.rows;
    if (groups.empty()) {
      rows_.draw(counts);
      return true;
    }
    counts.assign(source_.problem.rows(), 0);
    std::set<double> sizes;
    for (size_t i = 0; i < groups.size(); ++i) {
      for (const uint32_t row : groups[runs_.below(groups.size())]) {
        ++counts[row];
        if (source_.needs_two_sizes) {
          sizes.insert(source_.problem.points()[row][LawVariable::params]);
        }
      }
    }
    return !source_.needs_two_sizes || sizes.size() >= 2;
  }

 private:
  const DrawSource& source_;
  RowSampler rows_;
  RandomStream runs_{0, ""};
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

BootstrapResult bootstrap(const LawData& data, const FitResult& fit,
                          const BootstrapOptions& options) {
  require(options.draws > 1, "a bootstrap needs at least 2 draws, not {}", options.draws);
  const FitProblem problem = problem_of(data, fit);
  const ObjectiveOptions objective = fit.options.for_quantity(fit.form().quantity);
  const Eigen::VectorXd start = problem.to_solver(fit.law.fitted);
  DrawSource source{problem,
                    options.seed,
                    {},
                    fit.form().reads(LawVariable::params) && has_two_sizes(fit.points)};
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
  result.reported.resize(options.draws);
  const Refitter refitter(problem, objective, start);
  std::atomic<size_t> redrawn{0};
  parallel_for_chunks(options.draws, kDrawsAtATime, [&](size_t first, size_t last) {
    Draws draws(source);
    std::vector<uint32_t> counts;
    RefitWorkspace work;
    for (size_t i = first; i < last; ++i) {
      draws.start(i);
      std::optional<Eigen::VectorXd> z;
      for (size_t attempt = 0; !z; ++attempt) {
        require(attempt < kMaxAttempts, "{}: bootstrap: {} draws in a row do not determine form {}",
                data.source, kMaxAttempts, fit.form().name);
        if (attempt > 0) ++redrawn;
        if (draws.attempt(counts)) z = refitter.refit(counts, work);
      }
      result.fitted[i] = problem.to_fitted(*z);
      result.reported[i] = fit.law.form.reported_values(result.fitted[i]);
    }
  });
  result.redrawn = redrawn;
  const size_t parameters = fit.law.form.reported.size();
  result.intervals.resize(parameters);
  result.standard_errors.resize(parameters);
  parallel_for(parameters, [&](size_t j) {
    std::vector<double> values;
    for (const auto& draw : result.reported) values.push_back(draw[j]);
    result.intervals[j] = percentile_interval(values, options.level);
    const double n = static_cast<double>(values.size());
    result.standard_errors[j] = mean_estimate(values).standard_error * std::sqrt(n);
  });
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
