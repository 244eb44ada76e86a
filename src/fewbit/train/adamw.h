// AdamW (Loshchilov and Hutter, arXiv 1711.05101) with global-norm clipping.
//
//   theta <- theta (1 - lr wd) - lr mhat / (sqrt(vhat) + epsilon), bias-corrected moments,
//   gradients scaled by min(1, clip / (norm + 1e-6)).
//
// Everything is float32; the norm is summed in double over fixed chunks, so that results do not
// depend on the number of threads. All tensors are dense, in host memory.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fewbit {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;  // 0: no clipping
};

// One tensor under training, with its parameter group. Moments are zero at the start.
struct TrainedTensor {
  std::string name;
  at::Tensor value, first_moment, second_moment;
  bool trained = true;     // False: constant, without moments and without a gradient.
  bool decay = true;       // Norms, biases and quantizer parameters have no weight decay.
  double rate_factor = 1;  // Learning rate over that of the step.
  // If defined: bfloat16 values, kept equal to the rounded `value`.
  at::Tensor bf16_copy;
};

// Vectors (norms, biases) do not decay.
TrainedTensor trained_tensor(std::string name, const at::Tensor& value);
// From now on the tensor is a constant.
void stop_training(TrainedTensor& tensor);

// Where a list of gradients is asked for, constants have undefined ones.

// sqrt of the sum of squares over all gradients.
double global_norm(const std::vector<at::Tensor>& gradients);

// Adds the gradients of all further shards to the first shard's, in shard order, and returns the
// global norm of the sums: one pass over the memory. Each shard has the same list of tensors.
double reduce_gradients(std::span<std::vector<at::Tensor>> shards);

// One update; `gradients` in the order of `tensors`, `norm` their global_norm(); `step` counts from
// 0. The caller checks the norm: one that is not finite must not reach the weights.
void adamw_step(std::vector<TrainedTensor>& tensors, const std::vector<at::Tensor>& gradients,
                double norm, double learning_rate, uint64_t step, const AdamWOptions& options);

}  // namespace fewbit
