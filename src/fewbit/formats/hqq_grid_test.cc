#include "fewbit/formats/hqq_grid.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/error_feedback.h"
#include "fewbit/formats/format_registry.h"
#include "fewbit/formats/hessian.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using ::testing::HasSubstr;
using Stop = HqqGridOptions::Stop;

Matrix normal_matrix(size_t rows, size_t cols, uint64_t seed) {
  Matrix w(rows, cols);
  RandomStream(seed, "hqq").fill_normal(w.values(), 0.01, 1);
  return w;
}

double mean_error(const Matrix& w, const QuantizedMatrix& q, double norm) {
  const Matrix decoded = q.dequantize();
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    sum += std::pow(std::fabs(w.values()[i] - decoded.values()[i]), norm);
  }
  return sum / static_cast<double>(w.size());
}

const UniformPlane& plane_of(const QuantizedMatrix& q) {
  return std::get<UniformPlane>(q.terms().at(0).plane);
}

// --- fixture -------------------------------------------------------------------------------------

// The file's groups as rows: axis 1 cuts the row-major matrix into rows of group_size, axis 0 folds
// it into group_size rows whose columns are the groups.
Matrix groups_of(const std::vector<float>& values, size_t group_size, bool along_rows) {
  const size_t groups = values.size() / group_size;
  Matrix result(groups, group_size);
  for (size_t g = 0; g < groups; ++g) {
    for (size_t k = 0; k < group_size; ++k) {
      result(g, k) = values[along_rows ? g * group_size + k : k * groups + g];
    }
  }
  return result;
}

FEWBIT_FIXTURE_TEST(HqqFixture, "hqq", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const bool along_rows = file.metadata("axis") == "1";
  HqqGridOptions options;
  options.bits = std::stoi(file.metadata("nbits"));
  options.group_size = std::stoul(file.metadata("group_size"));
  options.round_zero = file.metadata("round_zero") == "True";
  options.stop = Stop::tensor;
  options.iterations = std::stoi(file.metadata("iters_max"));
  options.norm = std::stod(file.metadata("lp_norm"));
  options.beta = std::stod(file.metadata("beta"));
  options.scale_dtype = Dtype::f32;
  const Matrix w = groups_of(to_floats(file.tensor("W")), options.group_size, along_rows);

  const std::vector<float> expected_history = to_floats(file.tensor("err_history"));
  const std::vector<double> history = hqq_error_history(options, w.view());
  const size_t steps = std::min(history.size(), expected_history.size());
  for (size_t i = 0; i < steps; ++i) {
    EXPECT_NEAR(history[i], expected_history[i], 1e-5 * expected_history[i]) << i;
  }
  // Once no code changes any more, the last bits decide when the error has stopped falling.
  if (history.size() != expected_history.size()) {
    EXPECT_NEAR(history[steps - 1], history[steps - 2], 1e-6 * history[steps - 1]);
  }

  const QuantizedMatrix q = quantize_to_nearest(HqqGrid(options), w.view());
  const UniformPlane& plane = plane_of(q);
  const std::vector<float> inverse = to_floats(file.tensor("inv_scale"));
  const std::vector<float> zeros = to_floats(file.tensor("zero"));
  ASSERT_EQ(w.rows(), zeros.size());
  for (size_t g = 0; g < w.rows(); ++g) {
    EXPECT_NEAR(plane.scale(g, 0) * inverse[g], 1, 1e-6) << g;
    EXPECT_NEAR(plane.zero_point(g, 0), zeros[g], 1e-5) << g;
  }
  const auto stored_codes = to_integers(file.tensor("codes"));
  const std::vector<float> codes_as_floats(stored_codes.begin(), stored_codes.end());
  const Matrix codes = groups_of(codes_as_floats, options.group_size, along_rows);
  const Matrix expected = groups_of(to_floats(file.tensor("W_dq")), options.group_size, along_rows);
  const Matrix decoded = q.dequantize();
  size_t different = 0;
  for (size_t g = 0; g < w.rows(); ++g) {
    for (size_t k = 0; k < w.cols(); ++k) {
      if (plane.codes.at(g, k) != static_cast<int>(codes(g, k))) {
        ++different;
        continue;
      }
      EXPECT_NEAR(decoded(g, k), expected(g, k), 2e-5 * plane.scale(g, 0));
    }
  }
  EXPECT_LE(static_cast<double>(different), 0.001 * static_cast<double>(w.size()));
}

// --- properties ----------------------------------------------------------------------------------

TEST(HqqGridTest, TheErrorFallsUntilTheSearchStops) {
  for (const int bits : {2, 3, 4}) {
    const auto history =
        hqq_error_history({.bits = bits, .group_size = 32}, normal_matrix(70, 128, 1).view());
    ASSERT_GE(history.size(), 2u);
    for (size_t i = 1; i + 1 < history.size(); ++i) EXPECT_LT(history[i], history[i - 1]);
  }
}

TEST(HqqGridTest, StoppingByGroupIsNoWorseThanForTheWholeMatrix) {
  for (const int bits : {2, 3, 4, 8}) {
    const Matrix w = normal_matrix(70, 200, 2);
    HqqGridOptions options{.bits = bits, .group_size = 64, .scale_dtype = Dtype::f32};
    options.stop = Stop::group;
    const double by_group = mean_error(w, quantize_to_nearest(HqqGrid(options), w.view()), 1);
    options.stop = Stop::tensor;
    const double by_tensor = mean_error(w, quantize_to_nearest(HqqGrid(options), w.view()), 1);
    options.iterations = 0;
    const double start = mean_error(w, quantize_to_nearest(HqqGrid(options), w.view()), 1);
    EXPECT_LE(by_group, by_tensor * 1.0001) << bits;
    EXPECT_LE(by_tensor, start) << bits;
  }
}

TEST(HqqGridTest, ConstantGroupsComeBackAndEightBitsAreNearlyLossless) {
  Matrix w(3, 64);
  for (size_t c = 0; c < 64; ++c) {
    w(0, c) = 0;
    w(1, c) = -1.5f;
    w(2, c) = 0.75f;
  }
  for (const auto stop : {Stop::group, Stop::tensor}) {
    EXPECT_EQ(quantize_to_nearest(HqqGrid({.stop = stop}), w.view()).dequantize(), w);
  }
  const Matrix normal = normal_matrix(16, 64, 3);
  const HqqGrid fine({.bits = 8, .scale_dtype = Dtype::f32});
  EXPECT_LT(mean_error(normal, quantize_to_nearest(fine, normal.view()), 2), 1e-4);
}

TEST(HqqGridTest, ARowDoesNotDependOnItsNeighboursNorOnTheThreads) {
  const Matrix w = normal_matrix(130, 96, 4);
  const HqqGrid grid({.bits = 2, .group_size = 40});
  const Matrix all = quantize_to_nearest(grid, w.view()).dequantize();
  const Matrix tail = quantize_to_nearest(grid, w.view().rows_from(100, 3)).dequantize();
  for (size_t r = 0; r < 3; ++r) {
    for (size_t c = 0; c < w.cols(); ++c) EXPECT_EQ(tail(r, c), all(100 + r, c));
  }
  for (const auto stop : {Stop::group, Stop::tensor}) {
    const HqqGrid any({.bits = 3, .stop = stop});
    set_thread_count(1);
    const Matrix single = quantize_to_nearest(any, w.view()).dequantize();
    set_thread_count(3);
    EXPECT_EQ(quantize_to_nearest(any, w.view()).dequantize(), single);
  }
}

TEST(HqqGridTest, StoresItsZeroPointsAsTheyWereUsed) {
  const Matrix w = normal_matrix(5, 100, 5);
  for (const auto dtype : {Dtype::f16, Dtype::bf16, Dtype::f32}) {
    const HqqGrid grid({.bits = 3, .group_size = 32, .scale_dtype = dtype});
    const QuantizedMatrix q = quantize_to_nearest(grid, w.view());
    Matrix rounded(w.rows(), w.cols());
    round_to_grid(grid, w.view(), {}, rounded.view());
    EXPECT_EQ(q.dequantize(), rounded);
    EXPECT_EQ(QuantizedMatrix::from_tensors(q.to_tensors("w"), "w"), q);
  }
  const HqqGrid grid({.bits = 2});
  const Matrix big = normal_matrix(4, 256, 6);
  EXPECT_DOUBLE_EQ(quantize_to_nearest(grid, big.view()).bits_per_weight(), 2.5);
}

TEST(HqqGridTest, ErrorFeedbackOnItLowersTheOutputError) {
  const Matrix w = normal_matrix(40, 64, 7), x = normal_matrix(300, 64, 8);
  HessianAccumulator accumulator(64);
  accumulator.add(x.view());
  const DoubleMatrix h = accumulator.symmetric(2.0 / 300);
  for (const auto stop : {Stop::group, Stop::tensor}) {
    const HqqGrid grid({.bits = 2, .group_size = 32, .stop = stop});
    const auto fed = quantize_with_feedback(grid, w.view(), h.view(), {});
    const Matrix nearest = quantize_to_nearest(grid, w.view()).dequantize();
    EXPECT_LT(feedback_objective(w.view(), fed.matrix.dequantize().view(), h.view()),
              feedback_objective(w.view(), nearest.view(), h.view()));
  }
}

TEST(HqqGridTest, RefusesWhatItCannotDo) {
  EXPECT_THAT(
      [] {
        grid_from_options("hqq", {{"axis", "0"}});
      },
      ::testing::ThrowsMessage<Error>(HasSubstr("axis=0")));
  EXPECT_THAT(
      [] {
        grid_from_options("hqq", {{"norm", "1.5"}});
      },
      ::testing::ThrowsMessage<Error>(HasSubstr("norm")));
  Matrix far(1, 64, 1e6f);
  far(0, 0) = 1e6f + 2;
  EXPECT_THAT([&] { quantize_to_nearest(HqqGrid(HqqGridOptions{}), far.view()); },
              ::testing::ThrowsMessage<Error>(HasSubstr("zero point")));
  Matrix broken = normal_matrix(2, 64, 9);
  broken(1, 3) = std::nanf("");
  EXPECT_THAT([&] { quantize_to_nearest(HqqGrid(HqqGridOptions{}), broken.view()); },
              ::testing::ThrowsMessage<Error>(HasSubstr("[1, 3]")));
}

}  // namespace
}  // namespace fewbit
