#include "fewbit/model/rope_divisors.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fewbit {
namespace {

constexpr double kTolerance = 1e-4;

double frequency(double base, size_t pair, size_t rotary_size) {
  return std::pow(base, -2.0 * static_cast<double>(pair) / static_cast<double>(rotary_size));
}

double divisor(const RopeScaling& scaling, double frequency) {
  // Turns within the original context.
  const double turns = scaling.original_context * frequency / (2 * std::numbers::pi);
  if (turns > scaling.high_frequency_factor) return 1;
  if (turns < scaling.low_frequency_factor) return scaling.factor;
  const double s = (turns - scaling.low_frequency_factor) /
                   (scaling.high_frequency_factor - scaling.low_frequency_factor);
  return 1 / ((1 - s) / scaling.factor + s);
}

bool gives(const RopeScaling& scaling, double base, std::span<const float> divisors) {
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double got = divisor(scaling, frequency(base, i, 2 * divisors.size()));
    if (!(std::abs(got - divisors[i]) <= kTolerance * divisors[i])) return false;
  }
  return true;
}

}  // namespace

std::vector<float> rope_divisors(const RopeScaling& scaling, double base, size_t rotary_size) {
  std::vector<float> divisors(rotary_size / 2);
  for (size_t i = 0; i < divisors.size(); ++i) {
    divisors[i] = static_cast<float>(divisor(scaling, frequency(base, i, rotary_size)));
  }
  return divisors;
}

std::optional<RopeScaling> rope_scaling_from_divisors(std::span<const float> divisors,
                                                      double base) {
  RopeScaling scaling;
  if (divisors.empty()) return std::nullopt;
  if (std::all_of(divisors.begin(), divisors.end(), [](float d) { return d == 1.0f; })) {
    return scaling;
  }
  scaling.kind = RopeScaling::Kind::llama3;
  scaling.factor = *std::max_element(divisors.begin(), divisors.end());
  if (!(scaling.factor > 1)) return std::nullopt;
  // Every published model has the default factors, and an original context that is a power of two.
  constexpr double kSmallestContext = 32, kLargestContext = 1 << 20;
  for (double context = kSmallestContext; context <= kLargestContext; context *= 2) {
    scaling.original_context = context;
    if (gives(scaling, base, divisors)) return scaling;
  }
  // Otherwise by least squares: between its two ends s = (1/divisor - 1/factor) / (1 - 1/factor) is
  // linear in the frequency, s = a f - b. Only ratios of the parameters matter, so low is 1.
  double n = 0, sum_f = 0, sum_s = 0, sum_ff = 0, sum_fs = 0;
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double s = (1.0 / divisors[i] - 1 / scaling.factor) / (1 - 1 / scaling.factor);
    if (!(s > kTolerance && s < 1 - kTolerance)) continue;
    const double f = frequency(base, i, 2 * divisors.size());
    n += 1;
    sum_f += f;
    sum_s += s;
    sum_ff += f * f;
    sum_fs += f * s;
  }
  const double determinant = n * sum_ff - sum_f * sum_f;
  if (n < 2 || !(determinant > 0)) return std::nullopt;
  const double a = (n * sum_fs - sum_f * sum_s) / determinant;
  const double b = (a * sum_f - sum_s) / n;
  if (!(b > 0)) return std::nullopt;
  scaling.low_frequency_factor = 1;
  scaling.high_frequency_factor = 1 + 1 / b;
  scaling.original_context = 2 * std::numbers::pi * a / b;
  if (gives(scaling, base, divisors)) return scaling;
  return std::nullopt;
}

}  // namespace fewbit
