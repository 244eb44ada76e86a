#include "fewbit/formats/input_drift.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/cross_product.h"
#include "fewbit/formats/error_feedback.h"
#include "fewbit/formats/format_registry.h"
#include "fewbit/formats/hessian.h"
#include "fewbit/testing/fixture.h"

namespace fewbit {
namespace {

using Options = std::map<std::string, std::string>;

Matrix matrix_of(const TensorView& tensor) {
  return Matrix(tensor.shape.at(0), tensor.shape.at(1), to_floats(tensor));
}

// Statistics of two streams of inputs, fed in `batches` equal parts.
struct Streams {
  DoubleMatrix hessian, cross;

  Streams(const Matrix& exact, const Matrix& x, size_t batches, double scale) {
    HessianAccumulator products(x.cols());
    CrossProductAccumulator differences(x.cols());
    Matrix difference = exact;
    for (size_t i = 0; i < x.size(); ++i) difference.values()[i] -= x.values()[i];
    const size_t rows = x.rows() / batches;
    for (size_t b = 0; b < batches; ++b) {
      products.add(x.view().rows_from(b * rows, rows));
      differences.add(difference.view().rows_from(b * rows, rows),
                      x.view().rows_from(b * rows, rows));
    }
    hessian = products.symmetric(scale);
    cross = differences.scaled(scale);
  }
};

// || X_q Q^t - X W^t ||^2.
double output_error(const Matrix& exact, const Matrix& x, const Matrix& w, const Matrix& q) {
  double total = 0;
  for (size_t t = 0; t < x.rows(); ++t) {
    for (size_t r = 0; r < w.rows(); ++r) {
      double difference = 0;
      for (size_t c = 0; c < w.cols(); ++c) {
        difference +=
            static_cast<double>(x(t, c)) * q(r, c) - static_cast<double>(exact(t, c)) * w(r, c);
      }
      total += difference * difference;
    }
  }
  return total;
}

FEWBIT_FIXTURE_TEST(GptaqFixture, "gptaq", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const auto flag = [&](const char* key) { return file.metadata(key) == "True"; };
  const auto number = [&](const char* key) { return std::stod(file.metadata(key)); };
  const Matrix w = matrix_of(file.tensor("W"));
  const Matrix exact = matrix_of(file.tensor("X_fp")), x = matrix_of(file.tensor("X_q"));
  const Streams streams(exact, x, std::stoul(file.metadata("n_batches")), 2 / number("n_batches"));
  const auto near = [](const auto& actual, const Matrix& expected, double relative) {
    double largest = 0, off = 0;
    for (size_t r = 0; r < expected.rows(); ++r) {
      for (size_t c = 0; c < expected.cols(); ++c) {
        largest = std::max<double>(largest, std::fabs(expected(r, c)));
        off = std::max<double>(off, std::fabs(actual(r, c) - expected(r, c)));
      }
    }
    EXPECT_LE(off, relative * largest);
  };
  near(streams.hessian, matrix_of(file.tensor("H")), 1e-5);
  near(streams.cross, matrix_of(file.tensor("dXXT")), 1e-5);

  const auto grid =
      grid_from_options("uniform", {{"bits", file.metadata("bits")},
                                    {"group_size", file.metadata("group_size")},
                                    {"symmetry", flag("sym") ? "sym_signed" : "asymmetric"},
                                    {"clip", flag("mse") ? "mse" : "none"},
                                    {"scale_dtype", "f32"}});
  HessianFactorOptions factor_options{.damping = number("percdamp")};
  if (flag("act_order")) {
    factor_options.order = flag("static_groups") ? ColumnOrder::fixed : ColumnOrder::dynamic;
  }
  const ErrorFeedbackOptions options{
      .group_grids = flag("static_groups") ? GroupGrids::beforehand : GroupGrids::stale,
      .block_size = std::stoul(file.metadata("block_size"))};
  const HessianFactor factor = factorize_hessian(streams.hessian.view(), 0, factor_options);
  const auto perm = to_integers(file.tensor("perm"));
  for (size_t i = 0; i < w.cols(); ++i) {
    if (!factor.dead[factor.order[i]]) {
      EXPECT_EQ(factor.order[i], perm[i]) << i;
    }
  }
  const InputDrift drift = input_drift(streams.cross.view(), factor, number("alpha"));
  const auto result = quantize_with_feedback(*grid, w.view(), factor, options, &drift);

  const auto& plane = std::get<UniformPlane>(result.matrix.terms().at(0).plane);
  const auto codes = to_integers(file.tensor("codes"));
  // Signed codes are stored with an offset.
  const int64_t offset = flag("sym") ? int64_t{1} << (plane.bits() - 1) : 0;
  size_t different = 0;
  for (size_t c = 0; c < w.cols(); ++c) {
    const size_t stored =
        result.matrix.input().is_identity()
            ? c
            : static_cast<size_t>(std::ranges::find(factor.order, c) - factor.order.begin());
    for (size_t r = 0; r < w.rows(); ++r) {
      different += plane.codes.at(r, stored) != codes[r * w.cols() + c] + offset;
    }
  }
  EXPECT_LE(static_cast<double>(different), 0.005 * static_cast<double>(w.size()));
  near(result.matrix.dequantize(), matrix_of(file.tensor("Q")), different == 0 ? 1e-5 : 1.0);
  const double golden = number("asym_output_sq_err");
  EXPECT_NEAR(output_error(exact, x, w, result.matrix.dequantize()), golden, 0.005 * golden);
  RecordProperty("different_codes", static_cast<int>(different));
}

// --- properties ----------------------------------------------------------------------------------

Matrix random_matrix(size_t rows, size_t cols, uint64_t seed) {
  Matrix x(rows, cols);
  RandomStream(seed, "drift").fill_normal(x.values(), 0, 1);
  return x;
}

// Inputs with correlated features, and the same with noise.
struct NoisyInputs {
  Matrix exact, quantized;

  NoisyInputs(size_t tokens, size_t features, uint64_t seed)
      : exact(random_matrix(tokens, features, seed)) {
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t f = 1; f < features; ++f) exact(t, f) += 0.8f * exact(t, f - 1);
    }
    quantized = exact;
    const Matrix noise = random_matrix(tokens, features, seed + 1);
    for (size_t i = 0; i < noise.size(); ++i) {
      quantized.values()[i] = 0.9f * quantized.values()[i] + 0.2f * noise.values()[i];
    }
  }
};

// The algorithm as its authors write it, column by column in double.
Matrix reference(const Matrix& w, const Streams& streams, const HessianFactor& factor, double alpha,
                 int bits, size_t block_size) {
  const size_t n = w.cols();
  const auto u = [&](size_t i, size_t j) {
    return i <= j ? static_cast<double>(factor.transposed_factor(j, i)) : 0.0;
  };
  DoubleMatrix product(n, n), p(n, n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i + 1; j < n; ++j) {
      for (size_t k = j; k < n; ++k) {
        product(i, j) += streams.cross(factor.order[i], factor.order[k]) * u(j, k);
      }
    }
    for (size_t j = 0; j < n; ++j) {
      for (size_t k = i + 1; k <= j; ++k) p(i, j) += alpha * product(i, k) * u(k, j);
    }
  }
  Matrix result(w.rows(), n);
  for (size_t r = 0; r < w.rows(); ++r) {
    double low = 0, high = 0;
    for (const float value : w.row(r)) {
      low = std::min<double>(low, value);
      high = std::max<double>(high, value);
    }
    const double levels = (1 << bits) - 1, scale = (high - low) / levels;
    const double zero = std::nearbyint(-low / scale);
    std::vector<double> v(n);
    for (size_t i = 0; i < n; ++i) v[i] = w(r, factor.order[i]);
    for (size_t i = 0; i < n; ++i) {
      const double before = v[i];
      const double q =
          scale * (std::clamp(std::nearbyint(before / scale) + zero, 0.0, levels) - zero);
      for (size_t j = i + 1; j < n; ++j) {
        const bool same_block = i / block_size == j / block_size;
        v[j] += -(before - q) / u(i, i) * u(i, j) + (same_block ? before : q) * p(i, j);
      }
      result(r, factor.order[i]) = static_cast<float>(q);
    }
  }
  return result;
}

TEST(InputDriftTest, FeedbackFollowsTheAuthorsColumnByColumn) {
  for (const size_t block_size : {16, 40, 200}) {
    for (const auto order : {ColumnOrder::none, ColumnOrder::fixed}) {
      const NoisyInputs inputs(500, 150, 3);
      const Matrix w = random_matrix(70, 150, 5);
      const Streams streams(inputs.exact, inputs.quantized, 1, 0.01);
      const HessianFactor factor = factorize_hessian(streams.hessian.view(), 0, {.order = order});
      const auto grid = grid_from_options(
          "uniform", {{"bits", "3"}, {"group_size", "-1"}, {"scale_dtype", "f32"}});
      const InputDrift drift = input_drift(streams.cross.view(), factor, 0.5);
      const Matrix have =
          quantize_with_feedback(*grid, w.view(), factor, {.block_size = block_size}, &drift)
              .matrix.dequantize();
      const Matrix want = reference(w, streams, factor, 0.5, 3, block_size);
      size_t different = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        different += std::fabs(have.values()[i] - want.values()[i]) > 1e-3;
      }
      EXPECT_LE(static_cast<double>(different), 0.005 * static_cast<double>(want.size()))
          << block_size;
    }
  }
}

TEST(InputDriftTest, NoDriftIsPlainErrorFeedback) {
  const NoisyInputs inputs(300, 96, 7);
  const Matrix w = random_matrix(33, 96, 8);
  const auto grid = grid_from_options("uniform", {{"bits", "2"}, {"group_size", "32"}});
  const Streams drifting(inputs.exact, inputs.quantized, 1, 1);
  const Streams still(inputs.quantized, inputs.quantized, 1, 1);
  const HessianFactor factor = factorize_hessian(drifting.hessian.view(), 0, {});
  const QuantizedMatrix plain = quantize_with_feedback(*grid, w.view(), factor, {}).matrix;
  const InputDrift nothing = input_drift(drifting.cross.view(), factor, 0);
  EXPECT_EQ(quantize_with_feedback(*grid, w.view(), factor, {}, &nothing).matrix, plain);
  const InputDrift none = input_drift(still.cross.view(), factor, 1);
  EXPECT_EQ(quantize_with_feedback(*grid, w.view(), factor, {}, &none).matrix, plain);
}

TEST(InputDriftTest, LowersTheErrorOfTheOutputsAndKeepsItsCodesUnderScaling) {
  const auto grid = grid_from_options("uniform", {{"bits", "4"}, {"group_size", "-1"}});
  double with = 0, without = 0;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const NoisyInputs inputs(400, 64, 100 + 3 * seed);
    const Matrix w = random_matrix(16, 64, 200 + seed);
    const Streams streams(inputs.exact, inputs.quantized, 1, 1);
    const HessianFactor factor = factorize_hessian(streams.hessian.view(), 0, {});
    const InputDrift drift = input_drift(streams.cross.view(), factor, 1);
    const auto fed = quantize_with_feedback(*grid, w.view(), factor, {}, &drift).matrix;
    const auto plain = quantize_with_feedback(*grid, w.view(), factor, {}).matrix;
    with += output_error(inputs.exact, inputs.quantized, w, fed.dequantize());
    without += output_error(inputs.exact, inputs.quantized, w, plain.dequantize());
    // A power of two changes no rounding.
    const Streams scaled(inputs.exact, inputs.quantized, 1, 4);
    const HessianFactor other = factorize_hessian(scaled.hessian.view(), 0, {});
    const InputDrift again = input_drift(scaled.cross.view(), other, 1);
    EXPECT_EQ(quantize_with_feedback(*grid, w.view(), other, {}, &again).matrix, fed);
  }
  EXPECT_LT(with, 0.9 * without);
}

TEST(InputDriftTest, DoesNotDependOnTheNumberOfThreads) {
  const size_t threads = thread_count();
  const NoisyInputs inputs(600, 200, 11);
  const Matrix w = random_matrix(130, 200, 12);
  const auto grid = grid_from_options("uniform", {{"bits", "3"}, {"group_size", "64"}});
  std::vector<QuantizedMatrix> results;
  for (const size_t count : {1, 3}) {
    set_thread_count(count);
    const Streams streams(inputs.exact, inputs.quantized, 2, 1);
    const HessianFactor factor = factorize_hessian(streams.hessian.view(), 0, {});
    const InputDrift drift = input_drift(streams.cross.view(), factor, 0.25);
    results.push_back(quantize_with_feedback(*grid, w.view(), factor, {}, &drift).matrix);
  }
  set_thread_count(threads);
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace fewbit
