// AdamW (Loshchilov and Hutter, arXiv 1711.05101) with global-norm clipping.
//
//   theta <- theta (1 - lr wd) - lr mhat / (sqrt(vhat) + epsilon), bias-corrected moments.
//
// Everything is float32; the norm is summed in double over fixed chunks, so that results do not
// depend on the number of threads.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fewbit {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;  // 0: no clipping
};

// One tensor under training. Moments are zero at the start.
struct TrainedTensor {
  std::string name;
  at::Tensor value, first_moment, second_moment;  // float32, contiguous, CPU
  bool decay = true;  // Norms, biases and quantizer parameters have no weight decay.
};

// Vectors (norms, biases) do not decay.
TrainedTensor trained_tensor(std::string name, const at::Tensor& value);

// sqrt of the sum of squares over all gradients.
double global_norm(const std::vector<at::Tensor>& gradients);

// One update; `gradients` in the order of `tensors`, `norm` their global_norm(); `step` counts from
// 0. The caller checks the norm: one that is not finite must not reach the weights.
void adamw_step(std::vector<TrainedTensor>& tensors, const std::vector<at::Tensor>& gradients,
                double norm, double learning_rate, uint64_t step, const AdamWOptions& options);

}  // namespace fewbit
