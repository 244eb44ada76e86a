// The operations of ops.h as plain ATen formulas, differentiated by autograd: what runs on devices
// and types that the fused kernels do not take (CUDA, float64), and the specification that those
// kernels are tested against.
#pragma once

#include "fewbit/network/ops.h"

namespace fewbit::ops::generic {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  MatmulDtype dtype);
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, bool plus_one);
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                      double epsilon);
at::Tensor rotate(const at::Tensor& x, const RotaryTable& table);
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const AttentionOptions& options);
at::Tensor activate(const at::Tensor& x, Activation activation);
at::Tensor cross_entropy_sum(const at::Tensor& hidden, const at::Tensor& weight,
                             const at::Tensor& targets, const HeadOptions& options,
                             MatmulDtype dtype);

}  // namespace fewbit::ops::generic
