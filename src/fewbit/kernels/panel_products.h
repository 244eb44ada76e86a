// Products of panels with int8 activations. All forms give the same floats: per row and unit the
// exact integer sum of (value - offset) * x, times scale * activation scale, plus min * scaled sum
// of the activations, added up unit after unit.
#pragma once

#include <cstddef>

#include "fewbit/base/matrix.h"
#include "fewbit/kernels/activation_blocks.h"
#include "fewbit/kernels/panel_matrix.h"

namespace fewbit {

// Tokens that multiply_panels_tile takes at a time on this machine.
size_t product_tile_width();

// y[i] of rows [first_panel * kPanelHeight, last_panel * kPanelHeight) for one token: `x` has
// width 1. Codes are unpacked in registers: one pass over the panels' bytes.
void multiply_panels(const PanelMatrix& weights, size_t first_panel, size_t last_panel,
                     const ActivationTile& x, float* y);

// y[t][i] of the same rows for tiles [first_tile, last_tile); `y` has one row for each token of
// these tiles and (last_panel - first_panel) * kPanelHeight columns. Panels are decoded to bytes
// once.
void multiply_panels(const PanelMatrix& weights, size_t first_panel, size_t last_panel,
                     const QuantizedActivations& x, size_t first_tile, size_t last_tile,
                     MatrixView<float> y);

// The specification: plain C++, one token (column `token` of the tile).
void multiply_panels_reference(const PanelMatrix& weights, size_t first_panel, size_t last_panel,
                               const ActivationTile& x, size_t token, float* y);

}  // namespace fewbit
