#include "fewbit/laws/weight_fluctuation.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/statistics.h"

namespace fewbit {
namespace {

constexpr double kTukeyFence = 1.5;

double rms_difference(std::span<const float> a, std::span<const float> b) {
  require(a.size() == b.size() && !a.empty(), "weights of {} and {} elements", a.size(), b.size());
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - b[i];
    squares += difference * difference;
  }
  return std::sqrt(squares / static_cast<double>(a.size()));
}

}  // namespace

FluctuationStatistics fluctuation(std::span<const float> before, std::span<const float> after,
                                  double scale) {
  require(before.size() == after.size() && !before.empty(), "weights of {} and {} elements",
          before.size(), after.size());
  std::vector<double> changes(before.size());
  for (size_t i = 0; i < changes.size(); ++i) {
    changes[i] = scale * (static_cast<double>(after[i]) - before[i]);
  }
  const double n = static_cast<double>(changes.size());
  FluctuationStatistics result;
  double squares = 0;
  for (const double change : changes) {
    result.mean += change / n;
    result.mean_abs += std::abs(change) / n;
    squares += change * change;
  }
  result.rms = std::sqrt(squares / n);
  double deviations = 0;
  for (const double change : changes) deviations += (change - result.mean) * (change - result.mean);
  result.standard_deviation = std::sqrt(deviations / n);
  std::sort(changes.begin(), changes.end());
  result.q1 = quantile_sorted(changes, 0.25);
  result.median = quantile_sorted(changes, 0.5);
  result.q3 = quantile_sorted(changes, 0.75);
  const double reach = kTukeyFence * (result.q3 - result.q1);
  const auto first = std::lower_bound(changes.begin(), changes.end(), result.q1 - reach);
  const auto last = std::upper_bound(changes.begin(), changes.end(), result.q3 + reach);
  result.lower_whisker = *first;
  result.upper_whisker = *std::prev(last);
  result.share_outside = 1 - static_cast<double>(last - first) / n;
  return result;
}

double root_mean_square(std::span<const float> values) {
  double squares = 0;
  for (const double value : values) squares += value * value;
  return values.empty() ? 0 : std::sqrt(squares / static_cast<double>(values.size()));
}

double quantization_to_update_ratio(std::span<const float> before, std::span<const float> after,
                                    std::span<const float> original,
                                    std::span<const float> quantized) {
  return rms_difference(original, quantized) / rms_difference(before, after);
}

}  // namespace fewbit
