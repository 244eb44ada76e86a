// Single-threaded SIMD products that the blocked algorithms of this room are made of. Callers split
// the work into pieces that do not depend on the number of threads, so results do not either.
#pragma once

#include <cstddef>

namespace fewbit {

// Numbers of columns below must be multiples of this, and B and C aligned to 64 bytes in every row.
inline constexpr size_t kProductColumns = 64;

// C [rows, cols] -= A [rows, depth] B [depth, cols]; ld* are elements from row to row.
void subtract_product(const float* a, size_t lda, const float* b, size_t ldb, size_t depth,
                      float* c, size_t ldc, size_t rows, size_t cols);
void subtract_product(const double* a, size_t lda, const double* b, size_t ldb, size_t depth,
                      double* c, size_t ldc, size_t rows, size_t cols);
// C += A B, where the product is summed in float and then added in double. C need not be aligned.
void add_product(const float* a, size_t lda, const float* b, size_t ldb, size_t depth, double* c,
                 size_t ldc, size_t rows, size_t cols);

}  // namespace fewbit
