#include "fewbit/train/quantizer_level.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "fewbit/base/error.h"
#include "fewbit/train/fake_quant_testing.h"
#include "fewbit/train/quantizer_rules.h"

namespace fewbit {
namespace {

using testing::largest_difference;
using testing::leaf;
using testing::parameter;
using testing::relative_difference;
using testing::same_values;
using testing::set_values;

const char* const kAllBits[] = {"1", "1.58", "2", "3", "4"};

class ParetoQTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::manual_seed(1);
    weight_ = at::randn({kRows, kCols});
  }
  static std::unique_ptr<FakeQuant> make(const char* bits, const at::Tensor& weight) {
    LevelQuantizer quantizer =
        paretoq_quantizer(bits, ScaleGroups::per_row(weight.size(0), weight.size(1)));
    return make_level_fake_quant(quantizer, weight);
  }

  static constexpr int64_t kRows = 8, kCols = 96;
  at::Tensor weight_;
};

TEST_F(ParetoQTest, LevelCountsAreExact) {
  const size_t expected[] = {2, 3, 4, 8, 16};
  // A row dense enough to reach every level, with its maximum on both sides.
  const at::Tensor weight = at::linspace(-1, 1, 4001).reshape({1, -1});
  for (size_t i = 0; i < std::size(kAllBits); ++i) {
    const auto quantizer = make(kAllBits[i], weight);
    if (i >= 3) {  // max / P leaves the lowest level to weights beyond the maximum.
      const at::Tensor scale = parameter(*quantizer, "scale");
      set_values(scale, scale.detach() * 0.8);
    }
    const at::Tensor out = quantizer->forward(weight).contiguous();
    const std::set<float> levels(out.data_ptr<float>(), out.data_ptr<float>() + out.numel());
    EXPECT_EQ(levels.size(), expected[i]) << kAllBits[i];
    const at::Tensor codes = quantizer->codes(weight);
    EXPECT_EQ(codes.min().item<int64_t>(), 0);
    EXPECT_EQ(codes.max().item<int64_t>(), static_cast<int64_t>(expected[i]) - 1);
  }
}

TEST_F(ParetoQTest, PowersOfTwoScaleTheResultExactly) {
  for (const char* bits : kAllBits) {
    const auto one = make(bits, weight_), four = make(bits, weight_ * 4);
    EXPECT_TRUE(same_values(one->forward(weight_) * 4, four->forward(weight_ * 4))) << bits;
    EXPECT_TRUE(same_values(one->codes(weight_), four->codes(weight_ * 4))) << bits;
  }
}

TEST_F(ParetoQTest, PermutedRowsGivePermutedResults) {
  const at::Tensor order = at::randperm(kRows);
  for (const char* bits : kAllBits) {
    const at::Tensor moved = weight_.index_select(0, order);
    EXPECT_TRUE(same_values(make(bits, moved)->forward(moved),
                            make(bits, weight_)->forward(weight_).index_select(0, order)));
  }
}

TEST_F(ParetoQTest, NegatedWeightsGiveNegatedResultsUpToTwoBits) {
  for (const char* bits : kAllBits) {
    const auto quantizer = make(bits, weight_);
    if (levels_of_bits(bits) > 4) {
      const at::Tensor scale = parameter(*quantizer, "scale");
      set_values(scale, scale.detach() * 0.3);  // So that something is clipped.
    }
    const bool odd = same_values(quantizer->forward(-weight_), -quantizer->forward(weight_));
    EXPECT_EQ(odd, levels_of_bits(bits) <= 4) << bits;
  }
}

TEST_F(ParetoQTest, QuantizingTwiceChangesNothing) {
  for (const char* bits : kAllBits) {
    const auto quantizer = make(bits, weight_);
    const at::Tensor once = quantizer->forward(weight_).detach();
    EXPECT_TRUE(same_values(quantizer->forward(once), once)) << bits;
  }
}

TEST_F(ParetoQTest, WeightsOnTheGridPassTheirGradientAndLeaveTheScaleAlone) {
  for (const char* bits : {"1.58", "2", "3", "4"}) {
    const auto quantizer = make(bits, weight_);
    const at::Tensor scale = parameter(*quantizer, "scale");
    // Rounding may put the outermost level just outside its own bound.
    const at::Tensor on_grid = leaf(quantizer->forward(weight_ * 0.8));
    const at::Tensor gradient = at::randn_like(on_grid);
    quantizer->forward(on_grid).backward(gradient);
    EXPECT_TRUE(same_values(on_grid.grad(), gradient)) << bits;
    EXPECT_LT(scale.grad().abs().max().item<double>(), 1e-6) << bits;
  }
}

TEST_F(ParetoQTest, ScaleGradientShrinksWithTheRootOfTheElements) {
  for (const char* bits : kAllBits) {
    const auto factor = [&](int64_t rows, int64_t cols) {
      return paretoq_quantizer(bits, ScaleGroups::per_row(rows, cols)).rule.gradient.factor;
    };
    EXPECT_DOUBLE_EQ(factor(64, 32), factor(16, 32) / 2);
    EXPECT_DOUBLE_EQ(factor(64, 32), factor(32, 64));
  }
}

// At fixed codes the gradient of a scale is the sum of level G, which differences confirm.
TEST_F(ParetoQTest, FrozenCodesGiveTheExactGradientOfTheScale) {
  const at::Tensor weight = weight_.to(at::kDouble), gradient = at::randn_like(weight);
  for (const char* bits : kAllBits) {
    LevelQuantizer options = paretoq_quantizer(bits, ScaleGroups::per_row(kRows, kCols));
    const auto frozen = freeze_codes(*make_level_fake_quant(options, weight), weight);
    const at::Tensor scale = parameter(*frozen, "scale"), start = scale.detach().clone();
    frozen->forward(weight).backward(gradient);
    const auto loss = [&](double shift) {
      set_values(scale, start + shift);
      return (frozen->forward(weight).detach() * gradient).sum(1, true);
    };
    constexpr double kStep = 1e-4;
    const at::Tensor numeric = (loss(kStep) - loss(-kStep)) / (2 * kStep);
    EXPECT_LT(largest_difference(scale.grad(), numeric), 1e-8) << bits;
  }
}

TEST_F(ParetoQTest, StartsFromTheStatisticOfItsWidth) {
  const at::Tensor magnitude = weight_.abs();
  const auto start = [&](const char* bits) {
    return parameter(*make(bits, weight_), "scale").detach();
  };
  EXPECT_LT(largest_difference(start("1"), magnitude.mean(1, true)), 1e-6);
  EXPECT_TRUE(same_values(start("1.58"), magnitude.amax(1, true)));
  EXPECT_TRUE(same_values(start("2"), magnitude.amax(1, true)));
  EXPECT_LT(largest_difference(start("3"), magnitude.amax(1, true) / 3), 1e-6);
  EXPECT_LT(largest_difference(start("4"), magnitude.amax(1, true) / 7), 1e-6);
}

TEST_F(ParetoQTest, LeastSquaresStartReachesTheOptimumOfNormalWeights) {
  const at::Tensor weight = at::randn({64, 512});
  // Relative errors of the best scale for a normal distribution.
  const double best[] = {0.363, 0.190, 0.119, 0.041, 0.012};
  for (size_t i = 0; i < std::size(kAllBits); ++i) {
    LevelQuantizer options = paretoq_quantizer(kAllBits[i], ScaleGroups::per_row(64, 512));
    options.least_squares = true;
    const at::Tensor out = make_level_fake_quant(options, weight)->forward(weight).detach();
    const double error = ((out - weight).square().sum() / weight.square().sum()).item<double>();
    EXPECT_NEAR(error / best[i], 1, 0.08) << kAllBits[i];
    options.least_squares = false;
    const at::Tensor plain = make_level_fake_quant(options, weight)->forward(weight).detach();
    EXPECT_LE(error, ((plain - weight).square().sum() / weight.square().sum()).item<double>());
  }
}

TEST_F(ParetoQTest, LogScaleStepsAreRelative) {
  LevelQuantizer options = paretoq_quantizer("2", ScaleGroups::per_row(kRows, kCols));
  const auto plain = make_level_fake_quant(options, weight_);
  options.scale = LevelQuantizer::Scale::learned_log;
  const auto log = make_level_fake_quant(options, weight_);
  const at::Tensor gradient = at::randn_like(weight_);
  const at::Tensor scale = parameter(*plain, "scale"), exponent = parameter(*log, "log_scale");
  plain->forward(weight_).backward(gradient);
  log->forward(weight_).backward(gradient);
  EXPECT_LT(relative_difference(exponent.grad(), scale.detach() * scale.grad()), 1e-3);
}

TEST_F(ParetoQTest, TrainingLowersTheLossOfRoundToNearest) {
  const at::Tensor x = at::randn({256, kCols}), target = at::matmul(x, weight_.t());
  for (const char* bits : kAllBits) {
    const at::Tensor weight = leaf(weight_);
    const auto quantizer = make(bits, weight_);
    testing::Training training({.weight_decay = 0, .clip_norm = 0});
    training.add(weight, false);
    for (const auto& [name, tensor] : quantizer->parameters()) training.add(tensor, false);
    double first = 0, last = 0;
    constexpr int kSteps = 60;
    for (int step = 0; step < kSteps; ++step) {
      const at::Tensor loss =
          (at::matmul(x, quantizer->forward(weight).t()) - target).square().mean();
      loss.backward();
      last = loss.item<double>();
      if (step == 0) first = last;
      training.step(0.01 * (kSteps - step) / kSteps);
    }
    EXPECT_LT(last, first) << bits;
  }
}

TEST(LsqTest, StepShrinksWhenNothingIsClippedAndGrowsWhenMostIs) {
  at::manual_seed(4);
  const at::Tensor weight = at::randn({4, 64});
  const auto gradient_at = [&](double step) {
    const auto quantizer =
        make_level_fake_quant(lsq_quantizer(4, ScaleGroups::per_matrix(4, 64)), weight);
    const at::Tensor scale = parameter(*quantizer, "scale");
    set_values(scale, at::full({1}, step));
    const at::Tensor out = quantizer->forward(weight);
    out.backward((out - weight).detach());
    return scale.grad().item<double>();
  };
  EXPECT_GT(gradient_at(1.0), 0);
  EXPECT_LT(gradient_at(0.01), 0);
}

TEST(LsqTest, ZeroTensorHasNoStepGradient) {
  const at::Tensor weight = at::zeros({2, 16});
  const auto quantizer =
      make_level_fake_quant(lsq_quantizer(3, ScaleGroups::per_row(2, 16)), weight);
  quantizer->forward(weight).backward(at::ones({2, 16}));
  EXPECT_EQ(parameter(*quantizer, "scale").grad().abs().max().item<double>(), 0);
}

TEST(LsqTest, EqualsParetoQAwayFromTheBounds) {
  at::manual_seed(6);
  const at::Tensor w = at::randn({3, 50}), gradient = at::randn({3, 50});
  const auto run = [&](const LevelRule& rule) {
    const at::Tensor x = leaf(w), a = leaf(at::full({3, 1}, 0.37));
    const at::Tensor out = level_fake_quant(x, a, at::Tensor(), rule);
    out.backward(gradient);
    return std::vector<at::Tensor>{out, x.grad(), a.grad() / rule.gradient.factor};
  };
  const auto lsq = run(lsq_rule(signed_grid(3), 50)), paretoq = run(paretoq_lsq_rule(3, 150));
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(same_values(lsq[i], paretoq[i]));
  EXPECT_LT(relative_difference(lsq[2], paretoq[2]), 1e-6);
}

TEST(AbsmeanTest, IsNotIdempotentUnlessNoWeightIsZero) {
  constexpr float kMagnitude = 0.25f;
  const at::Tensor signs = at::tensor({1.f, -1.f, 1.f, -1.f, 1.f, 1.f, -1.f, -1.f}).reshape({2, 4});
  const ScaleGroups groups = ScaleGroups::per_matrix(2, 4);
  const auto forward = [&](const at::Tensor& w) {
    return make_level_fake_quant(absmean_quantizer(groups), w)->forward(w);
  };
  EXPECT_TRUE(same_values(forward(signs * kMagnitude), signs * kMagnitude));
  at::Tensor holed = signs * kMagnitude;
  holed.select(1, 0).zero_();  // A quarter of them: the scale shrinks by as much.
  EXPECT_TRUE(same_values(forward(holed), holed * 0.75));
}

TEST(AbsmeanTest, PowersOfTwoLeaveTheCodes) {
  at::manual_seed(8);
  const at::Tensor w = at::randn({6, 20});
  const auto quantizer =
      make_level_fake_quant(absmean_quantizer(ScaleGroups::per_matrix(6, 20)), w);
  EXPECT_TRUE(same_values(quantizer->codes(w), quantizer->codes(w * 4)));
}

TEST(TrilmTest, ZeroMatrixIsFinite) {
  const at::Tensor w = at::zeros({4, 8});
  const auto quantizer = make_level_fake_quant(trilm_quantizer(ScaleGroups::per_matrix(4, 8)), w);
  EXPECT_TRUE(same_values(quantizer->forward(w), w));
  EXPECT_TRUE(same_values(quantizer->quantize(w).integers(), w));
}

TEST(TrilmTest, ShardsEqualTheirOwnMatrices) {
  at::manual_seed(12);
  const at::Tensor w = at::randn({6, 16});
  const auto forward = [](const at::Tensor& part, int64_t shards) {
    const auto groups = ScaleGroups::per_matrix(part.size(0), part.size(1), shards);
    return make_level_fake_quant(trilm_quantizer(groups), part)->forward(part);
  };
  const at::Tensor parts = at::cat(
      {forward(w.slice(0, 0, 2), 1), forward(w.slice(0, 2, 4), 1), forward(w.slice(0, 4, 6), 1)});
  EXPECT_TRUE(same_values(forward(w, 3), parts));
  EXPECT_FALSE(same_values(forward(w, 1), parts));
}

TEST(ScaleGroupsTest, RefusesWhatDoesNotDivide) {
  EXPECT_THROW(ScaleGroups::per_group(4, 10, 3), Error);
  EXPECT_THROW(ScaleGroups::per_group(4, 10, 0), Error);
  EXPECT_THROW(ScaleGroups::per_matrix(4, 10, 3), Error);
  EXPECT_THROW(ScaleGroups::per_row(4, 10).split(at::zeros({4, 11})), Error);
}

}  // namespace
}  // namespace fewbit
