// SIMD kernels of the uniform grid; lanes run over the rows of a panel.
#pragma once

#include <cstdint>
#include <span>

#include "fewbit/formats/grid.h"
#include "fewbit/formats/uniform_grid.h"

namespace fewbit {

// How uniform_grid.h's options become numbers.
struct UniformFitRule {
  UniformGridOptions::Symmetry symmetry;
  UniformGridOptions::Range range;
  Dtype scale_dtype;
  float largest_code;              // 2^bits - 1
  float midpoint;                  // 2^(bits - 1)
  std::span<const float> shrinks;  // candidates of the clipping search; {1} without it
  float norm;
  bool zero_neighbour;
};

// Scales (as stored, positive) and zero points of kPanelRows rows.
void fit_uniform_panel(const UniformFitRule& rule, Panel<const float> weights,
                       std::span<const float> importance, float* scales, float* zeros);

// code = clamp(round(w / s) + z, 0, largest_code), decoded = s * (code - z), of kPanelRows rows.
void assign_uniform_column(const float* weights, const float* scales, const float* zeros,
                           float largest_code, uint8_t* codes, float* decoded);

}  // namespace fewbit
