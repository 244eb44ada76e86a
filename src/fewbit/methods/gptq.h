// GPTQ (arXiv 2210.17323): quantizes the columns of a layer one after another and moves those still
// to come so that tr((W - Q) H (W - Q)^T), H = c X^T X of the layer's inputs, grows least.
//
// Works on the steps of a block in execution order; with `true_sequential` the inputs of a step are
// computed with the earlier steps of the block quantized already. The solver is error_feedback.h.
// Cost per step: tokens * in^2 for H, in^3 for its factor, out * in^2 for the columns.
#pragma once

#include "fewbit/calibrate/pass.h"

namespace fewbit {

MethodInfo gptq_method();

}  // namespace fewbit
