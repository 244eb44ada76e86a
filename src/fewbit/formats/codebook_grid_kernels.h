// SIMD kernel of the codebook grid; lanes run over the rows of a panel.
#pragma once

#include <cstdint>
#include <span>

#include "fewbit/formats/grid.h"

namespace fewbit {

// Sorted levels for the search. `midpoints` has 2^bits - 1 entries, `levels` 2^bits.
struct SortedLevels {
  std::span<const float> midpoints, levels;
};

// Position in the sorted levels of the one nearest to clamp(w * inverse, -1, 1), and that level
// times `absmax`, of kPanelRows rows.
void assign_codebook_column(const SortedLevels& sorted, const float* weights, const float* inverses,
                            const float* absmax, uint8_t* positions, float* decoded);

}  // namespace fewbit
