// SIMD kernels of activation_blocks.h.
#pragma once

#include <cstdint>
#include <span>

namespace fewbit {

// Codes of one block of a multiple of 16 values; returns its scale.
float quantize_activations(std::span<const float> x, int8_t* codes);
int32_t sum_codes(std::span<const int8_t> codes);

// The same in plain C++, bit for bit.
float quantize_activations_reference(std::span<const float> x, int8_t* codes);

}  // namespace fewbit
