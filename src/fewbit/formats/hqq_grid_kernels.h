// SIMD kernels of HQQ's grid; lanes run over the rows of a panel.
#pragma once

#include <cstdint>

#include "fewbit/formats/grid.h"

namespace fewbit {

struct HqqRule {
  float largest_code;  // 2^bits - 1
  float norm;          // p
  float inverse_beta;
};

// One step for a group: reads scales and zero points of kPanelRows rows, writes the zero points
// after the step to `next` and the sum of |e| before it to `errors`.
void hqq_step(const HqqRule& rule, Panel<const float> weights, const float* scales,
              const float* zeros, float* next, float* errors);

// code = clamp(round(w / s + z), 0, largest_code), decoded = s * (code - z), of kPanelRows rows.
void assign_hqq_column(const float* weights, const float* scales, const float* zeros,
                       float largest_code, uint8_t* codes, float* decoded);

}  // namespace fewbit
