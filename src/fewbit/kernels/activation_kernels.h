// SIMD kernel of activation_blocks.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fewbit {

// A padded row: `units` units of `unit_columns` columns; a block is one unit or several.
struct ActivationLayout {
  size_t unit_columns, units, block;
};

// Codes of a row of units * unit_columns values; scale and sum of codes of every unit. unit_columns
// is a multiple of 16.
void quantize_activation_row(const ActivationLayout& layout, const float* x, int8_t* codes,
                             float* scales, int32_t* sums);

// The same in plain C++, bit for bit.
void quantize_activation_row_reference(const ActivationLayout& layout, const float* x,
                                       int8_t* codes, float* scales, int32_t* sums);

}  // namespace fewbit
