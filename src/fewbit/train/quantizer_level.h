// Fake quantizers on level grids: everything whose levels are a scale times fixed integers.
//
// The methods of the literature differ in grid, in where the scale comes from and in the gradient;
// quantizer_rules.h says which of them uses what.
#pragma once

#include <memory>

#include "fewbit/train/fake_quant.h"
#include "fewbit/train/fake_quant_function.h"

namespace fewbit {

// factor * statistic + added, of each group.
struct ScaleStatistic {
  enum class Kind { largest_magnitude, mean_magnitude };
  Kind kind = Kind::largest_magnitude;
  double factor = 1, added = 0;
};
// [groups, 1], in the type of `groups` [G, L], accumulated in float64; takes no gradient.
at::Tensor scale_statistic(const at::Tensor& groups, const ScaleStatistic& statistic);
// Mean of each group.
at::Tensor group_means(const at::Tensor& groups);

// The scale p * start, p = 1, 0.99 .. 0.21, with the least squared error of each group; the first
// one wins a tie. Within 0.2 % of the optimum for normally distributed rows.
at::Tensor least_squares_scale(const at::Tensor& groups, const at::Tensor& start,
                               const LevelRule& rule);

struct LevelQuantizer {
  enum class Scale {
    learned,      // a parameter
    learned_log,  // its logarithm is the parameter, so that steps are relative
    fixed,        // taken once
    recomputed    // from the weights at every step
  };

  std::string name;
  ScaleGroups groups = ScaleGroups::per_row(0, 0);
  LevelRule rule;
  Scale scale = Scale::learned;
  ScaleStatistic statistic;    // of the start, or of every step
  bool least_squares = false;  // refine the start by least_squares_scale()
  bool subtract_mean = false;  // codes of w - mean of the group
};
// The scales start from `weight`.
std::unique_ptr<FakeQuant> make_level_fake_quant(const LevelQuantizer& quantizer,
                                                 const at::Tensor& weight);

}  // namespace fewbit
