#include "fewbit/kernels/packed_matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/kernels/float_kernels.h"
#include "hwy/highway.h"

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

TEST(FloatKernelsTest, AllTargetsAndTilesGiveTheOrderedSum) {
  for (const size_t cols : {1u, 31u, 32u, 100u, 515u}) {
    const Matrix rows = gaussian(9, cols, 21), x = gaussian(7, cols, 22);
    const StoredFloats halves(Dtype::bf16, rows.values());
    std::vector<float> decoded_halves = halves.to_floats();
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      hwy::SetSupportedTargetsForTest(target);
      Matrix y(7, 9);
      multiply_rows(rows.view(), x.view(), y.view());
      for (size_t r = 0; r < 9; ++r) {
        const float* row = rows.row(r).data();
        const auto* stored = reinterpret_cast<const std::byte*>(row);
        for (size_t t = 0; t < 7; ++t) {
          ASSERT_NEAR(y(t, r), dot_reference(row, x.row(t).data(), cols), 1e-4);
          ASSERT_EQ(y(t, r), dot_stored(Dtype::f32, stored, x.row(t).data(), cols));
        }
        std::vector<float> actual(cols);
        decode_floats(Dtype::bf16, halves.bytes().data() + r * cols * 2, actual.data(), cols);
        ASSERT_TRUE(std::equal(actual.begin(), actual.end(), &decoded_halves[r * cols]));
      }
    }
    hwy::SetSupportedTargetsForTest(0);
  }
}

TEST(PackedMatrixTest, BlocksWithoutPanelsAndBorrowedBlocksAreDecoded) {
  constexpr size_t kRows = 5, kCols = 512;
  std::vector<std::byte> bytes(kRows * ggml_bytes(GgmlType::q8_0, kCols), std::byte{0x21});
  const auto borrowed =
      PackedMatrix::from_ggml(GgmlType::q8_0, kRows, kCols, bytes, Storage::borrowed);
  const auto repacked = PackedMatrix::from_ggml(GgmlType::q8_0, kRows, kCols, bytes);
  EXPECT_FALSE(borrowed.has_integer_kernel());
  EXPECT_TRUE(repacked.has_integer_kernel());
  EXPECT_EQ(decoded(borrowed), decoded(repacked));
  const Matrix x = gaussian(4, kCols, 3);
  Matrix a(4, kRows), b(4, kRows);
  matmul(borrowed, x.view(), a.view());
  matmul(repacked, x.view(), b.view(), Activations::f32);
  EXPECT_EQ(a, b);
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

// Codes 0 to 15 of three terms between permutations.
QuantizedMatrix three_terms(size_t rows, size_t cols) {
  std::vector<Term> terms;
  RandomStream random(11, "kernels test");
  for (const int bits : {2, 4, 1}) {
    UniformPlane plane(rows, cols, bits, 64, UniformPlane::ZeroPoint::symmetric, Dtype::f16);
    std::vector<uint8_t> codes(cols);
    for (size_t r = 0; r < rows; ++r) {
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random.below(1u << bits));
      plane.codes.set_row(r, codes);
    }
    for (size_t i = 0; i < plane.scales.size(); ++i) plane.scales.set(i, 0.25f);
    terms.push_back({plane});
  }
  return {rows,
          cols,
          terms,
          {{Permutation{random.permutation(cols)}}},
          {{Permutation{random.permutation(rows)}}}};
}

TEST(PackedMatrixTest, SumsOfPlanesBetweenTransformsEqualTheDecodedMatrix) {
  const QuantizedMatrix matrix = three_terms(50, 192);
  const PackedMatrix weights = PackedMatrix::from_quantized(matrix);
  EXPECT_TRUE(weights.has_integer_kernel());
  EXPECT_EQ(weights.layout(), "panels of 2-bit codes + 4-bit codes + 1-bit codes");
  EXPECT_EQ(decoded(weights), matrix.dequantize());
  const Matrix x = gaussian(9, 192, 3);
  const Matrix w = matrix.dequantize();
  const DoubleMatrix expected = exact_product(w, x);
  Matrix exact(9, 50), rounded(9, 50);
  matmul(weights, x.view(), exact.view(), Activations::f32);
  matmul(weights, x.view(), rounded.view());
  for (size_t t = 0; t < 9; ++t) {
    // Blocks of 64 columns of the permuted input: no scale is above max |x| / 127.
    float largest = 0;
    for (const float value : x.row(t)) largest = std::max(largest, std::abs(value));
    std::vector<float> single(50);
    matvec(weights, x.row(t), single);
    EXPECT_TRUE(std::ranges::equal(single, rounded.row(t)));
    for (size_t r = 0; r < 50; ++r) {
      double weight_sum = 0;
      for (size_t c = 0; c < 192; ++c) weight_sum += std::abs(w(r, c));
      EXPECT_NEAR(exact(t, r), expected(t, r), 1e-3);
      // Each term rounds the same codes, so that the bound is that of the sum.
      EXPECT_NEAR(rounded(t, r), expected(t, r), 0.5 * largest / 127 * weight_sum + 1e-3);
    }
  }
}

TEST(PackedMatrixTest, ResultsDoNotDependOnTheNumberOfThreads) {
  const PackedMatrix weights = PackedMatrix::from_quantized(three_terms(203, 192));
  const Matrix x = gaussian(300, 192, 4);
  const size_t before = thread_count();
  std::vector<Matrix> results;
  for (const size_t threads : {1, 3}) {
    set_thread_count(threads);
    matmul(weights, x.view(), results.emplace_back(300, 203).view());
  }
  set_thread_count(before);
  EXPECT_EQ(results[0], results[1]);
}

TEST(PackedMatrixTest, SharedInputsGiveTheSameAsSingleProducts) {
  const PackedMatrix a = PackedMatrix::from_quantized(three_terms(50, 192));
  const PackedMatrix b = PackedMatrix::from_floats(gaussian(20, 192, 5).view(), Dtype::f16);
  for (const size_t tokens : {1u, 4u}) {
    const Matrix x = gaussian(tokens, 192, 6);
    Matrix ya(tokens, 50), yb(tokens, 20), za(tokens, 50), zb(tokens, 20);
    const Product products[] = {{&a, ya.view()}, {&b, yb.view()}};
    matmul_shared(products, x.view());
    matmul(a, x.view(), za.view());
    matmul(b, x.view(), zb.view());
    EXPECT_EQ(ya, za);
    EXPECT_EQ(yb, zb);
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
