#include "fewbit/formats/hessian_factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/dense_algebra.h"

namespace fewbit {
namespace {

constexpr double kFirstFloor = 1e-6;
constexpr double kFloorGrowth = 10;
constexpr size_t kPatch = 64;

std::vector<uint32_t> visiting_order(std::span<const double> diagonal, ColumnOrder order,
                                     size_t group_size) {
  std::vector<uint32_t> columns(diagonal.size());
  std::iota(columns.begin(), columns.end(), 0u);
  const auto larger = [&](uint32_t a, uint32_t b) { return diagonal[a] > diagonal[b]; };
  switch (order) {
    case ColumnOrder::none:
      break;
    case ColumnOrder::dynamic:
    case ColumnOrder::fixed:
      std::stable_sort(columns.begin(), columns.end(), larger);
      break;
    case ColumnOrder::gar: {
      std::vector<std::vector<uint32_t>> groups;
      for (size_t first = 0; first < columns.size(); first += group_size) {
        const size_t last = std::min(first + group_size, columns.size());
        groups.emplace_back(columns.begin() + static_cast<std::ptrdiff_t>(first),
                            columns.begin() + static_cast<std::ptrdiff_t>(last));
        std::stable_sort(groups.back().begin(), groups.back().end(), larger);
      }
      std::stable_sort(groups.begin(), groups.end(),
                       [&](const auto& a, const auto& b) { return larger(a[0], b[0]); });
      columns.clear();
      for (const auto& group : groups) columns.insert(columns.end(), group.begin(), group.end());
      break;
    }
  }
  return columns;
}

// H with the order of columns reversed: H^-1 = U^t U with U upper triangular in `order` is
// U = J M^-1 J where J H J = M M^t, so one Cholesky factorisation and one inverse are enough.
SquareMatrix load_reversed(MatrixView<const double> hessian, std::span<const uint32_t> order,
                           std::span<const double> diagonal) {
  const size_t size = order.size();
  SquareMatrix result(size);
  parallel_for(size, [&](size_t r) {
    const size_t row = order[size - 1 - r];
    for (size_t c = 0; c < r; ++c) result(r, c) = hessian(row, order[size - 1 - c]);
    result(r, r) = diagonal[row];
  });
  return result;
}

// U^t [j][i] = M^-1 [size - 1 - i][size - 1 - j], in square patches.
Matrix transposed_factor(const SquareMatrix& inverse) {
  const size_t size = inverse.size();
  Matrix result(size, size);
  parallel_for_chunks(size, kPatch, [&](size_t first, size_t last) {
    for (size_t i0 = 0; i0 < last; i0 += kPatch) {
      for (size_t j = first; j < last; ++j) {
        for (size_t i = i0; i < std::min(i0 + kPatch, j + 1); ++i) {
          result(j, i) = static_cast<float>(inverse(size - 1 - i, size - 1 - j));
        }
      }
    }
  });
  return result;
}

bool all_finite(MatrixView<const double> matrix) {
  std::vector<uint8_t> finite(matrix.rows());
  parallel_for(matrix.rows(), [&](size_t r) {
    double sum = 0;  // Infinite or not a number if any element is.
    for (const double x : matrix.row(r)) sum += 0 * x;
    finite[r] = sum == 0;
  });
  return std::find(finite.begin(), finite.end(), 0) == finite.end();
}

bool all_finite(const Matrix& matrix) {
  return std::all_of(matrix.values().begin(), matrix.values().end(),
                     [](float x) { return std::isfinite(x); });
}

}  // namespace

HessianFactor factorize_hessian(MatrixView<const double> hessian, size_t group_size,
                                const HessianFactorOptions& options) {
  const size_t size = hessian.rows();
  require(hessian.cols() == size && size > 0, "a Hessian of shape [{}, {}] is not square", size,
          hessian.cols());
  require(options.damping >= 0 && std::isfinite(options.damping) && options.damping_step > 0,
          "damping={} is not allowed; allowed: 0 and above", options.damping);
  HessianFactor factor;
  factor.column_order = options.order;
  factor.group_size = group_size == 0 ? size : group_size;
  factor.dead.resize(size);
  factor.diagonal.resize(size);
  std::vector<double> diagonal(size);
  for (size_t j = 0; j < size; ++j) {
    diagonal[j] = hessian(j, j);
    factor.diagonal[j] = static_cast<float>(diagonal[j]);
    factor.dead[j] = diagonal[j] == 0;
    if (factor.dead[j]) diagonal[j] = 1;
  }
  factor.order.resize(size);
  std::iota(factor.order.begin(), factor.order.end(), 0u);
  if (!all_finite(hessian)) {
    factor.outcome = FactorOutcome::not_factorised;
    factor.message = "the Hessian is not finite";
    return factor;
  }
  // Reference: columns are sorted after dead ones got H_jj = 1.
  factor.order = visiting_order(diagonal, options.order, factor.group_size);
  double mean = 0, largest = 0;
  for (const double x : diagonal) {
    mean += x / static_cast<double>(size);
    largest = std::max(largest, x);
  }

  const auto attempt = [&](double damping, double floor) {
    std::vector<double> damped(size);
    for (size_t j = 0; j < size; ++j) {
      damped[j] = std::max(diagonal[j] + damping * mean, floor * largest);
    }
    SquareMatrix work = load_reversed(hessian, factor.order, damped);
    if (!cholesky_in_place(work)) return false;
    invert_lower_in_place(work);
    factor.transposed_factor = transposed_factor(work);
    factor.damping = damping;
    return all_finite(factor.transposed_factor);
  };
  if (attempt(options.damping, 0)) return factor;
  factor.outcome = FactorOutcome::damped_more;
  double damping = options.damping;
  for (int step = 1; options.damping + step * options.damping_step < 1; ++step) {
    damping = options.damping + step * options.damping_step;
    if (!attempt(damping, 0)) continue;
    factor.message =
        fmt::format("the Hessian was not positive definite with damping {}; {} was needed",
                    options.damping, damping);
    return factor;
  }
  double floor = kFirstFloor;
  for (int step = 0; step < options.floor_steps; ++step, floor *= kFloorGrowth) {
    if (!attempt(damping, floor)) continue;
    factor.message = fmt::format(
        "the Hessian was not positive definite with damping {}; damping {} and a diagonal of at "
        "least {} of its maximum were needed",
        options.damping, damping, floor);
    return factor;
  }
  factor.outcome = FactorOutcome::not_factorised;
  factor.message = "the Hessian is not positive definite with any damping";
  factor.transposed_factor = Matrix();
  factor.damping = 0;
  std::iota(factor.order.begin(), factor.order.end(), 0u);
  return factor;
}

}  // namespace fewbit
