#include "fewbit/formats/error_feedback.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "fewbit/base/error.h"
#include "fewbit/base/random.h"
#include "fewbit/base/threads.h"
#include "fewbit/formats/codebook_grid.h"
#include "fewbit/formats/format_registry.h"
#include "fewbit/formats/hessian.h"
#include "fewbit/formats/uniform_grid.h"
#include "fewbit/testing/fixture.h"
#include "hwy/highway.h"

namespace fewbit {
namespace {

using Options = std::map<std::string, std::string>;

Matrix matrix_of(const TensorView& tensor) {
  return Matrix(tensor.shape.at(0), tensor.shape.at(1), to_floats(tensor));
}

Matrix random_weights(size_t rows, size_t cols, uint64_t seed) {
  Matrix w(rows, cols);
  RandomStream(seed, "weights").fill_normal(w.values(), 0, 1);
  return w;
}

// Inputs whose features are correlated and of unequal size.
Matrix random_inputs(size_t tokens, size_t features, uint64_t seed) {
  RandomStream random(seed, "inputs");
  Matrix x(tokens, features);
  for (size_t t = 0; t < tokens; ++t) {
    double walk = random.normal();
    for (size_t f = 0; f < features; ++f) {
      walk = 0.8 * walk + random.normal();
      const double size = 0.3 + static_cast<double>(f * 37 % 11) / 4;
      x(t, f) = static_cast<float>(size * walk);
    }
  }
  return x;
}

DoubleMatrix hessian_of(const Matrix& x, double scale = 2) {
  HessianAccumulator accumulator(x.cols());
  accumulator.add(x.view());
  return accumulator.symmetric(scale);
}

DoubleMatrix random_hessian(size_t features, uint64_t seed) {
  return hessian_of(random_inputs(3 * features, features, seed));
}

// The damped Hessian that the factor belongs to.
DoubleMatrix damped(DoubleMatrix h, double damping) {
  double mean = 0;
  for (size_t j = 0; j < h.rows(); ++j) {
    if (h(j, j) == 0) h(j, j) = 1;
    mean += h(j, j) / static_cast<double>(h.rows());
  }
  for (size_t j = 0; j < h.rows(); ++j) h(j, j) += damping * mean;
  return h;
}

Matrix without_dead(Matrix w, const HessianFactor& factor) {
  for (size_t r = 0; r < w.rows(); ++r) {
    for (size_t c = 0; c < w.cols(); ++c) {
      if (factor.dead[c]) w(r, c) = 0;
    }
  }
  return w;
}

struct Solved {
  HessianFactor factor;
  ErrorFeedbackResult result;
  Matrix dense;
};

Solved solve(const Grid& grid, const Matrix& w, const DoubleMatrix& h,
             const HessianFactorOptions& factor_options = {},
             const ErrorFeedbackOptions& options = {}) {
  Solved solved;
  const size_t group_size = grid.begin(w.rows(), w.cols())->shape().group_size;
  solved.factor = factorize_hessian(h.view(), group_size, factor_options);
  solved.result = quantize_with_feedback(grid, w.view(), solved.factor, options);
  solved.dense = solved.result.matrix.dequantize();
  return solved;
}

double objective(const Matrix& w, const Matrix& q, const DoubleMatrix& h) {
  return feedback_objective(w.view(), q.view(), h.view());
}

std::unique_ptr<Grid> uniform(Options options) {
  options.try_emplace("scale_dtype", "f32");
  return grid_from_options("uniform", options);
}

// --- fixture -------------------------------------------------------------------------------------

FEWBIT_FIXTURE_TEST(GptqFixture, "gptq", ".safetensors") {
  const SafetensorsFile file = SafetensorsFile::open(path());
  const auto flag = [&](const char* key) { return file.metadata(key) == "True"; };
  const auto number = [&](const char* key) { return std::stod(file.metadata(key)); };
  const Matrix w = matrix_of(file.tensor("W"));
  const size_t rows = w.rows(), cols = w.cols();

  // The Hessian, batch by batch.
  const Matrix x = matrix_of(file.tensor("X"));
  HessianAccumulator accumulator(cols);
  const auto batches = static_cast<size_t>(number("n_batches"));
  for (size_t b = 0; b < batches; ++b) {
    accumulator.add(x.view().rows_from(b * x.rows() / batches, x.rows() / batches));
  }
  const DoubleMatrix h = accumulator.symmetric(2 / number("n_batches"));
  const auto near = [](auto&& actual, const Matrix& expected, double relative) {
    double largest = 0, off = 0;
    for (size_t r = 0; r < expected.rows(); ++r) {
      for (size_t c = 0; c < expected.cols(); ++c) {
        largest = std::max<double>(largest, std::fabs(expected(r, c)));
        off = std::max<double>(off, std::fabs(actual(r, c) - expected(r, c)));
      }
    }
    EXPECT_LE(off, relative * largest);
  };
  near(h, matrix_of(file.tensor("H")), 1e-5);

  const auto grid = uniform({{"bits", file.metadata("bits")},
                             {"group_size", file.metadata("group_size")},
                             {"symmetry", flag("sym") ? "sym_offset" : "asymmetric"},
                             {"clip", flag("mse") ? "mse" : "none"}});
  HessianFactorOptions factor_options{.damping = number("percdamp")};
  if (flag("act_order")) {
    factor_options.order = flag("static_groups") ? ColumnOrder::fixed : ColumnOrder::dynamic;
  }
  for (const auto when : {GroupGrids::stale, GroupGrids::fresh}) {
    ErrorFeedbackOptions options{
        .group_grids = flag("static_groups") ? GroupGrids::beforehand : when,
        .block_size = static_cast<size_t>(number("block_size"))};
    const auto [factor, result, dense] = solve(*grid, w, h, factor_options, options);
    EXPECT_EQ(result.outcome, FactorOutcome::solved);

    // Visiting order, except for ties of dead columns.
    const auto perm = to_integers(file.tensor("perm"));
    for (size_t i = 0; i < cols; ++i) {
      if (factor.dead[factor.order[i]]) continue;
      EXPECT_EQ(factor.order[i], perm[i]) << i;
    }
    near([&](size_t r, size_t c) { return factor.transposed_factor(c, r); },
         matrix_of(file.tensor("U")), 1e-5);

    const auto& plane = std::get<UniformPlane>(result.matrix.terms().at(0).plane);
    const auto stored_column = [&](size_t column) {
      if (result.matrix.input().is_identity()) return column;
      return static_cast<size_t>(std::find(factor.order.begin(), factor.order.end(), column) -
                                 factor.order.begin());
    };
    const auto codes = to_integers(file.tensor("codes"));
    const auto g_idx = to_integers(file.tensor("g_idx"));
    const double trace = objective(without_dead(w, factor), dense, h);
    const double golden = number("objective_trace");
    const bool fresh_differs = when == GroupGrids::fresh && !flag("static_groups") &&
                               plane.group_size < options.block_size;
    if (fresh_differs) {
      EXPECT_NEAR(trace, golden, 0.1 * golden);
    } else {
      EXPECT_NEAR(trace, golden, 0.005 * golden);
      size_t different = 0;
      for (size_t c = 0; c < cols; ++c) {
        const size_t stored = stored_column(c);
        EXPECT_EQ(static_cast<int64_t>(stored / plane.group_size), g_idx[c]);
        for (size_t r = 0; r < rows; ++r) {
          different += plane.codes.at(r, stored) != codes[r * cols + c];
        }
      }
      EXPECT_LE(static_cast<double>(different), 0.005 * static_cast<double>(w.size()));
      near([&](size_t r, size_t g) { return plane.scale(r, g); }, matrix_of(file.tensor("scale")),
           1e-3);
      EXPECT_NEAR(result.loss, number("loss_sum"), 0.005 * number("loss_sum"));
    }
    const double identity =
        objective(without_dead(w, factor), dense, damped(h, factor_options.damping)) / 2;
    EXPECT_NEAR(result.loss, identity, 1e-5 * identity);
    EXPECT_LT(trace, number("rtn_objective_trace"));
  }
}

// --- properties ----------------------------------------------------------------------------------

struct Variant {
  std::string name;
  std::string format;
  Options grid;
  ColumnOrder order = ColumnOrder::none;
  GroupGrids when = GroupGrids::fresh;
};

std::vector<Variant> variants() {
  return {
      {"rows", "uniform", {{"group_size", "-1"}, {"bits", "3"}}},
      {"fresh", "uniform", {{"group_size", "24"}, {"bits", "2"}, {"clip", "mse"}}},
      {"fresh long", "uniform", {{"group_size", "100"}, {"bits", "2"}}},
      {"stale",
       "uniform",
       {{"group_size", "24"}, {"bits", "3"}},
       ColumnOrder::none,
       GroupGrids::stale},
      {"static", "uniform", {{"group_size", "32"}, {"bits", "3"}}, ColumnOrder::fixed},
      {"dynamic", "uniform", {{"group_size", "24"}, {"bits", "4"}}, ColumnOrder::dynamic},
      {"gar", "uniform", {{"group_size", "24"}, {"bits", "3"}}, ColumnOrder::gar},
      {"symmetric", "uniform", {{"group_size", "32"}, {"bits", "4"}, {"symmetry", "sym_signed"}}},
      {"nf4", "nf4", {{"block_size", "20"}}},
      {"nf4 across rows", "nf4", {{"block_size", "64"}}},
      {"nf4 twice", "nf4", {{"double_quant", "true"}}, ColumnOrder::dynamic},
      {"af4 gar", "af4", {{"block_size", "20"}, {"blocks", "rows"}}, ColumnOrder::gar},
  };
}

TEST(ErrorFeedbackTest, LossIsHalfTheDampedObjective) {
  const Matrix w = random_weights(70, 140, 1);
  DoubleMatrix h = random_hessian(140, 1);
  for (size_t k = 0; k < 140; ++k) h(17, k) = h(k, 17) = 0;
  for (const Variant& v : variants()) {
    const auto grid = grid_from_options(v.format, v.grid);
    const Solved s = solve(*grid, w, h, {.order = v.order}, {.group_grids = v.when});
    EXPECT_EQ(s.result.dead_columns, 1u);
    const double expected = objective(without_dead(w, s.factor), s.dense, damped(h, 0.01)) / 2;
    EXPECT_NEAR(s.result.loss, expected, 1e-5 * expected) << v.name;
    for (size_t r = 0; r < w.rows(); ++r) EXPECT_EQ(s.dense(r, 17), 0) << v.name;
  }
}

TEST(ErrorFeedbackTest, EqualsRoundToNearestUnderADiagonalHessian) {
  const Matrix w = random_weights(40, 100, 2);
  DoubleMatrix h(100, 100);
  for (size_t j = 0; j < 100; ++j) h(j, j) = 1 + static_cast<double>(j * 7 % 13);
  for (const Variant& v : variants()) {
    if (v.order == ColumnOrder::dynamic) continue;  // Other columns share a group.
    const auto grid = grid_from_options(v.format, v.grid);
    const Solved s =
        solve(*grid, w, h, {.damping = 0.3, .order = v.order}, {.group_grids = v.when});
    EXPECT_EQ(s.result.matrix, quantize_to_nearest(*grid, w.view())) << v.name;
  }
}

TEST(ErrorFeedbackTest, LowersTheObjectiveOfRoundToNearest) {
  for (const Variant& v : variants()) {
    double feedback = 0, nearest = 0;
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const Matrix w = random_weights(16, 120, seed);
      const DoubleMatrix h = random_hessian(120, seed);
      const auto grid = grid_from_options(v.format, v.grid);
      const Solved s = solve(*grid, w, h, {.order = v.order}, {.group_grids = v.when});
      feedback += objective(w, s.dense, h);
      nearest += objective(w, quantize_to_nearest(*grid, w.view()).dequantize(), h);
    }
    EXPECT_LT(feedback, nearest) << v.name;
  }
}

TEST(ErrorFeedbackTest, FreshGridsWithSearchBeatStaleOnes) {
  for (const char* bits : {"2", "3", "4"}) {
    double fresh = 0, stale = 0;
    for (uint64_t seed = 0; seed < 8; ++seed) {
      const Matrix w = random_weights(64, 128, seed);
      const DoubleMatrix h = random_hessian(128, seed);
      const auto searched = uniform({{"bits", bits}, {"group_size", "32"}, {"clip", "mse"}});
      const auto plain = uniform({{"bits", bits}, {"group_size", "32"}});
      fresh += objective(w, solve(*searched, w, h).dense, h);
      stale += objective(w, solve(*plain, w, h, {}, {.group_grids = GroupGrids::stale}).dense, h);
    }
    EXPECT_LT(fresh, stale) << bits << " bits";
  }
}

TEST(ErrorFeedbackTest, BlockSizeChangesOnlyStaleGrids) {
  const Matrix w = random_weights(64, 256, 4);
  const DoubleMatrix h = random_hessian(256, 4);
  const auto agree = [&](const Grid& grid, ColumnOrder order, GroupGrids when) {
    const Solved a = solve(grid, w, h, {.order = order}, {.group_grids = when, .block_size = 32});
    const Solved b = solve(grid, w, h, {.order = order}, {.group_grids = when, .block_size = 96});
    size_t equal = 0;
    for (size_t i = 0; i < w.size(); ++i) {
      equal += std::fabs(a.dense.values()[i] - b.dense.values()[i]) < 1e-5f;
    }
    return static_cast<double>(equal) / static_cast<double>(w.size());
  };
  const auto rows = uniform({{"bits", "3"}, {"group_size", "-1"}});
  const auto groups = uniform({{"bits", "3"}, {"group_size", "32"}});
  EXPECT_GT(agree(*rows, ColumnOrder::none, GroupGrids::stale), 0.995);
  EXPECT_GT(agree(*groups, ColumnOrder::fixed, GroupGrids::stale), 0.995);
  EXPECT_EQ(agree(*groups, ColumnOrder::none, GroupGrids::fresh), 1);
  EXPECT_LT(agree(*groups, ColumnOrder::none, GroupGrids::stale), 0.9);
}

TEST(ErrorFeedbackTest, ScalingTheHessianByAPowerOfTwoChangesNothing) {
  const Matrix w = random_weights(30, 100, 5);
  const DoubleMatrix h = random_hessian(100, 5);
  DoubleMatrix scaled = h;
  for (double& x : scaled.values()) x *= 64;
  for (const Variant& v : variants()) {
    const auto grid = grid_from_options(v.format, v.grid);
    const Solved a = solve(*grid, w, h, {.order = v.order}, {.group_grids = v.when});
    const Solved b = solve(*grid, w, scaled, {.order = v.order}, {.group_grids = v.when});
    EXPECT_EQ(a.result.matrix, b.result.matrix) << v.name;
  }
}

TEST(ErrorFeedbackTest, WeightsOnTheGridStay) {
  Matrix w(20, 96);
  for (size_t i = 0; i < w.size(); ++i) {
    w.values()[i] = 0.5f * static_cast<float>(i * 7 % 16) - 3;
  }
  const auto grid = uniform({{"bits", "4"}, {"group_size", "32"}});
  const Solved s = solve(*grid, w, random_hessian(96, 6));
  EXPECT_EQ(s.dense, w);
  EXPECT_EQ(s.result.loss, 0);
}

TEST(ErrorFeedbackTest, OrderByEqualDiagonalIsTheStoredOrder) {
  const Matrix w = random_weights(20, 96, 7);
  DoubleMatrix h = random_hessian(96, 7);
  for (size_t r = 0; r < 96; ++r) {
    for (size_t c = 0; c < 96; ++c) h(r, c) = r == c ? 1000 : h(r, c) / 10;
  }
  const auto grid = uniform({{"bits", "3"}, {"group_size", "32"}});
  const Solved plain = solve(*grid, w, h);
  EXPECT_EQ(plain.result.matrix, solve(*grid, w, h, {.order = ColumnOrder::dynamic}).result.matrix);
  EXPECT_EQ(plain.result.matrix, solve(*grid, w, h, {.order = ColumnOrder::gar}).result.matrix);
}

TEST(ErrorFeedbackTest, PermutedColumnsPermuteTheResultOfOneGroupPerRow) {
  const size_t cols = 96;
  const Matrix w = random_weights(20, cols, 8);
  const DoubleMatrix h = random_hessian(cols, 8);
  const auto order = RandomStream(8, "order").permutation(cols);
  Matrix moved(20, cols);
  DoubleMatrix moved_h(cols, cols);
  for (size_t i = 0; i < cols; ++i) {
    for (size_t r = 0; r < 20; ++r) moved(r, i) = w(r, order[i]);
    for (size_t k = 0; k < cols; ++k) moved_h(i, k) = h(order[i], order[k]);
  }
  const auto grid = uniform({{"bits", "3"}, {"group_size", "-1"}});
  const HessianFactorOptions options{.order = ColumnOrder::dynamic};
  const Solved a = solve(*grid, w, h, options), b = solve(*grid, moved, moved_h, options);
  size_t equal = 0;
  for (size_t i = 0; i < cols; ++i) {
    for (size_t r = 0; r < 20; ++r) equal += a.dense(r, order[i]) == b.dense(r, i);
  }
  EXPECT_GE(equal, w.size() * 99 / 100);
}

TEST(ErrorFeedbackTest, ResultsDoNotDependOnTheNumberOfThreads) {
  const size_t threads = thread_count();
  const Matrix w = random_weights(200, 300, 9), x = random_inputs(700, 300, 9);
  for (const Variant& v : variants()) {
    const auto grid = grid_from_options(v.format, v.grid);
    const auto run = [&](size_t count) {
      set_thread_count(count);
      return solve(*grid, w, hessian_of(x), {.order = v.order}, {.group_grids = v.when});
    };
    const Solved one = run(1), three = run(3);
    EXPECT_EQ(one.factor.transposed_factor, three.factor.transposed_factor) << v.name;
    EXPECT_EQ(one.result.matrix, three.result.matrix) << v.name;
    EXPECT_EQ(one.result.loss, three.result.loss) << v.name;
  }
  set_thread_count(threads);
}

TEST(ErrorFeedbackTest, EveryInstructionSetOfThisMachineAgrees) {
  const Matrix w = random_weights(70, 140, 18);
  const DoubleMatrix h = random_hessian(140, 18);
  for (const Variant& v : variants()) {
    const auto grid = grid_from_options(v.format, v.grid);
    const auto run = [&](int64_t target) {
      hwy::SetSupportedTargetsForTest(target);
      hwy::GetChosenTarget().Update(hwy::SupportedTargets());
      const Solved s = solve(*grid, w, h, {.order = v.order}, {.group_grids = v.when});
      return std::pair(quantize_to_nearest(*grid, w.view()), objective(w, s.dense, h));
    };
    const auto best = run(0);
    for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
      const auto other = run(target);
      const Matrix a = best.first.dequantize(), b = other.first.dequantize();
      size_t equal = 0;
      for (size_t i = 0; i < a.size(); ++i) equal += a.values()[i] == b.values()[i];
      // Sums in another order may choose another clipping, or correct another weight.
      EXPECT_GE(equal, v.grid.contains("clip") ? a.size() * 98 / 100 : a.size())
          << v.name << " " << hwy::TargetName(target);
      EXPECT_NEAR(other.second, best.second, 0.03 * best.second)
          << v.name << " " << hwy::TargetName(target);
    }
    run(0);
  }
}

TEST(ErrorFeedbackTest, EveryOrderWithoutDynamicNeedsNoPermutation) {
  const Matrix w = random_weights(10, 64, 10);
  for (const auto order : {ColumnOrder::none, ColumnOrder::fixed, ColumnOrder::gar}) {
    const Solved s =
        solve(*uniform({{"group_size", "32"}}), w, random_hessian(64, 10), {.order = order});
    EXPECT_TRUE(s.result.matrix.input().is_identity());
  }
  const Solved s = solve(*uniform({{"group_size", "32"}}), w, random_hessian(64, 10),
                         {.order = ColumnOrder::dynamic});
  EXPECT_EQ(std::get<Permutation>(s.result.matrix.input().steps.at(0)).order, s.factor.order);
}

TEST(ErrorFeedbackTest, ImportanceFromTheHessianReachesTheGrid) {
  const Matrix w = random_weights(64, 128, 11);
  const DoubleMatrix h = random_hessian(128, 11);
  const auto grid = uniform({{"bits", "2"}, {"group_size", "32"}, {"clip", "mse"}});
  for (const auto when : {GroupGrids::fresh, GroupGrids::stale, GroupGrids::beforehand}) {
    const Solved plain = solve(*grid, w, h, {}, {.group_grids = when});
    const Solved weighed = solve(*grid, w, h, {}, {.group_grids = when, .weigh_fit = true});
    EXPECT_NE(plain.result.matrix, weighed.result.matrix);
  }
}

// A grid of pairs of columns: both get one code, the sign of their sum.
class PairGrid final : public Grid {
 public:
  class Encoder final : public GridEncoder {
   public:
    Encoder(size_t rows, size_t cols)
        : GridEncoder(rows, cols),
          plane_(rows, cols, 1, 0, UniformPlane::ZeroPoint::integer, Dtype::f32) {}
    GridShape shape() const override { return {FitScope::row, cols_, 1, 2}; }
    void fit(size_t, Panel<const float> weights, std::span<const float>) override {
      for (size_t r = 0; r < weights.rows; ++r) plane_.scales.set(weights.first_row + r, 1);
    }
    void assign(size_t column, Panel<const float> values, Panel<float> decoded) override {
      for (size_t r = 0; r < values.rows; ++r) {
        const bool one = values.column(0)[r] + values.column(1)[r] > 1;
        for (size_t k = 0; k < 2; ++k) {
          decoded.column(k)[r] = one;
          codes_[{values.first_row + r, column + k}] = one;
        }
      }
    }
    QuantizedMatrix finish(Transform input) override {
      for (size_t r = 0; r < rows_; ++r) {
        std::vector<uint8_t> row(cols_);
        for (size_t c = 0; c < cols_; ++c) row[c] = codes_[{r, c}];
        plane_.codes.set_row(r, row);
      }
      return QuantizedMatrix(rows_, cols_, {{plane_}}, input);
    }

   private:
    UniformPlane plane_;
    std::map<std::pair<size_t, size_t>, uint8_t> codes_;
  };
  std::unique_ptr<GridEncoder> begin(size_t rows, size_t cols) const override {
    return std::make_unique<Encoder>(rows, cols);
  }
  std::string describe() const override { return "pairs"; }
};

TEST(ErrorFeedbackTest, TilesOfSeveralColumnsKeepTheLossIdentity) {
  const Matrix w = random_weights(20, 140, 12);
  const DoubleMatrix h = random_hessian(140, 12);
  for (const auto order : {ColumnOrder::none, ColumnOrder::dynamic}) {
    const Solved s = solve(PairGrid(), w, h, {.order = order});
    const double expected = objective(w, s.dense, damped(h, 0.01)) / 2;
    EXPECT_NEAR(s.result.loss, expected, 1e-5 * expected);
  }
  EXPECT_THROW(solve(PairGrid(), w, h, {.order = ColumnOrder::fixed}), Error);
}

// --- failures ------------------------------------------------------------------------------------

TEST(HessianFactorTest, FewerTokensThanFeaturesNeedOnlyDamping) {
  const DoubleMatrix h = hessian_of(random_inputs(10, 80, 13));
  const HessianFactor factor = factorize_hessian(h.view(), 0, {});
  EXPECT_EQ(factor.outcome, FactorOutcome::solved);
}

TEST(HessianFactorTest, RaisesDampingWhenTheFactorisationFails) {
  DoubleMatrix h = random_hessian(60, 14);
  double mean = 0;
  for (size_t j = 0; j < 60; ++j) mean += h(j, j) / 60;
  h(3, 3) = -0.05 * mean;
  const HessianFactor factor = factorize_hessian(h.view(), 0, {.damping = 0.01});
  EXPECT_EQ(factor.outcome, FactorOutcome::damped_more);
  EXPECT_GT(factor.damping, 0.05);
  EXPECT_THAT(factor.message, ::testing::HasSubstr("0.01"));
}

TEST(HessianFactorTest, RaisesTheDiagonalWhenDampingIsNotEnough) {
  DoubleMatrix h(8, 8);
  for (size_t j = 0; j < 8; ++j) h(j, j) = 1e-9;
  h(0, 0) = 1;
  h(7, 7) = -1;
  const HessianFactor factor = factorize_hessian(h.view(), 0, {});
  EXPECT_EQ(factor.outcome, FactorOutcome::damped_more);
  EXPECT_THAT(factor.message, ::testing::HasSubstr("maximum"));
}

TEST(HessianFactorTest, UselessHessiansGiveRoundToNearestAndSaySo) {
  const Matrix w = random_weights(10, 40, 15);
  const auto grid = uniform({{"group_size", "20"}});
  std::vector<DoubleMatrix> useless(2, random_hessian(40, 15));
  useless[0](3, 4) = NAN;
  for (size_t k = 0; k < 40; ++k) useless[1](k, (k + 1) % 40) = useless[1]((k + 1) % 40, k) = 1e12;
  for (const DoubleMatrix& h : useless) {
    const Solved s = solve(*grid, w, h, {.order = ColumnOrder::dynamic});
    EXPECT_EQ(s.result.outcome, FactorOutcome::not_factorised);
    EXPECT_FALSE(s.result.message.empty());
    EXPECT_EQ(s.result.matrix, quantize_to_nearest(*grid, w.view()));
  }
}

TEST(ErrorFeedbackTest, SharedFactorGivesTheSameResultAsTheHessian) {
  const Matrix w = random_weights(20, 100, 17);
  const DoubleMatrix h = random_hessian(100, 17);
  const auto grid = uniform({{"group_size", "25"}});
  const ErrorFeedbackOptions options{.damping = 0.05, .order = ColumnOrder::gar};
  EXPECT_EQ(quantize_with_feedback(*grid, w.view(), h.view(), options).matrix,
            solve(*grid, w, h, {.damping = 0.05, .order = ColumnOrder::gar}).result.matrix);
}

TEST(ErrorFeedbackTest, RefusesWhatDoesNotMatch) {
  const Matrix w = random_weights(4, 40, 16);
  const auto grid = uniform({{"group_size", "20"}});
  EXPECT_THROW(solve(*grid, w, random_hessian(41, 16)), Error);
  EXPECT_THROW(solve(*grid, w, DoubleMatrix(40, 39)), Error);
  Matrix bad = w;
  bad(1, 2) = INFINITY;
  EXPECT_THROW(solve(*grid, bad, random_hessian(40, 16)), Error);
  EXPECT_THROW(solve(*grid, w, random_hessian(40, 16), {.damping = -1}), Error);
  EXPECT_THROW(solve(*grid, w, random_hessian(40, 16), {}, {.block_size = 0}), Error);
}

}  // namespace
}  // namespace fewbit
