// The parts of a decoder that are not matrix products, over rows of float32, one thread each.
// Highway chooses the instruction set at run time. Outputs may be inputs only where it says so.
#pragma once

#include <cstddef>
#include <span>

#include "fewbit/model/model_spec.h"

namespace fewbit {

// y = x * rsqrt(mean(x^2) + epsilon) * w, w = weight or 1 + weight. `y` may be `x`.
void rms_norm_row(std::span<const float> x, std::span<const float> weight, bool plus_one,
                  float epsilon, float* y);
// y = (x - mean) * rsqrt(variance + epsilon) * weight + bias; an empty bias is none. `y` may be
// `x`.
void layer_norm_row(std::span<const float> x, std::span<const float> weight,
                    std::span<const float> bias, float epsilon, float* y);
// Rotates, in place, the pairs (i, i + half) of one head by the angles whose cosines and sines are
// given, [half] each.
void rotate_head(const float* cosine, const float* sine, size_t half, float* head);

// x = f(x).
void activate_row(Activation activation, std::span<float> x);
// gate = f(gate) * up.
void gate_row(Activation activation, std::span<float> gate, const float* up);

// x += factor * y.
void add_row(std::span<float> x, const float* y, float factor);
// x *= factor.
void scale_row(std::span<float> x, float factor);
// x = cap * tanh(x / cap).
void softcap_row(std::span<float> x, float cap);
// x = softmax(x).
void softmax_row(std::span<float> x);

}  // namespace fewbit
