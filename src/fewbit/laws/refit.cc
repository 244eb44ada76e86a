#include "fewbit/laws/refit.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

// A refit starts close to its optimum: hardly any damping. Parameters end within about 1e-8
// standard errors of it, far below what draws scatter.
constexpr LeastSquaresOptions kRefitSettings = {
    .max_iterations = 100, .damping = 1e-8, .tolerance = 1e-18};
// Newton's method has failed if a step's decrement (the square of its length) is not below this
// share of the one before, or after so many steps.
constexpr double kLeastContraction = 0.25;
constexpr int kMaxNewtonSteps = 12;
// Errors square from step to step up to a factor that changes slowly: the decrement that follows is
// foreseen to this factor with a wide margin.
constexpr double kForesight = 10;

// Matrices small enough to live on the stack.
using SmallVector = Eigen::Matrix<double, Eigen::Dynamic, 1, 0, kMaxRefitParameters, 1>;
using SmallMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, 0, kMaxRefitParameters,
                                  kMaxRefitParameters>;

// Both triangles of a matrix given by its lower one.
SmallMatrix unpack(const std::array<double, kMaxRefitPairs>& triangle, Eigen::Index size) {
  SmallMatrix matrix(size, size);
  size_t k = 0;
  for (Eigen::Index i = 0; i < size; ++i) {
    for (Eigen::Index j = 0; j <= i; ++j) matrix(i, j) = matrix(j, i) = triangle[k++];
  }
  return matrix;
}

}  // namespace

Refitter::Refitter(const FitProblem& problem, const ObjectiveOptions& options,
                   const Eigen::VectorXd& start)
    : problem_(problem), options_(options), start_(start) {
  if (problem.form().log_linear() && problem.parameters() <= kMaxRefitParameters &&
      (options.objective == FitObjective::linear || options.objective == FitObjective::weighted)) {
    prepare_newton();
  }
}

void Refitter::prepare_newton() {
  const size_t n = problem_.rows(), p = problem_.parameters();
  rows_.rows = (n + kRefitRowAlignment - 1) / kRefitRowAlignment * kRefitRowAlignment;
  rows_.parameters = p;
  const bool weighted = options_.objective == FitObjective::weighted;
  // The design's columns, then values, variances and the three kinds of terms.
  constexpr size_t kOtherColumns = 5;
  memory_ = hwy::AllocateAligned<double>((p + kOtherColumns) * rows_.rows);
  require(memory_ != nullptr, "no memory for {} rows of {} parameters", n, p);
  double* next = memory_.get();
  const auto column = [&](double padding, auto value_of_row) {
    double* const begin = std::exchange(next, next + rows_.rows);
    for (size_t i = 0; i < rows_.rows; ++i) {
      begin[i] = i < n ? value_of_row(static_cast<Eigen::Index>(i)) : padding;
    }
    return begin;
  };
  rows_.design = next;
  for (size_t j = 0; j < p; ++j) {
    column(0,
           [&](Eigen::Index i) { return problem_.orthonormal()(i, static_cast<Eigen::Index>(j)); });
  }
  rows_.values = column(0, [&](Eigen::Index i) { return problem_.values()[i]; });
  if (weighted) {
    rows_.variances = column(1, [&](Eigen::Index i) {
      const double error = problem_.standard_errors()[i];
      return error * error + options_.floor * options_.floor;
    });
    rows_.squared_scatter = options_.relative_scatter * options_.relative_scatter;
  }
  const auto no_value = [](Eigen::Index) { return 0.0; };
  at_start_ = {column(0, no_value), column(0, no_value), column(0, no_value)};
  fill_refit_terms(rows_, start_.data(), at_start_);
}

Refitter::NewtonOutcome Refitter::newton(std::span<const uint32_t> counts, RefitWorkspace& work,
                                         Eigen::VectorXd& z) const {
  if (work.rows != rows_.rows) {
    work.rows = rows_.rows;
    work.counts = hwy::AllocateAligned<uint32_t>(work.rows);
    work.real_counts = hwy::AllocateAligned<double>(work.rows);
    require(work.counts != nullptr && work.real_counts != nullptr, "no memory for {} rows",
            work.rows);
    std::fill_n(work.counts.get(), work.rows, 0u);
  }
  std::copy(counts.begin(), counts.end(), work.counts.get());
  const auto p = static_cast<Eigen::Index>(rows_.parameters);
  RefitSums sums;
  std::array<double, kMaxRefitPairs> gram;
  sum_refit_terms(rows_, at_start_, work.counts.get(), work.real_counts.get(), sums, gram);
  const Eigen::LDLT<SmallMatrix> gram_factor(unpack(gram, p));
  const SmallVector pivots = gram_factor.vectorD();
  if (!pivots_determine_parameters(pivots.minCoeff(), pivots.maxCoeff())) {
    return NewtonOutcome::undetermined;
  }
  z = start_;
  double before = 0;
  for (int step = 0; step < kMaxNewtonSteps; ++step) {
    const Eigen::LLT<SmallMatrix> factor(unpack(sums.hessian, p));
    const SmallVector gradient = Eigen::Map<const Eigen::VectorXd>(sums.gradient.data(), p);
    const SmallVector move = factor.solve(gradient);
    const double decrement = gradient.dot(move);
    if (factor.info() != Eigen::Success || !move.allFinite() || !std::isfinite(sums.objective) ||
        (step > 0 && !(decrement < kLeastContraction * before))) {
      return NewtonOutcome::failed;
    }
    z -= move;
    // The objective is twice the cost that LeastSquaresOptions speaks of.
    const double allowed = kRefitSettings.tolerance * sums.objective;
    const double share = decrement / before;
    if (decrement <= allowed || (step > 0 && kForesight * decrement * share * share <= allowed)) {
      return NewtonOutcome::converged;
    }
    before = decrement;
    sum_refit_rows(rows_, z.data(), work.real_counts.get(), sums);
  }
  return NewtonOutcome::failed;
}

std::optional<Eigen::VectorXd> Refitter::refit(std::span<const uint32_t> counts,
                                               RefitWorkspace& work) const {
  require(counts.size() == problem_.rows(), "{} counts for {} rows", counts.size(),
          problem_.rows());
  if (rows_.rows > 0) {
    Eigen::VectorXd z;
    const NewtonOutcome outcome = newton(counts, work, z);
    if (outcome == NewtonOutcome::converged) return z;
    if (outcome == NewtonOutcome::undetermined) return std::nullopt;
  }
  const FitProblem sample = problem_.resampled(counts);
  if (!sample.determines_parameters()) return std::nullopt;
  Solution solution = solve(sample, options_, start_, kRefitSettings);
  if (!std::isfinite(solution.objective) || !solution.z.allFinite()) return std::nullopt;
  return std::move(solution.z);
}

std::optional<Solution> refit(const FitProblem& problem, const ObjectiveOptions& options,
                              const Eigen::VectorXd& start, std::span<const uint32_t> counts) {
  RefitWorkspace work;
  const auto z = Refitter(problem, options, start).refit(counts, work);
  if (!z) return std::nullopt;
  Solution solution;
  solution.z = *z;
  solution.objective = objective_at(problem.resampled(counts), options, *z);
  solution.converged = true;
  return solution;
}

}  // namespace fewbit
