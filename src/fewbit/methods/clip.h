// Clipping search of AWQ: for every row and group of columns the bound m on |w| is searched that
// makes the error of the group's share of the output smallest,
//
//   E(m) = mean over tokens of (sum_j x_j (Q(clamp(w, -m, m))_j - w_j))^2 = d^T H d,
//   m = max |w| (1 - i / n), i = 0 .. floor(max_shrink n) - 1,
//
// with H the group's diagonal block of the inputs' Hessian and Q round to nearest on the grid that
// the recipe quantizes with later. The weights are then clamped: a later pass finds its ranges
// smaller. E never rises, m = max |w| being the first candidate. q and k are left as they are
// unless asked for, since errors of theirs act through a softmax.
//
// Once both ends of a group are clamped to +-m, an asymmetric grid's ideal zero point lies half-way
// between two integers, and rounding decides by the last bit. `zero_points=both` tries m with
// either end drawn in a little, and so both zero points; `plain` is the reference.
//
// Cost: n max_shrink roundings of the weights and products with H's blocks, times 3 with `both`.
// Source: arXiv 2306.00978; docs/methods/awq.md.
#pragma once

#include "fewbit/calibrate/pass.h"

namespace fewbit {

MethodInfo clip_method();

}  // namespace fewbit
