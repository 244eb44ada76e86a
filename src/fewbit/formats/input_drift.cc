#include "fewbit/formats/input_drift.h"

#include <algorithm>

#include "fewbit/base/error.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/dense_kernels.h"
#include "fewbit/formats/panel_codes.h"

namespace fewbit {
namespace {

// Rows of P that are computed together, and the columns and depth of one product.
constexpr size_t kRows = 64, kTile = 128;
static_assert(kTile % kProductColumns == 0);

// U and U^t with aligned rows.
struct AlignedFactor {
  size_t padded = 0;
  AlignedFloats upper, lower;

  explicit AlignedFactor(const Matrix& transposed)
      : padded((transposed.rows() + kTile - 1) / kTile * kTile),
        upper(transposed.rows() * padded),
        lower(transposed.rows() * padded) {
    const size_t size = transposed.rows();
    parallel_for_chunks(size, kRows, [&](size_t first, size_t last) {
      for (size_t j0 = 0; j0 < size; j0 += kRows) {
        for (size_t i = first; i < last; ++i) {
          for (size_t j = j0; j < std::min(j0 + kRows, size); ++j) {
            lower[i * padded + j] = transposed(i, j);
            upper[i * padded + j] = transposed(j, i);
          }
        }
      }
    });
  }
};

}  // namespace

InputDrift input_drift(MatrixView<const double> cross, const HessianFactor& factor, double alpha) {
  const size_t size = factor.size();
  require(cross.rows() == size && cross.cols() == size,
          "a product of inputs [{}, {}] with a Hessian of {}", cross.rows(), cross.cols(), size);
  require(!factor.transposed_factor.empty(), "the Hessian has no factor");
  const AlignedFactor aligned(factor.transposed_factor);
  const size_t padded = aligned.padded;
  InputDrift result{Matrix(size, size)};
  parallel_for((size + kRows - 1) / kRows, [&](size_t task) {
    const size_t first = task * kRows, rows = std::min(kRows, size - first);
    AlignedFloats drift(rows * padded), product(rows * padded), p(rows * padded);
    for (size_t r = 0; r < rows; ++r) {
      const size_t row = factor.order[first + r];
      for (size_t k = 0; k < size; ++k) {
        const size_t column = factor.order[k];
        if (!factor.dead[column]) drift[r * padded + k] = static_cast<float>(cross(row, column));
      }
    }
    // product = -D U^t. Only what is right of the diagonal stays, so tiles left of it are spared.
    for (size_t column = first / kTile * kTile; column < size; column += kTile) {
      for (size_t depth = column; depth < size; depth += kTile) {
        subtract_product(&drift[depth], padded, &aligned.lower[depth * padded + column], padded,
                         std::min(kTile, size - depth), &product[column], padded, rows, kTile);
      }
    }
    for (size_t r = 0; r < rows; ++r) {
      std::fill_n(&product[r * padded], first + r + 1, 0.0f);
    }
    for (size_t column = first / kTile * kTile; column < size; column += kTile) {
      for (size_t depth = first / kTile * kTile; depth <= column; depth += kTile) {
        subtract_product(&product[depth], padded, &aligned.upper[depth * padded + column], padded,
                         std::min(kTile, size - depth), &p[column], padded, rows, kTile);
      }
    }
    const auto scale = static_cast<float>(-alpha);
    for (size_t c = first + 1; c < size; ++c) {
      for (size_t r = 0; r < std::min(rows, c - first); ++r) {
        result.transposed(c, first + r) = scale * p[r * padded + c];
      }
    }
  });
  return result;
}

}  // namespace fewbit
