// The optimiser's inner loops, vectorized; one thread each.
#pragma once

#include <cstddef>
#include <span>

namespace fewbit::kernels {

// total += parts, one after the other; returns the sum of squares of the result.
double add_parts(float* total, std::span<const float* const> parts, size_t count);

struct AdamWConstants {
  float clip, beta1, beta2;
  float keep;             // 1 - lr * weight decay
  float rate;             // lr / (1 - beta1^t)
  float root_correction;  // 1 / sqrt(1 - beta2^t)
  float epsilon;
};
void adamw(const AdamWConstants& constants, const float* gradient, size_t count, float* value,
           float* first_moment, float* second_moment);

}  // namespace fewbit::kernels
