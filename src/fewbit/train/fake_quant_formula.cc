#include "fewbit/train/fake_quant_formula.h"

namespace fewbit::formula {
namespace {

at::Tensor quotient(const at::Tensor& groups, const at::Tensor& scale, const at::Tensor& centre) {
  return (centre.defined() ? groups - centre : groups) / scale;
}

at::Tensor levels_of_quotient(const at::Tensor& u, const LevelGrid& grid) {
  if (grid.sign) {
    const at::Tensor signs = (u >= 0).to(u.scalar_type()) * 2 - 1;
    return grid.zero_stays_zero ? signs * (u != 0) : signs;
  }
  const at::Tensor steps =
      (u.clamp(grid.clip_low, grid.clip_high) * grid.steps_per_unit - grid.shift).round();
  return (steps - grid.first_step) * grid.level_step + grid.first_level;
}

}  // namespace

at::Tensor levels(const at::Tensor& groups, const at::Tensor& scale, const at::Tensor& centre,
                  const LevelGrid& grid) {
  return levels_of_quotient(quotient(groups, scale, centre), grid);
}

LevelGradients level_backward(const at::Tensor& groups, const at::Tensor& scale,
                              const at::Tensor& centre, const at::Tensor& gradient,
                              const LevelGrid& grid, const GradientRule& rule) {
  const at::Tensor u = quotient(groups, scale, centre);
  const auto below = [&](double bound) { return rule.open ? u <= bound : u < bound; };
  const auto above = [&](double bound) { return rule.open ? u >= bound : u > bound; };
  const at::Tensor outside = below(rule.window_low).logical_or(above(rule.window_high));
  at::Tensor term = at::zeros_like(u);
  if (rule.scale != GradientRule::Scale::none) term = levels_of_quotient(u, grid) * grid.unit;
  if (rule.scale == GradientRule::Scale::residual) term = term - u;
  term = term.masked_fill(above(rule.scale_high), rule.clipped_high)
             .masked_fill(below(rule.scale_low), rule.clipped_low);
  return {gradient.masked_fill(outside, 0), (term * gradient).sum(1, true) * rule.factor};
}

at::Tensor affine_codes(const at::Tensor& groups, const at::Tensor& scale, const at::Tensor& zero,
                        double largest_code) {
  return ((groups / scale).round() + zero).clamp(0, largest_code);
}

AffineGradients affine_backward(const at::Tensor& groups, const at::Tensor& scale,
                                const at::Tensor& zero, const at::Tensor& gradient,
                                double largest_code) {
  const at::Tensor u = groups / scale;
  const at::Tensor v = u.round() + zero;
  const at::Tensor clipped = (v < 0).logical_or(v > largest_code);
  const at::Tensor code = v.clamp(0, largest_code);
  return {gradient.masked_fill(clipped, 0),
          (gradient * ((code - zero) - u.masked_fill(clipped, 0))).sum(1, true),
          -(gradient * clipped).sum(1, true) * scale};
}

}  // namespace fewbit::formula
