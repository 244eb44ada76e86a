#include "fewbit/base/statistics.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"

namespace fewbit {

Estimate mean_estimate(std::span<const double> values) {
  if (values.empty()) return {};
  const double n = static_cast<double>(values.size());
  double sum = 0;
  for (double v : values) sum += v;
  const double mean = sum / n;
  if (values.size() < 2) return {mean, 0};
  double squares = 0;
  for (double v : values) squares += (v - mean) * (v - mean);
  return {mean, std::sqrt(squares / (n - 1) / n)};
}

Estimate paired_difference(std::span<const double> a, std::span<const double> b) {
  require(a.size() == b.size(), "paired difference of {} and {} items", a.size(), b.size());
  std::vector<double> differences(a.size());
  for (size_t i = 0; i < a.size(); ++i) differences[i] = a[i] - b[i];
  return mean_estimate(differences);
}

Estimate cluster_ratio(std::span<const double> totals, std::span<const double> counts) {
  require(totals.size() == counts.size(), "{} totals for {} counts", totals.size(), counts.size());
  double total = 0, count = 0;
  for (size_t i = 0; i < totals.size(); ++i) {
    total += totals[i];
    count += counts[i];
  }
  require(count > 0, "no scored items");
  const double ratio = total / count;
  const double n = static_cast<double>(totals.size());
  if (totals.size() < 2) return {ratio, 0};
  double squares = 0;
  for (size_t i = 0; i < totals.size(); ++i) {
    const double residual = totals[i] - ratio * counts[i];
    squares += residual * residual;
  }
  return {ratio, std::sqrt(squares * n / (n - 1)) / count};
}

double quantile_sorted(std::span<const double> sorted, double fraction) {
  require(!sorted.empty(), "quantile of no values");
  const double position = fraction * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(std::floor(position));
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double weight = position - static_cast<double>(below);
  return sorted[below] + weight * (sorted[above] - sorted[below]);
}

double quantile(std::span<const double> values, double fraction) {
  std::vector<double> sorted(values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  return quantile_sorted(sorted, fraction);
}

std::vector<std::vector<uint32_t>> bootstrap_indices(size_t clusters, size_t draws, uint64_t seed) {
  RandomStream random(seed, "bootstrap");
  std::vector<std::vector<uint32_t>> result(draws, std::vector<uint32_t>(clusters));
  for (auto& draw : result) {
    for (uint32_t& index : draw) index = static_cast<uint32_t>(random.below(clusters));
  }
  return result;
}

Interval percentile_interval(std::span<const double> values, double level) {
  std::vector<double> finite;
  for (double v : values) {
    if (std::isfinite(v)) finite.push_back(v);
  }
  std::sort(finite.begin(), finite.end());
  return {quantile_sorted(finite, (1 - level) / 2), quantile_sorted(finite, (1 + level) / 2)};
}

}  // namespace fewbit
