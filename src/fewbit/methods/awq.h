// AWQ: a few input columns carry large activations and matter most. Their weights are multiplied by
// s_j > 1 and the activation divided by it (calibrate/fold.h), so that their relative rounding
// error falls; s is searched on the error of the outputs.
//
//   candidates   s_j = a_j^r, r = 0, 1/n, .. (n-1)/n, a_j = mean |x_j|, over sqrt(max s * min s);
//                with duo_scaling s_j = a_j^r / w_j^(1-r), w_j = mean over rows of |W_ij| over the
//                largest of its group, and s = 1 beside them
//   objective    mean squared change of the output of the module (attention, MLP) when the group's
//                weights become Q(W diag(s)) diag(s)^-1, Q = round to nearest on the grid that the
//                recipe quantizes with later; for a linear that ends its module, of its own output
// All scales of a block are searched on the unscaled block, then folded together. s = 1 is always a
// candidate, so the objective never rises.
//
// Cost: n_grid runs of attention and MLP over `search_tokens` tokens; o and down need none, their
// objective is a quadratic form of the inputs' Hessian. Source: arXiv 2306.00978;
// docs/methods/awq.md.
#pragma once

#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "fewbit/calibrate/pass.h"

namespace fewbit {

MethodInfo awq_method();

// The scales to try, s = 1 first. `importance`: w_j for duo scaling, or empty.
std::vector<std::vector<float>> awq_candidates(std::span<const double> mean_absolute,
                                               std::span<const double> importance, int n_grid);

// A search for the candidate of the smallest loss, the first of equal ones; a loss is a sum over
// batches of terms >= 0, made by `loss(candidate, batch)`. Candidates that cannot win are given up
// early, which changes nothing in the result; candidate 0 is always completed.
struct CandidateSearch {
  static constexpr double kGivenUp = std::numeric_limits<double>::infinity();
  size_t best = 0;
  std::vector<double> losses;  // kGivenUp where not completed.
};
CandidateSearch search_candidates(size_t candidates, size_t batches,
                                  const std::function<double(size_t, size_t)>& loss);

}  // namespace fewbit
