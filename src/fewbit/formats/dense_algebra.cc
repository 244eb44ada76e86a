#include "fewbit/formats/dense_algebra.h"

#include <algorithm>
#include <cmath>

#include "fewbit/base/threads.h"
#include "fewbit/formats/dense_kernels.h"

namespace fewbit {
namespace {

constexpr size_t kTile = SquareMatrix::kTile;
static_assert(kTile % kProductColumns == 0);
// The stride avoids powers of two, whose rows would compete for the same cache lines.
constexpr size_t kStridePadding = 8;

using Doubles = std::vector<double, PanelAllocator<double>>;

// Right-looking Cholesky of one tile; the inner loop runs along a row.
bool factor_tile(double* a, size_t stride) {
  double column[kTile];
  for (size_t k = 0; k < kTile; ++k) {
    const double pivot = a[k * stride + k];
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    a[k * stride + k] = root;
    for (size_t i = k + 1; i < kTile; ++i) column[i] = a[i * stride + k] /= root;
    for (size_t i = k + 1; i < kTile; ++i) {
      double* row = a + i * stride;
      const double factor = column[i];
      for (size_t j = k + 1; j <= i; ++j) row[j] -= factor * column[j];
    }
  }
  return true;
}

// inverse [kTile][kTile] = l^-1, zero above the diagonal.
void invert_tile(const double* l, size_t stride, double* inverse) {
  std::fill(inverse, inverse + kTile * kTile, 0.0);
  for (size_t i = 0; i < kTile; ++i) {
    double* row = inverse + i * kTile;
    for (size_t k = 0; k < i; ++k) {
      const double factor = l[i * stride + k];
      const double* above = inverse + k * kTile;
      for (size_t j = 0; j <= k; ++j) row[j] -= factor * above[j];
    }
    const double diagonal = l[i * stride + i];
    for (size_t j = 0; j < i; ++j) row[j] /= diagonal;
    row[i] = 1 / diagonal;
  }
}

// target [depth][kTile] = transpose of the kTile x depth block at `source`.
void transpose_block(const double* source, size_t stride, size_t depth, double* target) {
  constexpr size_t kPatch = 8;
  for (size_t k0 = 0; k0 < depth; k0 += kPatch) {
    for (size_t r = 0; r < kTile; ++r) {
      for (size_t k = k0; k < k0 + kPatch; ++k) target[k * kTile + r] = source[r * stride + k];
    }
  }
}

}  // namespace

SquareMatrix::SquareMatrix(size_t size)
    : size_(size),
      padded_((size + kTile - 1) / kTile * kTile),
      stride_(padded_ + kStridePadding),
      values_(padded_ * stride_) {
  for (size_t i = size; i < padded_; ++i) (*this)(i, i) = 1;
}

bool cholesky_in_place(SquareMatrix& a) {
  const size_t tiles = a.padded_size() / kTile, stride = a.stride();
  Doubles transposed(a.padded_size() * kTile), inverse(kTile * kTile), inverse_t(kTile * kTile);
  for (size_t j = 0; j < tiles; ++j) {
    // Tile column j: A_ij - L_i L_j^t over the finished columns, then times L_jj^-t.
    const size_t depth = j * kTile;
    parallel_for(j, [&](size_t k) {
      transpose_block(a.tile(j, k), stride, kTile, &transposed[k * kTile * kTile]);
    });
    const auto subtract_finished = [&](size_t i) {
      for (size_t k = 0; k < depth; k += kTile) {
        subtract_product(a.tile(i, 0) + k, stride, &transposed[k * kTile], kTile, kTile,
                         a.tile(i, j), stride, kTile, kTile);
      }
    };
    subtract_finished(j);
    if (!factor_tile(a.tile(j, j), stride)) return false;
    invert_tile(a.tile(j, j), stride, inverse.data());
    transpose_block(inverse.data(), kTile, kTile, inverse_t.data());
    parallel_for(tiles - j - 1, [&](size_t offset) {
      const size_t i = j + 1 + offset;
      subtract_finished(i);
      Doubles product(kTile * kTile);
      subtract_product(a.tile(i, j), stride, inverse_t.data(), kTile, kTile, product.data(), kTile,
                       kTile, kTile);
      for (size_t r = 0; r < kTile; ++r) {
        for (size_t c = 0; c < kTile; ++c) a.tile(i, j)[r * stride + c] = -product[r * kTile + c];
      }
    });
  }
  return true;
}

void invert_lower_in_place(SquareMatrix& l) {
  const size_t tiles = l.padded_size() / kTile, stride = l.stride();
  Doubles inverse(kTile * kTile), row_of_tiles(l.padded_size() * kTile);
  for (size_t i = 0; i < tiles; ++i) {
    // Tile row i of X: X_ij = -L_ii^-1 sum_{j <= k < i} L_ik X_kj.
    invert_tile(l.tile(i, i), stride, inverse.data());
    parallel_for(i, [&](size_t j) {
      Doubles sum(kTile * kTile), packed(kTile * kTile);
      for (size_t k = j; k < i; ++k) {
        for (size_t r = 0; r < kTile; ++r) {
          const double* source = l.tile(k, j) + r * stride;
          // Above the diagonal of X stands what A held there.
          const size_t count = k == j ? r + 1 : kTile;
          std::copy(source, source + count, &packed[r * kTile]);
          std::fill(&packed[r * kTile] + count, &packed[r * kTile] + kTile, 0.0);
        }
        subtract_product(l.tile(i, k), stride, packed.data(), kTile, kTile, sum.data(), kTile,
                         kTile, kTile);
      }
      double* target = &row_of_tiles[j * kTile * kTile];
      std::fill(target, target + kTile * kTile, 0.0);
      subtract_product(inverse.data(), kTile, sum.data(), kTile, kTile, target, kTile, kTile,
                       kTile);
    });
    // Both products subtract: `sum` is minus the sum, the target L_ii^-1 times the sum.
    for (size_t j = 0; j < i; ++j) {
      for (size_t r = 0; r < kTile; ++r) {
        for (size_t c = 0; c < kTile; ++c) {
          l.tile(i, j)[r * stride + c] = -row_of_tiles[(j * kTile + r) * kTile + c];
        }
      }
    }
    for (size_t r = 0; r < kTile; ++r) {
      std::copy_n(&inverse[r * kTile], r + 1, l.tile(i, i) + r * stride);
    }
  }
}

}  // namespace fewbit
