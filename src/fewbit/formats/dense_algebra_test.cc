#include "fewbit/formats/dense_algebra.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/matrix.h"
#include "fewbit/base/random.h"
#include "fewbit/formats/hessian.h"

namespace fewbit {
namespace {

SquareMatrix random_positive(size_t size) {
  RandomStream random(size, "positive");
  Matrix x(2 * size, size);
  random.fill_normal(x.values(), 0, 1);
  SquareMatrix a(size);
  for (size_t r = 0; r < size; ++r) {
    for (size_t c = 0; c < size; ++c) {
      for (size_t t = 0; t < x.rows(); ++t) {
        a(r, c) += static_cast<double>(x(t, r)) * static_cast<double>(x(t, c));
      }
    }
  }
  return a;
}

TEST(DenseAlgebraTest, CholeskyFactorTimesItsTransposeIsTheMatrix) {
  for (const size_t size : {1, 7, 128, 129, 300}) {
    const SquareMatrix a = random_positive(size);
    SquareMatrix l = a;
    ASSERT_TRUE(cholesky_in_place(l));
    for (size_t r = 0; r < size; ++r) {
      for (size_t c = 0; c <= r; ++c) {
        double sum = 0;
        for (size_t k = 0; k <= c; ++k) sum += l(r, k) * l(c, k);
        ASSERT_NEAR(sum, a(r, c), 1e-10 * a(0, 0)) << size << ": " << r << " " << c;
      }
    }
  }
}

TEST(DenseAlgebraTest, InverseTimesTheTriangleIsTheIdentity) {
  for (const size_t size : {1, 7, 128, 129, 300}) {
    SquareMatrix l = random_positive(size);
    ASSERT_TRUE(cholesky_in_place(l));
    SquareMatrix x = l;
    invert_lower_in_place(x);
    for (size_t r = 0; r < size; ++r) {
      for (size_t c = 0; c <= r; ++c) {
        double sum = 0;
        for (size_t k = c; k <= r; ++k) sum += l(r, k) * x(k, c);
        ASSERT_NEAR(sum, r == c, 1e-10) << size << ": " << r << " " << c;
      }
    }
  }
}

TEST(DenseAlgebraTest, CholeskySaysWhenAMatrixIsNotPositiveDefinite) {
  for (const double bad : {-1.0, 0.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    SquareMatrix a = random_positive(200);
    a(150, 150) = bad;
    EXPECT_FALSE(cholesky_in_place(a));
  }
}

TEST(HessianTest, IsTheScaledProductOfTheInputs) {
  RandomStream random(1, "inputs");
  Matrix x(600, 70);
  random.fill_normal(x.values(), 0.5, 1);
  HessianAccumulator accumulator(70);
  accumulator.add(x.view().rows_from(0, 100));
  accumulator.add(x.view().rows_from(100, 500));
  const DoubleMatrix h = accumulator.symmetric(0.25);
  EXPECT_EQ(accumulator.tokens(), 600u);
  for (size_t r = 0; r < 70; ++r) {
    for (size_t c = 0; c < 70; ++c) {
      double sum = 0;
      for (size_t t = 0; t < 600; ++t) {
        sum += static_cast<double>(x(t, r)) * static_cast<double>(x(t, c));
      }
      EXPECT_NEAR(h(r, c), 0.25 * sum, 1e-4);
      EXPECT_EQ(h(r, c), h(c, r));
    }
  }
}

TEST(HessianTest, ShardsMergeToTheWhole) {
  RandomStream random(2, "inputs");
  Matrix x(512, 33);
  random.fill_normal(x.values(), 0, 1);
  HessianAccumulator whole(33), first(33), second(33);
  whole.add(x.view());
  first.add(x.view().rows_from(0, 256));
  second.add(x.view().rows_from(256, 256));
  first.merge(second);
  EXPECT_EQ(first.symmetric(1), whole.symmetric(1));
  EXPECT_EQ(first.tokens(), 512u);
}

TEST(HessianTest, KeepsGrowingBeyondThePrecisionOfFloats) {
  const Matrix one(1, 1, {1.0f});
  HessianAccumulator accumulator(1);
  accumulator.add(one.view());
  for (int doubling = 0; doubling < 24; ++doubling) {
    const HessianAccumulator copy = accumulator;
    accumulator.merge(copy);
  }
  accumulator.add(one.view());
  EXPECT_EQ(accumulator.symmetric(1)(0, 0), 0x1p24 + 1);
}

TEST(HessianTest, RefusesOtherWidths) {
  HessianAccumulator accumulator(4);
  EXPECT_THROW(accumulator.add(Matrix(2, 5).view()), Error);
  EXPECT_THROW(accumulator.merge(HessianAccumulator(5)), Error);
}

}  // namespace
}  // namespace fewbit
