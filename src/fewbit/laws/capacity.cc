#include "fewbit/laws/capacity.h"

#include <cmath>
#include <numbers>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/laws/scalar_minimum.h"

namespace fewbit {
namespace {

double density(double x) {
  return std::isinf(x) ? 0 : std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
}
// P(X > x).
double upper_tail(double x) { return std::erfc(x / std::numbers::sqrt2) / 2; }

// Integral of (x - level)^2 over [low, high] under the normal density.
double cell_error(double level, double low, double high) {
  // Differences of the smaller tails, or cells far out would cancel.
  const double mass =
      low > 0 ? upper_tail(low) - upper_tail(high) : upper_tail(-high) - upper_tail(-low);
  const double low_term = std::isinf(low) ? 0 : (low - 2 * level) * density(low);
  const double high_term = std::isinf(high) ? 0 : (high - 2 * level) * density(high);
  return (1 + level * level) * mass + low_term - high_term;
}

// Error of levels (offset + i) step, i = 0..count-1, each value going to the nearest.
double uniform_error(double step, double offset, size_t count) {
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const double level = (offset + static_cast<double>(i)) * step;
    const double low = i == 0 ? -HUGE_VAL : level - step / 2;
    const double high = i + 1 == count ? HUGE_VAL : level + step / 2;
    sum += cell_error(level, low, high);
  }
  return sum;
}

OptimalQuantizer optimal_uniform(int bits, double offset_from_half) {
  require(bits >= 1 && bits <= 16, "bits {}: allowed are 1 to 16", bits);
  const auto count = size_t{1} << bits;
  const double offset = -static_cast<double>(count) / 2 + offset_from_half;
  // The grid reaches from 0.5 to 16 standard deviations; the optimum lies well inside.
  const double low = std::log(1.0 / static_cast<double>(count));
  const double high = std::log(32.0 / static_cast<double>(count));
  const auto error = [&](double ln_step) {
    return uniform_error(std::exp(ln_step), offset, count);
  };
  const ScalarMinimum best = golden_minimum(error, low, high);
  return {std::exp(best.at), best.value};
}

}  // namespace

double capacity(double gmse, const CapacityConstants& constants) {
  require(gmse > 0, "mean squared error {} of a format is not positive", gmse);
  const double rate = -std::log(gmse) / (2 * std::numbers::ln2);
  // A format worse than storing nothing has no capacity.
  if (rate <= 0) return 0;
  return constants.l * std::pow(std::tanh(constants.f * rate), constants.c);
}

OptimalQuantizer optimal_midrise(int bits) { return optimal_uniform(bits, 0.5); }
OptimalQuantizer optimal_integer(int bits) { return optimal_uniform(bits, 0); }

OptimalQuantizer optimal_ternary() {
  const ScalarMinimum best =
      golden_minimum([](double step) { return uniform_error(step, -1, 3); }, 0.1, 5);
  return {best.at, best.value};
}

double shannon_gmse(double bits) { return std::exp2(-2 * bits); }

Estimate monte_carlo_gmse(const std::function<double(double)>& quantize, size_t samples,
                          uint64_t seed) {
  RandomStream random(seed, "gmse");
  std::vector<double> errors(samples);
  for (double& error : errors) {
    const double x = random.normal();
    error = std::pow(quantize(x) - x, 2);
  }
  return mean_estimate(errors);
}

}  // namespace fewbit
