// SIMD kernels of error feedback on one panel (kPanelRows rows, columns contiguous).
#pragma once

#include <cstddef>

#include "fewbit/formats/grid.h"

namespace fewbit {

// w[r] -= sum_k factors[k] * errors[k][r], k < count.
void subtract_errors(const float* factors, const float* errors, size_t count, float* w);

// error[r] = (w[r] - q[r]) / diagonal; squares[r] += error[r]^2.
void scaled_error(const float* w, const float* q, float diagonal, float* error, float* squares);

}  // namespace fewbit
