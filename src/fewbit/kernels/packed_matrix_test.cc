#include "fewbit/kernels/packed_matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"

namespace fewbit {
namespace {

Matrix gaussian(size_t rows, size_t cols, uint64_t seed) {
  Matrix result(rows, cols);
  RandomStream random(seed, "kernels test");
  for (float& value : result.values()) value = static_cast<float>(random.normal());
  return result;
}

// x W^t in double.
DoubleMatrix exact_product(const Matrix& weights, const Matrix& x) {
  DoubleMatrix y(x.rows(), weights.rows());
  for (size_t t = 0; t < x.rows(); ++t) {
    for (size_t r = 0; r < weights.rows(); ++r) {
      for (size_t c = 0; c < x.cols(); ++c) y(t, r) += double{weights(r, c)} * x(t, c);
    }
  }
  return y;
}

Matrix decoded(const PackedMatrix& weights) {
  Matrix result(weights.rows(), weights.cols());
  weights.dequantize_rows(0, result.view());
  return result;
}

TEST(PackedMatrixTest, DenseProductsMatchDoublePrecision) {
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (const size_t cols : {1u, 15u, 16u, 33u, 257u}) {
      const Matrix rows = gaussian(19, cols, cols), x = gaussian(3, cols, 7);
      const PackedMatrix weights = PackedMatrix::from_floats(rows.view(), dtype);
      Matrix y(3, 19);
      matmul(weights, x.view(), y.view());
      const DoubleMatrix expected = exact_product(decoded(weights), x);
      for (size_t i = 0; i < y.size(); ++i) {
        EXPECT_NEAR(y.values()[i], expected.values()[i], 1e-5 * std::sqrt(cols) * 10);
      }
    }
  }
}

TEST(PackedMatrixTest, RowsOfMatmulEqualMatvec) {
  const Matrix rows = gaussian(37, 100, 1), x = gaussian(5, 100, 2);
  const PackedMatrix weights = PackedMatrix::from_floats(rows.view());
  Matrix y(5, 37);
  matmul(weights, x.view(), y.view());
  for (size_t t = 0; t < 5; ++t) {
    std::vector<float> single(37);
    matvec(weights, x.row(t), single);
    EXPECT_TRUE(std::ranges::equal(single, y.row(t)));
  }
}

TEST(PackedMatrixTest, WrongShapesAreErrors) {
  const PackedMatrix weights = PackedMatrix::from_floats(gaussian(4, 32, 1).view());
  std::vector<float> x(31), y(4);
  EXPECT_THROW(matvec(weights, x, y), Error);
  Matrix out(3, 32);
  EXPECT_THROW(weights.dequantize_rows(2, out.view()), Error);
  const std::vector<std::byte> bytes(18);
  EXPECT_THROW(PackedMatrix::from_ggml(GgmlType::q4_0, 1, 31, bytes), Error);
  EXPECT_THROW(PackedMatrix::from_ggml(GgmlType::q4_0, 2, 32, bytes), Error);
  EXPECT_THROW(PackedMatrix::from_ggml(GgmlType::q8_k, 1, 256, bytes), Error);
}

}  // namespace
}  // namespace fewbit
