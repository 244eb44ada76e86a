// Means with standard errors, quantiles, paired differences and the clustered bootstrap.
// Sums run in double and in the order of the data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace fewbit {

struct Estimate {
  double value = 0;
  double standard_error = 0;
};

// Mean and its standard error, sample standard deviation (ddof 1) / sqrt(n); 0 for n < 2.
Estimate mean_estimate(std::span<const double> values);

// Mean of a - b, item by item, with the standard error of the paired difference. Equal sizes.
Estimate paired_difference(std::span<const double> a, std::span<const double> b);

// Ratio estimator sum(totals) / sum(counts) over clusters (windows, sequences) of unequal weight,
// with its linearised standard error. Equal sizes, at least one count > 0.
Estimate cluster_ratio(std::span<const double> totals, std::span<const double> counts);

// Quantile by linear interpolation (type 7): position f * (n - 1) of the sorted values.
double quantile_sorted(std::span<const double> sorted, double fraction);
double quantile(std::span<const double> values, double fraction);

// Resampled cluster indices: `draws` lists of `clusters` indices each, with replacement.
std::vector<std::vector<uint32_t>> bootstrap_indices(size_t clusters, size_t draws, uint64_t seed);

struct Interval {
  double low = 0, high = 0;
};
// Percentile interval of `level` (0.95: quantiles 0.025 and 0.975). Non-finite values are left out.
Interval percentile_interval(std::span<const double> values, double level);

}  // namespace fewbit
