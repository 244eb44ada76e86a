// The nodes of fake_quant_function.h as plain ATen formulas: their specification, and what runs on
// devices other than the CPU. Scales are effective ones, stored ones include the grid's unit.
#pragma once

#include "fewbit/train/fake_quant_function.h"

namespace fewbit::formula {

struct LevelGradients {
  at::Tensor groups, scale;
};
// Levels, as numbers of the groups' type.
at::Tensor levels(const at::Tensor& groups, const at::Tensor& scale, const at::Tensor& centre,
                  const LevelGrid& grid);
LevelGradients level_backward(const at::Tensor& groups, const at::Tensor& scale,
                              const at::Tensor& centre, const at::Tensor& gradient,
                              const LevelGrid& grid, const GradientRule& rule);

struct AffineGradients {
  at::Tensor groups, scale, zero;
};
at::Tensor affine_codes(const at::Tensor& groups, const at::Tensor& scale, const at::Tensor& zero,
                        double largest_code);
AffineGradients affine_backward(const at::Tensor& groups, const at::Tensor& scale,
                                const at::Tensor& zero, const at::Tensor& gradient,
                                double largest_code);

}  // namespace fewbit::formula
