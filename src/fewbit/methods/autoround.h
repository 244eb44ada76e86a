// AutoRound (SignRound): learns, block by block, whether each weight rounds up or down and how far
// the range of each group is pulled in, by steps along the sign of the gradient.
//
//   code = clip(round(w / s + v) + z, 0, 2^b - 1)      s, z of [a min(w, 0), c max(w, 0)]
//   v = 0, a = c = 1 at the start: round to nearest; a and c stay within [0, 1]
//   p <- p - rate_t sign(dL/dp),  rate_t = (1 - t / steps) / steps
//
// so that |v| stays below 1/2 + 1 / (2 steps) and a code moves by one at most under the same range.
// L is the mean squared difference of the block's output, on the quantized stream, from the
// full-precision network's. Every step draws its sequences; what is kept is the step of the
// smallest loss on its own draw, if it is better than the start over all sequences.
//
// Stored as round to nearest on an asymmetric uniform grid. Cost: steps runs of `batch` sequences
// through the block and its gradients. Source: arXiv 2309.05516; docs/methods/autoround.md.
#pragma once

#include "fewbit/calibrate/pass.h"

namespace fewbit {

MethodInfo autoround_method();

}  // namespace fewbit
