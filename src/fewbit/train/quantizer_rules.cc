#include "fewbit/train/quantizer_rules.h"

#include <cmath>

#include "fewbit/base/error.h"

namespace fewbit {
namespace {

using Kind = ScaleStatistic::Kind;

// Added to the mean by Spectra.
constexpr double kTrilmEpsilon = 1e-5;

double inverse_root(double value) { return 1 / std::sqrt(value); }

// Residual in range, the clipped value outside; gradients of the weights in the same range.
GradientRule residual_gradient(double low, double high, double clipped_low, double clipped_high) {
  GradientRule rule;
  rule.window_low = rule.scale_low = low;
  rule.window_high = rule.scale_high = high;
  rule.scale = GradientRule::Scale::residual;
  rule.clipped_low = clipped_low;
  rule.clipped_high = clipped_high;
  return rule;
}

LevelQuantizer statistics_quantizer(std::string name, const ScaleGroups& groups, LevelGrid grid,
                                    ScaleStatistic statistic) {
  LevelQuantizer quantizer;
  quantizer.name = std::move(name);
  quantizer.groups = groups;
  quantizer.rule.grid = std::move(grid);
  quantizer.rule.gradient = identity_gradient();
  quantizer.scale = LevelQuantizer::Scale::recomputed;
  quantizer.statistic = statistic;
  return quantizer;
}

}  // namespace

LevelRule elastic_rule(int64_t weights, const ParetoQOptions& options) {
  LevelRule rule;
  rule.grid = sign_grid();
  rule.grid.zero_stays_zero = options.compatible;
  rule.gradient.window_low = -1;
  rule.gradient.window_high = 1;
  rule.gradient.factor = inverse_root(static_cast<double>(weights));
  return rule;
}

LevelRule stretched_rule(int levels, int64_t weights, const ParetoQOptions& options) {
  LevelRule rule;
  rule.grid = stretched_grid(levels);
  const bool unit_gradient = options.compatible && levels == 3;
  const double clipped = unit_gradient ? 1.0 : rule.grid.high();
  rule.gradient = residual_gradient(rule.grid.clip_low, rule.grid.clip_high, -clipped, clipped);
  rule.gradient.factor = inverse_root(static_cast<double>(weights));
  return rule;
}

LevelRule paretoq_lsq_rule(int bits, int64_t weights) {
  LevelRule rule;
  rule.grid = signed_grid(bits);
  const double low = rule.grid.clip_low, high = rule.grid.clip_high;
  rule.gradient = residual_gradient(low, high, low, high);
  rule.gradient.factor = inverse_root(static_cast<double>(weights) * high);
  return rule;
}

int levels_of_bits(std::string_view bits) {
  if (bits == "1") return 2;
  if (bits == "1.58") return 3;
  if (bits == "2") return 4;
  if (bits == "3") return 8;
  if (bits == "4") return 16;
  fail("bits={} is not allowed; allowed: 1, 1.58, 2, 3 or 4", bits);
}

LevelQuantizer paretoq_quantizer(std::string_view bits, const ScaleGroups& groups,
                                 const ParetoQOptions& options) {
  const int levels = levels_of_bits(bits);
  const int64_t weights = groups.rows() * groups.cols();
  LevelQuantizer quantizer;
  quantizer.name = "paretoq";
  quantizer.groups = groups;
  if (levels == 2) {
    quantizer.rule = elastic_rule(weights, options);
    quantizer.statistic.kind = Kind::mean_magnitude;
  } else if (levels <= 4) {
    quantizer.rule = stretched_rule(levels, weights, options);
  } else {
    quantizer.rule = paretoq_lsq_rule(levels == 8 ? 3 : 4, weights);
    quantizer.statistic.factor = 1 / quantizer.rule.grid.high();
  }
  return quantizer;
}

LevelRule lsq_rule(const LevelGrid& grid, int64_t count) {
  LevelRule rule;
  rule.grid = grid;
  rule.gradient = residual_gradient(grid.clip_low, grid.clip_high, grid.clip_low, grid.clip_high);
  rule.gradient.open = true;
  rule.gradient.factor = inverse_root(static_cast<double>(count) * grid.high());
  return rule;
}

ScaleStatistic lsq_start(const LevelGrid& grid) {
  return {Kind::mean_magnitude, 2 * inverse_root(grid.high()), 0};
}

LevelQuantizer lsq_quantizer(int bits, const ScaleGroups& groups) {
  LevelQuantizer quantizer;
  quantizer.name = "lsq";
  quantizer.groups = groups;
  quantizer.rule = lsq_rule(signed_grid(bits), groups.length());
  quantizer.statistic = lsq_start(quantizer.rule.grid);
  return quantizer;
}

LevelQuantizer min_max_quantizer(int bits, const ScaleGroups& groups) {
  const LevelGrid grid = signed_grid(bits);
  return statistics_quantizer("minmax", groups, grid,
                              {Kind::largest_magnitude, 1 / grid.high(), 0});
}

LevelQuantizer absmean_quantizer(const ScaleGroups& groups) {
  return statistics_quantizer("absmean", groups, ternary_grid(), {Kind::mean_magnitude, 1, 0});
}

LevelQuantizer bitnet_b1_quantizer(const ScaleGroups& groups) {
  LevelQuantizer quantizer =
      statistics_quantizer("bitnet-b1", groups, sign_grid(), {Kind::mean_magnitude, 1, 0});
  quantizer.subtract_mean = true;
  return quantizer;
}

LevelQuantizer trilm_quantizer(const ScaleGroups& groups) {
  return statistics_quantizer("trilm", groups, ternary_grid(),
                              {Kind::mean_magnitude, 1, kTrilmEpsilon});
}

LevelQuantizer bilm_quantizer(const ScaleGroups& groups) {
  LevelQuantizer quantizer =
      statistics_quantizer("bilm", groups, sign_grid(), {Kind::mean_magnitude, 1, 0});
  quantizer.subtract_mean = true;
  return quantizer;
}

LevelQuantizer llm_qat_quantizer(int bits, const ScaleGroups& groups) {
  LevelQuantizer quantizer;
  if (bits == 1) {
    quantizer = statistics_quantizer("", groups, sign_grid(), {Kind::mean_magnitude, 1, 0});
  } else if (bits == 2) {
    quantizer = statistics_quantizer("", groups, stretched_grid(4), {Kind::mean_magnitude, 2, 0});
  } else {
    quantizer = min_max_quantizer(bits, groups);
  }
  quantizer.name = "llm-qat";
  return quantizer;
}

}  // namespace fewbit
