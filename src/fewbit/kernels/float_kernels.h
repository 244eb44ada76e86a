// SIMD kernels on rows of floats. Sums run in kSumLanes interleaved partial sums that are added up
// by halves: column c goes to lane c mod kSumLanes, so that the result is the same for every vector
// length and every grouping of rows and tokens.
#pragma once

#include <cstddef>

#include "fewbit/base/matrix.h"
#include "fewbit/io/safetensors.h"

namespace fewbit {

inline constexpr size_t kSumLanes = 32;

// `count` stored values of type F32, F16 or BF16, unaligned as they come.
void decode_floats(Dtype dtype, const std::byte* stored, float* out, size_t count);
// sum_c stored[c] * x[c]
float dot_stored(Dtype dtype, const std::byte* stored, const float* x, size_t count);
// y[t][r] = sum_c rows[r][c] * x[t][c]
void multiply_rows(MatrixView<const float> rows, MatrixView<const float> x, MatrixView<float> y);

// dot_stored of floats in plain C++; products and sums are rounded one by one.
float dot_reference(const float* a, const float* b, size_t count);

}  // namespace fewbit
