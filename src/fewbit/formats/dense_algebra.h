// Blocked dense linear algebra in double: Cholesky factor, triangular inverse. Runs on all threads,
// bit-identical for any number of them (LAPACK libraries do not promise that).
#pragma once

#include <cstddef>
#include <vector>

#include "fewbit/formats/panel_codes.h"

namespace fewbit {

// A square matrix whose storage is padded to whole tiles; the padding is an identity block, which
// factorisation and inversion leave alone.
class SquareMatrix {
 public:
  // Tiles of 128 x 128 doubles are 128 KiB: three of them fit a second-level cache.
  static constexpr size_t kTile = 128;

  // size x size zeros.
  explicit SquareMatrix(size_t size);
  size_t size() const { return size_; }
  size_t padded_size() const { return padded_; }
  size_t stride() const { return stride_; }
  double& operator()(size_t r, size_t c) { return values_[r * stride_ + c]; }
  double operator()(size_t r, size_t c) const { return values_[r * stride_ + c]; }
  double* tile(size_t tile_row, size_t tile_col) {
    return &values_[tile_row * kTile * stride_ + tile_col * kTile];
  }

 private:
  size_t size_, padded_, stride_;
  std::vector<double, PanelAllocator<double>> values_;
};

// A = L L^t, L lower triangular, in place; reads and writes the lower triangle only. False if A is
// not positive definite or not finite; then A holds nothing of use. size^3 / 6 multiply-adds.
bool cholesky_in_place(SquareMatrix& a);

// L <- L^-1 of a lower triangular matrix with a non-zero diagonal; the upper triangle is not used.
// size^3 / 6 multiply-adds.
void invert_lower_in_place(SquareMatrix& l);

}  // namespace fewbit
