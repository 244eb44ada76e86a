// A teacher whose outputs a network under training learns to give.
//
// Loss per token, with the losses of distillation.h and L blocks whose outputs are s_b and t_b:
//
//   (1 - cross_entropy_share) divergence + cross_entropy_share cross entropy
//     + hidden_weight / L sum_b |s_b - t_b|^2 / |t_b|^2
//
// so that blocks and tokens weigh alike, whatever the size of their hidden states.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "fewbit/network/decoder.h"
#include "fewbit/network/distillation.h"

namespace fewbit {

struct Teacher {
  const Decoder* decoder = nullptr;
  ParameterMap parameters;
  ops::DistillationOptions options;
  double hidden_weight = 0;
};

// Error unless the teacher's outputs can be compared with those of `student`: the same vocabulary
// and, with a hidden_weight, blocks and width.
void check_teacher(const ModelSpec& teacher, const ModelSpec& student, double hidden_weight);

// Sum of the losses over tokens [batch, length]; differentiable in `parameters`.
at::Tensor distilled_loss_sum(const Teacher& teacher, const Decoder& student,
                              const ParameterMap& parameters, const BlockHooks& hooks,
                              const at::Tensor& tokens, const at::Tensor& targets);

}  // namespace fewbit
