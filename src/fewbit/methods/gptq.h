// GPTQ (arXiv 2210.17323): quantizes the columns of a layer one after another and moves those still
// to come so that tr((W - Q) H (W - Q)^T), H = c X^T X of the layer's inputs, grows least.
//
// Works on the steps of a block in execution order; with `true_sequential` the inputs of a step are
// computed with the earlier steps of the block quantized already. The solver is error_feedback.h.
// Cost per step: tokens * in^2 for H, in^3 for its factor, out * in^2 for the columns.
//
// GPTAQ (arXiv 2504.02692) aims at the outputs of the full-precision network instead, W X^T with
// the inputs X it has there, and so makes up for the errors of earlier layers too (input_drift.h).
// Cost: a second stream of hidden states, another tokens * in^2 and in^3 per step, and twice
// out * in^2.
#pragma once

#include "fewbit/calibrate/pass.h"

namespace fewbit {

MethodInfo gptq_method();
MethodInfo gptaq_method();

}  // namespace fewbit
