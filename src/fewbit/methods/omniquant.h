// OmniQuant: learns, block by block, how far the range of every group of weights is pulled in (LWC)
// and scales and shifts of inputs that leave the block's function (LET), on the block's output.
//
//   LWC   hi = sigmoid(u) max w, lo = sigmoid(l) min w of each group; u = l = 4 at the start
//   LET   x -> (x - d) / s,  W -> W diag(s),  b -> b + W d    folded into the norm before q, k, v
//   and
//         the MLP, and into v before o (calibrate/fold.h); s starts as SmoothQuant's, d as 0, and d
//         is there only where biases are
//   loss  mean squared difference of the block's output from the full-precision network's, by AdamW
//
// Everything folds: the result is stored as round to nearest on an asymmetric uniform grid. A group
// whose weights have all one sign gets a zero point outside the codes, stored as a float.
//
// Cost: epochs * sequences runs of the block and its gradients. Source: arXiv 2308.13137;
// docs/methods/omniquant.md.
#pragma once

#include "fewbit/calibrate/fold.h"
#include "fewbit/calibrate/pass.h"

namespace fewbit {

MethodInfo omniquant_method();

// A learned equivalent transform of one group of linears.
struct EquivalentTransform {
  FoldGroup group;
  at::Tensor scale;  // By rows of the partner (fold_scale() in tensors); a leaf.
  at::Tensor shift;  // Likewise, or undefined.
};

// Applies transforms in their order; differentiable in everything.
ParameterMap transformed(const ModelSpec& spec, std::span<const EquivalentTransform> transforms,
                         ParameterMap parameters);

}  // namespace fewbit
